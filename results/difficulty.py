"""Accuracy by difficulty: what tasks that grade their questions log as ``val/accuracy/<what>_<value>``, one table for all runs."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from resbench.harness.names import VAL_ACCURACY
from resbench.results.source import Where, open_source

GRADED = re.compile(re.escape(VAL_ACCURACY) + r"/(?P<what>.+)_(?P<value>\d+)")


def load_accuracies(where: Where, run_ids: Sequence[str]) -> pd.DataFrame:
    """The last accuracy of each run at each difficulty: columns `run_id`, `what` (hops, length, ...), `difficulty` and `accuracy`."""
    wanted = set(run_ids)
    rows = [
        (run.run_id, found["what"], int(found["value"]), value)
        for run in open_source(where).runs()
        if run.run_id in wanted
        for key, value in run.metrics.items()
        if (found := GRADED.fullmatch(key)) is not None
    ]
    table = pd.DataFrame(rows, columns=["run_id", "what", "difficulty", "accuracy"])
    table = table.astype({"run_id": "string", "what": "string", "difficulty": "int64", "accuracy": "float64"})
    return table.sort_values(["run_id", "what", "difficulty"], ignore_index=True)
