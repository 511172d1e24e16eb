"""The figure of one scheme: its difference to the reference while training goes on, and its gain through depth, by size."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, PercentFormatter

from resbench.results.columns import quantity
from resbench.results.figures.drawing import Drawing, rendered, too_little
from resbench.results.figures.gain import SMALLEST_SPAN, gain_text, gain_ticks
from resbench.results.figures.loss import EARLY, FEWEST_POINTS
from resbench.results.figures.style import (
    DASHES,
    INK,
    MARKERS,
    Style,
    house_style,
    legend_below,
    scheme_colour,
    shade_of,
    thin_ticks,
)
from resbench.results.ranking import REFERENCE

MOST_LINES = 8


def scheme_figure(scheme: str, name: str, curves: pd.DataFrame, gains: pd.DataFrame) -> Drawing:
    """One or two panels, a line for each size and variant.

    Args:
        scheme: as its plugin is called.
        name: of the figure's files.
        curves: of `curve_numbers`, of the whole study.
        gains: of `gain_numbers`, likewise.
    """
    title = "Through training and depth"
    differences, depths = _differences(scheme, curves), _depths(scheme, gains)
    if differences.empty and depths.empty:
        why = (
            "it is the reference"
            if scheme == REFERENCE
            else f"no seed in common with {REFERENCE}, or too few validations"
        )
        return too_little(name, title, f"There is no difference to draw ({why}) and no gain profile.", differences)
    lines = list(dict.fromkeys(line for table in (differences, depths) if len(table) for line in table["line"]))
    chosen = _looks(scheme, lines[:MOST_LINES])
    drawers = [(draw, table) for draw, table in ((_over_training, differences), (_through_depth, depths)) if len(table)]
    with house_style():
        figure = Figure(figsize=(3.9 * len(drawers) + 0.6 * (len(drawers) == 1), 3.5), layout="constrained")
        for axes, (draw, table) in zip(figure.subplots(1, len(drawers), squeeze=False)[0], drawers, strict=True):
            draw(axes, table, chosen)
            thin_ticks(axes)
        legend_below(figure, chosen)
        sentences = [
            f"Over training: loss minus {REFERENCE}'s at the same tokens on the same seeds, mean over pairs, band their range; below zero is better. "
            f"The first {EARLY:.0%} of the budget is not shown."
            if len(differences)
            else "",
            "Through depth: largest absolute row sum of the mixing matrices multiplied up to each sublayer, at the end of training."
            if len(depths)
            else "",
            f"{len(lines) - MOST_LINES} more lines are in the CSV." if len(lines) > MOST_LINES else "",
        ]
        caption = " ".join(sentence for sentence in sentences if sentence)
        numbers = pd.concat([table for table in (differences, depths) if len(table)], ignore_index=True)
        return rendered(name, title, caption, numbers, figure)


def _differences(scheme: str, curves: pd.DataFrame) -> pd.DataFrame:
    if curves.empty:
        return curves
    own = curves[(curves["scheme"] == scheme) & curves["difference"].notna()]
    kept = own.groupby("cell")["tokens"].transform("nunique") >= FEWEST_POINTS
    return own[kept].assign(line=lambda rows: _names(rows))


def _depths(scheme: str, gains: pd.DataFrame) -> pd.DataFrame:
    own = gains[gains["scheme"] == scheme] if len(gains) else gains
    return own.assign(line=_names(own)) if len(own) and own["sublayer"].nunique() > 1 else own.iloc[:0]


def _names(rows: pd.DataFrame) -> pd.Series:
    """What tells a scheme's rows apart: variant, size, setting, budget, each only where it varies."""
    if rows.empty:
        return pd.Series(dtype="object")
    varying = [column for column in ("label", "size", "setting") if rows[column].nunique(dropna=False) > 1]
    named = rows[varying or ["size"]].astype(str).agg(", ".join, axis=1)
    budgets = rows["budget_tokens"].groupby(named).transform("nunique")
    return named.where(budgets < 2, named + ", " + rows["budget_tokens"].map(quantity) + " tokens")


def _looks(scheme: str, lines: list[str]) -> dict[str, Style]:
    """The scheme's colour from light to dark, with markers and dashes."""
    colour, last = scheme_colour(scheme), max(len(lines) - 1, 1)
    shades = [colour] if len(lines) == 1 else [shade_of(colour, position / last) for position in range(len(lines))]
    return {
        line: Style(shade, MARKERS[position % len(MARKERS)], DASHES[position % len(DASHES)])
        for position, (line, shade) in enumerate(zip(lines, shades, strict=True))
    }


def _over_training(axes: Axes, numbers: pd.DataFrame, chosen: dict[str, Style]) -> None:
    axes.axhline(0, color=INK, linewidth=1.0)
    for line, style in chosen.items():
        rows = numbers[numbers["line"] == line]
        rows = rows[rows["tokens"] >= EARLY * rows["tokens"].max()]
        _line(axes, rows["tokens"] / rows["tokens"].max(), rows, "difference", style)
    axes.set_title("Over training")
    axes.set_xlabel("share of the budget")
    axes.set_ylabel(f"Δ loss to {REFERENCE} (nats/token)")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _through_depth(axes: Axes, numbers: pd.DataFrame, chosen: dict[str, Style]) -> None:
    axes.set_yscale("log")
    axes.axhline(1, color=INK, linewidth=1.0, linestyle=(0, (2, 2)))
    for line, style in chosen.items():
        rows = numbers[numbers["line"] == line]
        _line(axes, rows["sublayer"], rows, "composite_forward", style)
    low, high = float(numbers["composite_forward_low"].min()), float(numbers["composite_forward_high"].max())
    axes.set_ylim(min(low * 0.95, 1 / SMALLEST_SPAN), max(high * 1.05, SMALLEST_SPAN))
    axes.yaxis.set_major_locator(FixedLocator(gain_ticks(*axes.get_ylim())))
    axes.yaxis.set_major_formatter(gain_text)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_title("Through depth")
    axes.set_xlabel("sublayer")
    axes.set_ylabel("composite forward gain")


def _line(axes: Axes, x: pd.Series, rows: pd.DataFrame, y: str, style: Style) -> None:
    axes.fill_between(x, rows[f"{y}_low"], rows[f"{y}_high"], color=style.colour, alpha=0.14, linewidth=0)
    axes.plot(x, rows[y], color=style.colour, linestyle=style.dash, marker=style.marker, markersize=4.5,
              markevery=max(1, len(rows) // 7))  # fmt: skip
