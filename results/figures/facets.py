"""Small multiples: one panel (or column of panels) for each comparison group."""

from __future__ import annotations

import pandas as pd

PANEL = ["task", "size", "setting", "budget_tokens"]
"""Columns that make a panel."""

MOST_PANELS = 6
"""Panels a figure has at the most; the CSV has the rest."""


def panels(numbers: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each panel under its title, in the order they come; parts that never vary are left out of titles."""
    varying = [column for column in PANEL if numbers[column].nunique(dropna=False) > 1]
    if "setting" in varying and numbers.groupby("setting")["size"].nunique(dropna=False).max() == 1:
        varying = [column for column in varying if column != "size"]  # the setting says it
    shown = varying or ["size"]
    found = []
    for keys, rows in numbers.groupby(PANEL, sort=False, dropna=False):
        values = dict(zip(PANEL, keys, strict=True))
        found.append((", ".join(_words(column, values[column]) for column in shown if values[column]), rows))
    return found


def largest(found: list[tuple[str, pd.DataFrame]], most: int, along: str) -> list[tuple[str, pd.DataFrame]]:
    """The last so many panels, which have the largest models (see `group_order`).

    Not those with one line only, which compare nothing, unless all are such.

    along: the column a line runs along; it takes two values of it.
    """
    lines = [int((rows.groupby("label")[along].nunique() > 1).sum()) for _, rows in found]
    compared = [panel for panel, count in zip(found, lines, strict=True) if count > 1]
    return (compared or found)[-most:]


def smaller_left_out(drawn: int, found: int) -> str:
    """A sentence for the caption of a figure of the `largest` panels."""
    return (
        f" {drawn} of {found} groups are drawn, the largest that compare schemes (the deepest, of sizes without a name); the CSV has all."
        if drawn < found
        else ""
    )


def columns_for(count: int) -> int:
    """Columns in which so many panels are laid out: at most three, and no last row of one."""
    return 2 if count == 4 else min(count, 3)


def left_out(count: int) -> str:
    """A sentence for the caption when there are more panels than a figure has room for."""
    return (
        f" The first {MOST_PANELS} of {count} comparison groups are drawn; the CSV has all."
        if count > MOST_PANELS
        else ""
    )


def _words(column: str, value: object) -> str:
    return f"{int(str(value)):,} tokens" if column == "budget_tokens" else str(value)
