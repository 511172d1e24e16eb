"""Metric histories of runs as one long table, and the gain-through-depth profiles that runs leave as artifacts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import pandas as pd

from resbench.harness.names import PROFILE_ARTIFACT
from resbench.results.source import Where, open_source

PROFILE_COLUMNS = (
    "gain_forward",
    "gain_backward",
    "composite_forward",
    "composite_backward",
    "row_error",
    "column_error",
)
"""What a profile holds for each sublayer: gains of its own mixing matrix, of the product up to it, and its sum errors."""


def load_curves(where: Where, run_ids: Sequence[str], metrics: Iterable[str]) -> pd.DataFrame:
    """Every logged value of the given metrics: columns `run_id`, `metric`, `tokens` (the step) and `value`, in that order.

    Where a metric was logged twice at a step (a resumed run repeats a validation) the later value stays. Values that are
    not finite are kept: a loss that became NaN is part of a diverged run's history.
    """
    source = open_source(where)
    points = [
        (run_id, metric, point.step, point.value, point.timestamp)
        for run_id in run_ids
        for metric in metrics
        for point in source.history(run_id, metric)
    ]
    table = pd.DataFrame(points, columns=["run_id", "metric", "tokens", "value", "timestamp"])
    table = table.astype({"run_id": "string", "metric": "string", "tokens": "int64", "value": "float64"})
    table = table.sort_values(["run_id", "metric", "tokens", "timestamp"], kind="stable")
    latest = table.drop_duplicates(["run_id", "metric", "tokens"], keep="last")
    return latest.drop(columns="timestamp").reset_index(drop=True)


def load_profiles(where: Where, run_ids: Sequence[str]) -> pd.DataFrame:
    """The last profile of each run that left one: columns `run_id`, `sublayer` and `PROFILE_COLUMNS`.

    A run whose profile cannot be read, or is not a profile, has no rows: gain through depth is an extra that must not stop a
    leaderboard.
    """
    source = open_source(where)
    tables = []
    for run_id in run_ids:
        profile = _profile(source.artifact(run_id, PROFILE_ARTIFACT))
        if profile is not None:
            tables.append(profile.assign(run_id=run_id))
    columns = ["run_id", "sublayer", *PROFILE_COLUMNS]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def _profile(content: bytes | None) -> pd.DataFrame | None:
    if content is None:
        return None
    try:
        read = json.loads(content)
        table = pd.DataFrame({name: read[name] for name in ("sublayer", *PROFILE_COLUMNS)})
        return table.astype({"sublayer": "int64"} | dict.fromkeys(PROFILE_COLUMNS, "float64"))
    except (ValueError, KeyError, TypeError):
        return None
