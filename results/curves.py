"""Metric histories of runs as one long table, and the gain-through-depth profiles that runs leave as artifacts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from resbench.harness.names import PROFILE_ARTIFACT
from resbench.harness.store import open_store

PROFILE_COLUMNS = (
    "gain_forward",
    "gain_backward",
    "composite_forward",
    "composite_backward",
    "row_error",
    "column_error",
)
"""What a profile holds for each sublayer: gains of its own mixing matrix, of the product up to it, and its sum errors."""


def load_curves(tracking_uri: str, run_ids: Sequence[str], metrics: Iterable[str]) -> pd.DataFrame:
    """Every logged value of the given metrics: columns `run_id`, `metric`, `tokens` (the step) and `value`, in that order.

    Where a metric was logged twice at a step (a resumed run repeats a validation) the later value stays. Values that are
    not finite are kept: a loss that became NaN is part of a diverged run's history.
    """
    client = open_store(tracking_uri, must_exist=True)
    points = [
        (run_id, metric, point.step, point.value, point.timestamp)
        for run_id in run_ids
        for metric in metrics
        for point in client.get_metric_history(run_id, metric)
    ]
    table = pd.DataFrame(points, columns=["run_id", "metric", "tokens", "value", "timestamp"])
    table = table.astype({"run_id": "string", "metric": "string", "tokens": "int64", "value": "float64"})
    table = table.sort_values(["run_id", "metric", "tokens", "timestamp"], kind="stable")
    latest = table.drop_duplicates(["run_id", "metric", "tokens"], keep="last")
    return latest.drop(columns="timestamp").reset_index(drop=True)


def load_profiles(tracking_uri: str, run_ids: Sequence[str]) -> pd.DataFrame:
    """The last profile of each run that left one: columns `run_id`, `sublayer` and `PROFILE_COLUMNS`.

    A run whose profile cannot be read, or is not a profile, has no rows: gain through depth is an extra that must not stop a
    leaderboard.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # a bar for each small file is noise
    client = open_store(tracking_uri, must_exist=True)
    tables = []
    for run_id in run_ids:
        if not any(
            item.path == PROFILE_ARTIFACT for item in client.list_artifacts(run_id, str(Path(PROFILE_ARTIFACT).parent))
        ):
            continue
        with TemporaryDirectory() as folder:
            text = Path(client.download_artifacts(run_id, PROFILE_ARTIFACT, folder)).read_text(encoding="utf-8")
        profile = _profile(text)
        if profile is not None:
            tables.append(profile.assign(run_id=run_id))
    columns = ["run_id", "sublayer", *PROFILE_COLUMNS]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def _profile(text: str) -> pd.DataFrame | None:
    try:
        content = json.loads(text)
        table = pd.DataFrame({name: content[name] for name in ("sublayer", *PROFILE_COLUMNS)})
        return table.astype({"sublayer": "int64"} | dict.fromkeys(PROFILE_COLUMNS, "float64"))
    except (ValueError, KeyError, TypeError):
        return None
