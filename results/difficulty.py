"""Accuracy by difficulty: what tasks that grade their questions log as ``val/accuracy/<what>_<value>``, one table for all runs."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from resbench.harness.names import VAL_ACCURACY
from resbench.harness.store import open_store

GRADED = re.compile(re.escape(VAL_ACCURACY) + r"/(?P<what>.+)_(?P<value>\d+)")


def load_accuracies(tracking_uri: str, run_ids: Sequence[str]) -> pd.DataFrame:
    """The last accuracy of each run at each difficulty: columns `run_id`, `what` (hops, length, ...), `difficulty` and `accuracy`."""
    client = open_store(tracking_uri, must_exist=True)
    rows = [
        (run_id, found["what"], int(found["value"]), value)
        for run_id in run_ids
        for key, value in client.get_run(run_id).data.metrics.items()
        if (found := GRADED.fullmatch(key)) is not None
    ]
    table = pd.DataFrame(rows, columns=["run_id", "what", "difficulty", "accuracy"])
    table = table.astype({"run_id": "string", "what": "string", "difficulty": "int64", "accuracy": "float64"})
    return table.sort_values(["run_id", "what", "difficulty"], ignore_index=True)
