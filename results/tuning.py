"""What stands behind a cell's hyper-parameters: how many runs chose them, and how much the loss depends on the learning rate."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd

from resbench.harness import names
from resbench.results.cells import Cell, labelled
from resbench.results.curves import load_curves
from resbench.results.lr_sensitivity import lr_sensitivity
from resbench.results.runs import FINAL, ranked_runs
from resbench.results.source import Where

LR_FACTORS = ("lr", "learning_rate", "model.learning_rate")
"""Factors of a sweep whose levels are a grid of learning rates."""


@dataclass(frozen=True)
class LrSensitivity:
    """Of a scheme over a sweep's grid of learning rates: `value` in nats/token, over `rates` from `lowest` to `highest`, the best one `best`."""

    value: float
    rates: int
    lowest: float
    highest: float
    best: float
    diverged: int


def with_tuning_budget(cells: list[Cell], runs: pd.DataFrame) -> list[Cell]:
    """The cells with the number of search trials that each one's hyper-parameters were chosen by; ``runs`` of every phase."""
    search = runs[(runs["phase"] != FINAL) & runs["phase"].notna()]
    search = search.assign(trial=search["trial_key"].fillna(search["run_id"]))
    trials = search.groupby(["task", "cell", "scheme"], dropna=False)["trial"].nunique().to_dict()
    return [replace(cell, tuning_runs=int(trials.get((cell.group.task, cell.cell, cell.scheme), 0))) for cell in cells]


def learning_rate_curves(runs: pd.DataFrame, source: Where) -> pd.DataFrame | None:
    """The validation losses that `with_lr_sensitivity` needs of a study's runs; None if its sweep had no grid of learning rates."""
    table = labelled(ranked_runs(runs))
    graded = table[table["setting"].map(lambda setting: _without_rate(str(setting)) != str(setting)).astype(bool)]
    if graded.empty:
        return None
    return load_curves(source, [str(run_id) for run_id in graded["run_id"]], [names.VAL_LOSS])


def with_lr_sensitivity(cells: list[Cell], table: pd.DataFrame, curves: pd.DataFrame) -> list[Cell]:
    """The cells with their scheme's sensitivity, where the sweep had the learning rate as a factor; the same for every rate's cell.

    ``table``: labelled, ranked runs. ``curves``: their validation losses from 0 tokens on; a run without its loss at 0 tokens is left out.
    Rates that a search drew make no grid (each scheme was tried at rates of its own), so they say nothing here.
    """
    known = set(curves[curves["tokens"] == 0]["run_id"])
    graded = table[table["run_id"].isin(known)]
    graded = graded.assign(rest=graded["setting"].map(lambda setting: _without_rate(str(setting))))
    graded = graded[graded["rest"] != graded["setting"]]
    by = ["task", "size", "label", "rest", "budget_tokens", "data_fingerprint"]
    found = {
        tuple(_plain(row[name]) for name in by): LrSensitivity(
            float(row["sensitivity"]),
            int(row["learning_rates"]),
            float(row["lowest"]),
            float(row["highest"]),
            float(row["best_learning_rate"]),
            int(row["diverged"]),
        )
        for row in lr_sensitivity(graded, curves, by).to_dict(orient="records")
    }

    def of(cell: Cell) -> LrSensitivity | None:
        group = cell.group
        if (rest := _without_rate(group.setting)) == group.setting:
            return None
        tokens = None if group.tokens is None else group.tokens
        return found.get((group.task, group.size, cell.label, rest, tokens, group.data_fingerprint))

    return [replace(cell, lr_sensitivity=of(cell)) for cell in cells]


def _without_rate(setting: str) -> str:
    return ", ".join(factor for factor in setting.split(", ") if factor.partition("=")[0] not in LR_FACTORS)


def _plain(value: object) -> object:
    if pd.isna(value):  # type: ignore[call-overload]
        return None
    return int(value) if isinstance(value, float) and value.is_integer() else value
