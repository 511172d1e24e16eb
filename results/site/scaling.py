"""The scaling page: what `resbench scaling` fits over a study's sizes and budgets, where anything can be fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from resbench.results.columns import NOTHING, printable
from resbench.results.figures.drawing import Drawing
from resbench.results.figures.scaling import draw_scaling
from resbench.results.leaderboard import Leaderboard
from resbench.results.scaling.study import Scaling, scaling
from resbench.results.site.environment import Navigation, inline_svg, is_wide, render

TITLES = {
    "laws": "L(N, D) = E + A/N^α + B/D^β",
    "held_out": "The largest size, predicted from the others",
    "frontiers": "Power laws L = A C^-a along the frontier",
    "multipliers": "What resnet must spend for the same loss",
    "effects": "Loss per doubling of the factor",
    "iso_flops": "Best size at one compute",
}
"""Tables of a `Scaling` that the page shows; all of them are files beside it."""


@dataclass(frozen=True)
class Laws:
    """What was fitted, and its figures, of which at least one could be drawn."""

    scaling: Scaling
    drawings: list[Drawing]


def laws_of(leaderboard: Leaderboard) -> Laws | None:
    """The laws of a study; None where there is too little to fit any."""
    try:
        found = scaling(leaderboard.runs, leaderboard.study)
    except ValueError:  # no complete run: the index says so
        return None
    drawings = draw_scaling(found)
    return Laws(found, drawings) if any(drawing.svg for drawing in drawings) else None


def scaling_page(leaderboard: Leaderboard, navigation: Navigation, laws: Laws) -> str:
    """The page at `scaling.html`."""
    tables = laws.scaling.tables()
    return render(
        "scaling.html",
        "scaling",
        "",
        navigation,
        study=leaderboard.study,
        notes=[printable(note) for note in laws.scaling.notes],
        figures=[(drawing, inline_svg(drawing), is_wide(drawing)) for drawing in laws.drawings],
        tables=[
            _table(name, title, tables[name]) for name, title in TITLES.items() if name in tables and len(tables[name])
        ],
    )


def _table(name: str, title: str, numbers: pd.DataFrame) -> dict[str, Any]:
    columns = [
        column for column in numbers if numbers[column].notna().any() and (numbers[column].astype(str) != "").any()
    ]
    numeric = {column: pd.api.types.is_numeric_dtype(numbers[column]) for column in columns}
    return {
        "name": name,
        "title": title,
        "headings": [(str(column).replace("_", " "), numeric[column]) for column in columns],
        "rows": [
            [(_shown(value), numeric[column]) for column, value in zip(columns, row, strict=True)]
            for row in _rows(numbers, columns)
        ],
    }


def _rows(numbers: pd.DataFrame, columns: Sequence[Any]) -> list[tuple[Any, ...]]:
    return list(numbers[list(columns)].itertuples(index=False, name=None))


def _shown(value: Any) -> str:
    if value is None or (not isinstance(value, str) and pd.isna(value)):
        return NOTHING
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", "−")
    return printable(str(value))
