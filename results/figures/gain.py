"""Gain through depth: how much the product of the mixing matrices up to a sublayer can amplify its streams."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from resbench.results.figures.drawing import Drawing, rendered, too_little
from resbench.results.figures.facets import largest, panels, smaller_left_out
from resbench.results.figures.style import INK, Style, house_style, legend_below, panel_title, thin_ticks

DIRECTIONS = {"composite_forward": "forward", "composite_backward": "backward"}
MOST_ROWS = 3
SMALLEST_SPAN = 1.25
"""The gain axis spans at least 1/this to this, so that rounding does not look like an effect."""


def gain_through_depth(numbers: pd.DataFrame, chosen: dict[str, Style]) -> Drawing:
    """Composite forward and backward gain by sublayer, on a logarithmic axis; of many groups, those of the largest models."""
    name, title = "gain_depth", "Gain through depth"
    if numbers.empty:
        return too_little(
            name, title, "No complete run left a gain profile (schemes without a mixing matrix have none).", numbers
        )
    if numbers["sublayer"].nunique() < 2:
        return too_little(name, title, "The models have a single sublayer: there is no depth to follow.", numbers)
    found = panels(numbers)
    drawn = largest(found, MOST_ROWS, "sublayer")
    with house_style():
        figure = Figure(figsize=(7.2, 0.9 + 2.5 * len(drawn)), layout="constrained")
        grid = figure.subplots(len(drawn), 2, squeeze=False, sharey="row", sharex="row")
        for row, (about, of_group) in zip(grid, drawn, strict=True):
            for axes, (column, direction) in zip(row, DIRECTIONS.items(), strict=True):
                _panel(axes, of_group, column, chosen)
                axes.set_title(panel_title(f"{direction}, {about}"))
                axes.set_xlabel("sublayer")
            row[0].set_ylabel("composite gain (Amax)")
        present = set(numbers["label"])
        legend_below(figure, {label: style for label, style in chosen.items() if label in present})
        caption = (
            "Largest absolute row sum (forward) or column sum (backward) of the mixing matrices multiplied up to each sublayer, on a fixed "
            "validation sequence at the end of training; geometric mean over seeds, bands their range. The line at 1 is the bound that "
            "doubly stochastic mixing keeps."
        )
        return rendered(name, title, caption + smaller_left_out(len(drawn), len(found)), numbers, figure)


def _panel(axes: Axes, rows: pd.DataFrame, column: str, chosen: dict[str, Style]) -> None:
    axes.set_yscale("log")
    axes.axhline(1, color=INK, linewidth=1.0, linestyle=(0, (2, 2)))
    for label, style in chosen.items():
        line = rows[rows["label"] == label]
        if line.empty:
            continue
        axes.fill_between(
            line["sublayer"], line[f"{column}_low"], line[f"{column}_high"], color=style.colour, alpha=0.16, linewidth=0
        )
        axes.plot(
            line["sublayer"],
            line[column],
            color=style.colour,
            linestyle=style.dash,
            marker=style.marker,
            markersize=4.5,
            markevery=max(1, len(line) // 8),
        )
    ends = rows[[f"{name}_{end}" for name in DIRECTIONS for end in ("low", "high")]]
    axes.set_ylim(
        min(float(ends.min().min()) * 0.95, 1 / SMALLEST_SPAN), max(float(ends.max().max()) * 1.05, SMALLEST_SPAN)
    )
    axes.yaxis.set_major_locator(FixedLocator(gain_ticks(*axes.get_ylim())))
    axes.yaxis.set_major_formatter(gain_text)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    thin_ticks(axes)


def gain_text(value: float, _position: float = 0) -> str:
    """A tick of a gain axis."""
    return f"{value:g}" if value < 1e4 else f"{value:.0e}"


def gain_ticks(low: float, high: float) -> list[float]:
    """Three to seven round values between two gains: tenths where little happens, whole decades where much does; 1 is always one."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in (
        (1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0, 3.0, 4.0, 6.0, 8.0, 9.0),
        (1.0, 1.5, 2.0, 3.0, 5.0, 7.0),
        (1.0, 2.0, 5.0),
        (1.0, 3.0),
        (1.0,),
    ):
        ticks = [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
        if len(ticks) <= 7:
            return ticks
    every = math.ceil(len(decades) / 6)
    return [10.0**decade for decade in decades if decade % every == 0]
