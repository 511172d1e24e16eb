"""The page of one scheme: its equations, its verdicts and rows, its runs, what it costs, and the commands that repeat it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from resbench.results.cells import Cell
from resbench.results.columns import NOTHING, printable, quantity
from resbench.results.figures.drawing import Drawing
from resbench.results.figures.style import scheme_colour, styles
from resbench.results.leaderboard import Leaderboard
from resbench.results.ranking import REFERENCE
from resbench.results.site.environment import Navigation, SchemeLink, inline_svg, render
from resbench.results.site.equations import Prose, read_docstring
from resbench.results.site.reproduce import Recipe
from resbench.results.site.rows import table_columns, table_row, view_of
from resbench.results.site.source_text import SchemeText
from resbench.results.site.verdicts import over_groups, verdict_of


@dataclass(frozen=True)
class Table:
    """A plain table: headings, and rows of text."""

    headings: list[Any]
    rows: list[list[Any]] = field(default_factory=list)


def scheme_page(
    name: str,
    link: SchemeLink,
    leaderboard: Leaderboard,
    navigation: Navigation,
    text: SchemeText | None,
    drawing: Drawing,
    recipe: Recipe,
) -> str:
    """The page at ``link.href``."""
    cells = [cell for cell in leaderboard.cells if cell.scheme == name]
    colours = styles((cell.label, cell.scheme) for cell in leaderboard.cells)
    columns = table_columns(cells)
    return render(
        "scheme.html",
        link.href,
        "../",
        navigation,
        table=True,
        study=leaderboard.study,
        reference=REFERENCE,
        scheme={"name": link.name, "colour": scheme_colour(name)},
        text=text,
        prose=read_definition(text),
        verdicts=[*over_groups(cells, leaderboard.cells), *(verdict_of(cell, leaderboard.margin) for cell in cells)],
        columns=columns,
        rows=[table_row(cell, columns, colours[cell.label].colour) for cell in cells],
        view_of=view_of,
        drawing=drawing,
        svg=inline_svg(drawing),
        costs=costs_of(cells, leaderboard.cells),
        runs=runs_of(leaderboard.runs[leaderboard.runs["scheme"] == name]),
        recipe=recipe,
    )


def read_definition(text: SchemeText | None) -> Prose:
    """The module's docstring, then the class's, whose parameters are the scheme's configuration."""
    if text is None:
        return Prose()
    module, own = read_docstring(text.module_doc), read_docstring(text.class_doc)
    parts = module.parts + [part for part in own.parts if part not in module.parts]
    return Prose([part for part in parts if part], module.parameters | own.parameters)


def costs_of(cells: Sequence[Cell], everything: Sequence[Cell]) -> Table:
    """Parameters and FLOPs of each row, and how they compare with the reference's of its group."""
    references = {cell.group: cell for cell in everything if cell.is_reference}
    table = Table(["Row", "Parameters", "in the connections", "FLOPs/token", f"over {REFERENCE}"])
    seen = set()
    for cell in cells:
        row = ", ".join(part for part in (cell.label, cell.group.size, cell.group.setting) if part)
        if row in seen:
            continue
        seen.add(row)
        reference = references.get(cell.group)
        more = NOTHING
        if cell.flops_per_token and reference is not None and reference.flops_per_token:
            more = f"{100 * (cell.flops_per_token / reference.flops_per_token - 1):+.1f} %".replace("-", "−")
        share = NOTHING
        if cell.params_connection is not None and cell.params_total:
            share = f"{quantity(cell.params_connection)} ({100 * cell.params_connection / cell.params_total:.1f} %)"
        table.rows.append([printable(row), quantity(cell.params_total), share, quantity(cell.flops_per_token), more])
    return table


RUN_COLUMNS: Mapping[str, tuple[str, bool]] = {
    "label": ("Scheme", False),
    "size": ("Size", False),
    "setting": ("Setting", False),
    "seed": ("Seed", True),
    "outcome": ("Outcome", False),
    "val_loss": ("Val. loss", True),
    "bits_per_byte": ("Bits/byte", True),
    "accuracy": ("Accuracy", True),
    "learning_rate": ("Learning rate", True),
    "tokens": ("Tokens", True),
    "tokens_per_s": ("Tokens/s", True),
    "peak_gib": ("GiB", True),
    "wall_s": ("Time, s", True),
    "hardware": ("Hardware", False),
    "torch": ("torch", False),
    "commit": ("Commit", False),
    "config_hash": ("Config", False),
    "data_fingerprint": ("Data", False),
    "run_id": ("Run", False),
}
"""Columns of the tidy table that a scheme's runs are shown with: heading, and whether they are numbers."""

DIGITS = {"val_loss": 4, "bits_per_byte": 3, "accuracy": 4, "peak_gib": 2, "wall_s": 1}

HASHES = ("commit", "config_hash", "data_fingerprint", "run_id")


def runs_of(runs: pd.DataFrame) -> Table:
    """Every planned run of a scheme, whatever became of it, in the order of sizes and seeds."""
    names = [name for name in RUN_COLUMNS if runs[name].notna().any() and (runs[name].astype("string") != "").any()]
    ordered = runs.sort_values(["params_total", "label", "setting", "seed", "run_id"], kind="stable")
    table = Table([RUN_COLUMNS[name] for name in names])
    for row in ordered.to_dict(orient="records"):
        table.rows.append([(_shown(name, row[name]), RUN_COLUMNS[name][1]) for name in names])
    return table


def _shown(name: str, value: Any) -> str:
    if pd.isna(value):
        return NOTHING
    if name in DIGITS:
        return f"{value:.{DIGITS[name]}f}"
    if name in ("tokens", "tokens_per_s"):
        return quantity(float(value))
    if name == "learning_rate":
        return f"{value:.3g}"
    text = printable(str(value))
    return text[:10] if name in HASHES else text
