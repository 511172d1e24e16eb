"""Rows and columns as the pages' tables take them: what a cell shows, sorts by, and why it is empty; which view a column belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from resbench.results.cells import Cell
from resbench.results.columns import COLUMNS, NOTHING, DisplayColumn, one_and_more, printable
from resbench.results.ranking import verdict
from resbench.results.runs import SHARED
from resbench.results.site.environment import scheme_link

VIEWS = {"result": "Result", "cost": "Cost", "stability": "Stability", "provenance": "Provenance", "all": "All columns"}
"""Sets of columns a reader switches between, and their names."""

FIRST = ("label", "rank", "size", "val_loss", "difference", "detectable", "verdict", "n")
"""Columns in front, the scheme first, since it stays in view; the others follow in their usual order."""

ALWAYS = ("rank", "label", "track", "size", "setting", "task", "tokens", "val_loss")

VIEW_OF = {
    **dict.fromkeys(ALWAYS, "always"),
    **dict.fromkeys(
        ("n", "difference", "detectable", "verdict", "within", "holm_p", "bits_per_byte", "unigram", "accuracy", "chance", "pairs"), "result"
    ),
    **dict.fromkeys(
        ("tokens_per_s", "tokens_per_s_ratio", "overhead", "peak_gib", "peak_gib_ratio", "params_total", "params_connection", "flops_per_token",
         "wall_s", "multiplier_flops", "multiplier_wall_s", "multiplier_peak_gib"), "cost",
    ),
    **dict.fromkeys(("diverged", "missing", "gain_forward", "gain_backward", "lr_sensitivity", "n_streams", "sinkhorn_iterations"), "stability"),
}  # fmt: skip
"""The view of each column; one that is not named here says where a row comes from."""

ALWAYS_SHOWN = frozenset(
    {"overhead", "peak_gib_ratio", "multiplier_flops", "multiplier_wall_s", "multiplier_peak_gib", "gain_forward", "tuning_runs", "lr_sensitivity",
     "kernels", "verified", "conformance", "track"}
)  # fmt: skip
"""Columns that stay even where no row has anything in them: that something was not measured is for the reader to know."""

TIMES = {"tokens_per_s", "tokens_per_s_ratio", "overhead", "wall_s"}

WHY_EMPTY = {
    "kernels": "these runs did not log what computed their connections",
    "verified": "no rerun on another machine was made of these runs",
    "conformance": "built without files of `resbench check-scheme --json`",
    "lr_sensitivity": "the learning rate was no factor of the sweep",
    "gain_forward": "the scheme has no mixing matrix, or no gain was logged",
    "gain_backward": "the scheme has no mixing matrix, or no gain was logged",
    "tokens_per_s_ratio": "ran on other or several kinds of hardware than resnet, or resnet shared its GPU",
    "overhead": "ran on other or several kinds of hardware than resnet, or resnet shared its GPU",
    "peak_gib_ratio": "ran on other or several kinds of hardware than resnet",
    "detectable": "the reference, or fewer than two pairs",
    "within": "the reference, or fewer than two pairs",
    "holm_p": "the reference, or fewer than two pairs",
    "verdict": "the reference, or fewer than two pairs",
    "pairs": "the reference, or no seed in common with it",
    "n_streams": "the scheme has a single stream",
    "sinkhorn_iterations": "the scheme has no Sinkhorn budget",
}
"""Why a cell of a column is empty, where the column itself does not say."""


def view_of(key: str) -> str:
    """The view that a column belongs to."""
    return VIEW_OF.get(key, "provenance")


def table_columns(cells: Sequence[Cell]) -> list[DisplayColumn]:
    """The columns with something to show, and those of `ALWAYS_SHOWN`; first those that a phone should show."""
    shown = [c for c in COLUMNS if c.key in ALWAYS_SHOWN or any(c.text(cell) != NOTHING for cell in cells)]
    return sorted(shown, key=lambda column: FIRST.index(column.key) if column.key in FIRST else len(FIRST))


def why_empty(column: DisplayColumn, cell: Cell) -> str:
    """Why a cell shows nothing; empty where it shows something, or no reason is known."""
    if column.text(cell) != NOTHING:
        return ""
    if cell.is_reference and column.key.startswith("multiplier_"):
        return "the reference"
    if cell.shared_gpu and column.key in TIMES:
        return SHARED
    reason = column.why(cell) or WHY_EMPTY.get(column.key, "")
    return printable(reason)


def table_row(cell: Cell, columns: Sequence[DisplayColumn], colour: str) -> dict[str, Any]:
    """A row for the macro `rows_table`."""
    group = cell.group
    words = [cell.label, cell.scheme, group.size, group.task, group.setting, group.track, *cell.hardware]
    return {
        "colour": colour,
        "href": scheme_link(cell.scheme, "").href,
        "facets": facets_of(cell),
        "words": printable(" ".join(words)).lower(),
        "reference": cell.is_reference,
        "difference": verdict(cell),
        "cells": [
            (column, column.text(cell), "" if (value := column.order(cell)) is None else value, why_empty(column, cell))
            for column in columns
        ],
    }


def facets_of(cell: Cell) -> Mapping[str, str]:
    """What a row can be filtered by, as a reader sees it."""
    return {
        "track": printable(cell.group.track),
        "task": printable(cell.group.task),
        "size": printable(cell.group.size),
        "scheme": printable(cell.scheme),
        "hardware": printable(one_and_more(cell.hardware)),
        "verified": printable(cell.verified or "not verified"),
    }
