"""The leaderboard as one self-contained HTML page: no request leaves it, and nothing in a run's name can act in it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from resbench.results.cells import Cell, size_order
from resbench.results.columns import DisplayColumn, shown_columns
from resbench.results.figures.drawing import Drawing
from resbench.results.figures.style import FAINT, INK, styles
from resbench.results.leaderboard import Leaderboard
from resbench.results.ranking import verdict

WIDE = 576.0
"""Points; a figure beyond eight inches goes over both columns of the page."""

TEMPLATES = Path(__file__).parent / "templates"


def to_html(leaderboard: Leaderboard, figures: Sequence[Drawing]) -> str:
    """The page: a sortable, filterable table of every row, notes, inline figures, and what the columns mean."""
    shared = {name: next(iter(values)) for name, values in _group_words(leaderboard.cells).items() if len(values) == 1}
    columns = sorted(
        (c for c in shown_columns(leaderboard.cells) if c.key not in shared), key=lambda column: column.key != "label"
    )
    script = _environment().get_template("page.js").render()
    colours = styles((cell.label, cell.scheme) for cell in leaderboard.cells)
    outcomes = [cell.outcomes for cell in leaderboard.cells]
    return (
        _environment()
        .get_template("leaderboard.html")
        .render(
            study=leaderboard.study,
            margin=leaderboard.margin,
            notes=leaderboard.notes,
            shared=", ".join(word for word in shared.values() if word),
            columns=columns,
            rows=[_row(cell, columns, colours[cell.label].colour) for cell in leaderboard.cells],
            groups=len(leaderboard.groups),
            runs=sum(outcome.total for outcome in outcomes),
            complete=sum(outcome.complete for outcome in outcomes),
            sizes=sorted({cell.group.size for cell in leaderboard.cells}, key=lambda size: (size_order(size), size)),
            schemes=sorted({cell.scheme for cell in leaderboard.cells}),
            figures=[(figure, inline_svg(figure), is_wide(figure)) for figure in figures],
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


def inline_svg(figure: Drawing) -> Markup:
    """A figure's SVG as part of a page: ids of its own, paper, ink and grid of the page's colours, described for screen readers.

    The SVG comes from matplotlib, which escapes every text it writes; that is why it may go in as markup.
    """
    if not figure.svg:
        return Markup("")
    body = figure.svg[figure.svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\b(id=")([^"]+)"', rf'\g<1>{figure.name}-\g<2>"', body)
    body = re.sub(r'(url\(#|xlink:href="#)', rf"\g<1>{figure.name}-", body)
    body = body.replace(INK, "var(--ink)").replace(FAINT, "var(--faint)").replace("fill: #ffffff", "fill: none")
    label = Markup.escape(figure.title)
    return Markup(body.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1))


def is_wide(figure: Drawing) -> bool:
    """Whether a figure needs the page's full width to be read."""
    viewbox = re.search(r'viewBox="0 0 ([\d.]+) ', figure.svg)
    return viewbox is not None and float(viewbox[1]) > WIDE


def _row(cell: Cell, columns: Sequence[DisplayColumn], colour: str) -> dict[str, Any]:
    found = verdict(cell)
    return {
        "colour": colour,
        "scheme": cell.scheme,
        "size": cell.group.size,
        "words": " ".join([cell.label, cell.scheme, cell.group.size, cell.group.task, cell.group.setting]).lower(),
        "reference": cell.is_reference,
        "difference": found,
        "cells": [
            (column, column.text(cell), "" if (value := column.order(cell)) is None else value) for column in columns
        ],
    }


def _group_words(cells: Sequence[Cell]) -> dict[str, set[str]]:
    """What the rows' groups say, by column: one that says the same everywhere goes into the heading instead."""
    return {
        "task": {cell.group.task for cell in cells},
        "tokens": {
            "unknown budget" if cell.group.tokens is None else f"{cell.group.tokens:,} training tokens a run"
            for cell in cells
        },
        "setting": {cell.group.setting for cell in cells},
    }


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
