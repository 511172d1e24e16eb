"""Making a submission from the runs of a study: the runs that the leaderboard would count, complete or not."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from resbench.results.runs import FINAL, ranked_runs
from resbench.results.submission.plausible import implausible
from resbench.results.submission.reading import Refused, parse_submission, validated
from resbench.results.submission.schema import SCHEMA, SubmittedRun, digest_of


def make_submission(
    runs: pd.DataFrame,
    study: str,
    submitter: str,
    devices: int = 1,
    configs: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """The text of a submission file, which has passed every check that it will meet.

    Args:
        runs: of `load_runs`, of the study.
        study, submitter: names; see the schema for what may be in them.
        devices: accelerators that each run used.
        configs: of `load_configs`; without a run's configuration nobody can run it again.

    Raises `Refused` with the reasons when the runs would not be accepted.
    """
    ranked = ranked_runs(runs)
    if ranked.empty:
        raise Refused(
            [
                f"study {study!r} has no run of phase {FINAL!r} ({len(runs)} others): only a sweep's final runs are ranked, make some with "
                "`resbench sweep run FILE`"
            ]
        )
    fields = list(SubmittedRun.model_fields)
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "submitter": submitter,
        "study": study,
        "devices": devices,
        "configs": dict(configs or {}),
        "runs": [{name: _plain(row[name]) for name in fields} for row in ranked.to_dict(orient="records")],
        "digest": "0" * 64,
    }
    content = validated(content).content()  # numbers as the schema has them: a whole FLOP count is a float there
    content["digest"] = digest_of(content)
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"
    if reasons := implausible(parse_submission(text.encode())):
        raise Refused(reasons)
    return text


def _plain(value: Any) -> Any:
    if pd.isna(value) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value.item() if hasattr(value, "item") else value
