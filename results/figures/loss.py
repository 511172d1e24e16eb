"""Validation loss against tokens (with the paired difference to the reference below it), training FLOPs and wall-clock time."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from resbench.results.figures.drawing import Drawing, rendered, too_little
from resbench.results.figures.facets import MOST_PANELS, columns_for, left_out, panels
from resbench.results.figures.style import INK, Style, house_style, legend_below, panel_title, plain, thin_ticks
from resbench.results.ranking import REFERENCE

FEWEST_POINTS = 3
"""Validations a run needs before a line through them says anything."""

EARLY = 0.25
"""Share of the budget left out of the loss panels: the first fall is the same for every scheme and hides the rest."""

BAND = "Lines are means over seeds, bands the range from the lowest to the highest seed."


def loss_against_tokens(numbers: pd.DataFrame, chosen: dict[str, Style]) -> Drawing:
    """Loss by training tokens; under it the difference to the reference on the same seeds, in which small effects show."""
    name, title = "loss_tokens", "Loss against tokens"
    if reason := _too_short(numbers):
        return too_little(name, title, reason, numbers)
    found = panels(numbers)
    drawn = found[:MOST_PANELS]
    paired = bool(numbers["difference"].notna().any())
    with house_style():
        columns = columns_for(len(drawn))
        blocks = -(-len(drawn) // columns)
        heights = [3, 2] * blocks if paired else [3] * blocks
        figure = Figure(figsize=(max(7.2, 3.4 * columns), 0.95 * sum(heights) + 1.0), layout="constrained")
        grid = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights, sharex="col")
        for position, (panel, rows) in enumerate(drawn):
            row = position // columns * (2 if paired else 1)
            column = position % columns
            upper = grid[row, column]
            _lines(upper, rows, "tokens", "loss", chosen)
            _focus(upper, rows, "tokens")
            upper.set_title(panel_title(panel))
            lowest = upper
            if paired:
                lowest = grid[row + 1, column]
                late = rows[rows["tokens"] >= EARLY * rows["tokens"].max()]
                lowest.axhline(0, color=chosen[REFERENCE].colour if REFERENCE in chosen else INK, linewidth=1.6)
                _lines(lowest, late[late["difference"].notna()], "tokens", "difference", chosen)
                lowest.margins(y=0.12)
                lowest.yaxis.set_major_locator(MaxNLocator(5))
            if column == 0:
                upper.set_ylabel("validation loss\n(nats/token)")
                if paired:
                    lowest.set_ylabel(f"difference\nto {REFERENCE}")
            if position + columns >= len(drawn):  # the last panel of its column; others share its axis
                lowest.set_xlabel("training tokens")
                lowest.tick_params(labelbottom=True)
            lowest.xaxis.set_major_formatter(EngFormatter(sep=""))
            lowest.xaxis.set_major_locator(MaxNLocator(5))
        for spare in range(len(drawn), blocks * columns):
            for part in range(2 if paired else 1):
                grid[spare // columns * (2 if paired else 1) + part, spare % columns].set_axis_off()
        legend_below(figure, _used(numbers, chosen))
        caption = f"{BAND} The first {EARLY:.0%} of the budget is not shown."
        if paired:
            caption += (
                f" Below: the difference to {REFERENCE} at the same tokens on the same seeds; below zero is better."
            )
        return rendered(name, title, caption + left_out(len(found)), numbers, figure)


def loss_against_compute(numbers: pd.DataFrame, chosen: dict[str, Style]) -> Drawing:
    """Loss by training FLOPs, all sizes in one panel: the lower envelope is what compute buys."""
    return _by_cost(
        numbers,
        chosen,
        cost="flops",
        name="loss_compute",
        title="Loss against compute",
        axis="training FLOPs, connections included",
        unit="FLOPs",
    )


def loss_against_wall_clock(numbers: pd.DataFrame, chosen: dict[str, Style]) -> Drawing:
    """Loss by seconds of training: what a scheme's overhead leaves of its gain."""
    return _by_cost(
        numbers,
        chosen,
        cost="wall_s",
        name="loss_wall_clock",
        title="Loss against wall-clock time",
        axis="training time (s)",
        unit="seconds",
    )


def _by_cost(
    numbers: pd.DataFrame, chosen: dict[str, Style], *, cost: str, name: str, title: str, axis: str, unit: str
) -> Drawing:
    """Loss against a cost on a logarithmic axis, every size of a task in the same panel, sizes named where their shortest runs begin."""
    if reason := _too_short(numbers):
        return too_little(name, title, reason, numbers)
    known = numbers[numbers[cost].notna() & (numbers[cost] > 0)]
    if known.empty:
        return too_little(name, title, f"No run logged its {unit}.", numbers)
    found = list(known.groupby(["task", "setting"], sort=False, dropna=False))
    drawn = found[:MOST_PANELS]
    with house_style():
        columns = min(len(drawn), 2)
        rows_of_panels = -(-len(drawn) // columns)
        figure = Figure(figsize=(7.2 if columns == 1 else 9.6, 4.3 * rows_of_panels), layout="constrained")
        grid = figure.subplots(rows_of_panels, columns, squeeze=False)
        for axes, ((task, setting), rows) in zip(grid.flat, drawn, strict=False):
            axes.set_xscale("log")
            late = rows[rows["tokens"] >= EARLY * rows.groupby("cell")["tokens"].transform("max")]
            for size, of_size in late.groupby("size", sort=False):
                budgets = [members for _, members in of_size.groupby("budget_tokens", dropna=False)]
                for of_budget in budgets:
                    _lines(axes, of_budget, cost, "loss", chosen)
                first = budgets[0].loc[budgets[0].groupby("cell")[cost].idxmin()]
                axes.annotate(
                    plain(str(size)),
                    (float(first[cost].min()), float(first["loss"].max())),
                    xytext=(0, 5),
                    textcoords="offset points",
                    va="bottom",
                    fontweight="bold",
                )
            axes.margins(x=0.06, y=0.08)
            axes.set_xlabel(axis)
            axes.set_ylabel("validation loss (nats/token)")
            if len(drawn) > 1:
                axes.set_title(panel_title(", ".join(part for part in (str(task), str(setting)) if part)))
            _log_ticks(axes)
            thin_ticks(axes)
        for axes in list(grid.flat)[len(drawn) :]:
            axes.set_axis_off()
        legend_below(figure, _used(known, chosen))
        caption = (
            f"{BAND} Sizes are named where their shortest runs begin; the first {EARLY:.0%} of each run is not shown."
        )
        if cost == "wall_s":
            caption += " Comparable only between runs on the same hardware."
        return rendered(name, title, caption + left_out(len(found)), numbers, figure)


def _log_ticks(axes: Axes) -> None:
    """Whole decades, and 2 and 5 times them where fewer than two decades are shown."""
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 100 * low else (1.0,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def power_of_ten(value: float) -> str:
    """A tick of a logarithmic axis: `0.5`, `20`, `2·10¹⁰`; nothing for what has no logarithm, where a locator may look beyond the axis."""
    if value <= 0:
        return ""
    if 1e-3 < value < 1e5:
        return f"{value:g}"
    exponent = math.floor(math.log10(value) + 1e-9)
    digits = f"{value / 10.0**exponent:.0f}"
    power = "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return power if digits == "1" else f"{digits}·{power}"


def _too_short(numbers: pd.DataFrame) -> str:
    if numbers.empty:
        return "No cell has a complete run with validation losses."
    if numbers.groupby(["task", "size", "setting", "cell"], dropna=False)["tokens"].nunique().max() < FEWEST_POINTS:
        return f"No run was validated {FEWEST_POINTS} times or more; validate more often to see a curve."
    return ""


def _lines(axes: Axes, rows: pd.DataFrame, x: str, y: str, chosen: dict[str, Style]) -> None:
    for label, style in chosen.items():  # the reference comes first, so that it lies under the others
        line = rows[rows["label"] == label].sort_values(x)
        if line.empty:
            continue
        axes.fill_between(line[x], line[f"{y}_low"], line[f"{y}_high"], color=style.colour, alpha=0.16, linewidth=0)
        axes.plot(line[x], line[y], color=style.colour, linestyle=style.dash)
        axes.plot(line[x].iloc[-1:], line[y].iloc[-1:], color=style.colour, marker=style.marker, linestyle="none")
    thin_ticks(axes)


def _focus(axes: Axes, rows: pd.DataFrame, x: str) -> None:
    """Limits that show the late part of training."""
    late = rows[rows[x] >= EARLY * rows[x].max()]
    low, high = float(late["loss_low"].min()), float(late["loss_high"].max())
    margin = 0.06 * (high - low or 1.0)
    axes.set_ylim(low - margin, high + margin)
    axes.set_xlim(float(late[x].min()), float(rows[x].max()) * 1.03)


def _used(numbers: pd.DataFrame, chosen: dict[str, Style]) -> dict[str, Style]:
    present = set(numbers["label"])
    return {label: style for label, style in chosen.items() if label in present}
