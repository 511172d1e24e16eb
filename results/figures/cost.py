"""What a scheme costs: training throughput and peak memory, by scheme and size."""

from __future__ import annotations

from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from resbench.results.columns import quantity
from resbench.results.figures.drawing import Drawing, rendered, too_little
from resbench.results.figures.facets import MOST_PANELS, left_out, panels
from resbench.results.figures.style import FAINT, INK, Style, house_style, panel_title, plain, thin_ticks

QUANTITIES = {"tokens_per_s": "throughput (tokens/s)", "peak_gib": "peak memory (GiB)"}


def throughput_and_memory(numbers: pd.DataFrame, chosen: dict[str, Style]) -> Drawing:
    """Bars from zero for the mean over runs, a point for each run; a row of panels per comparison group."""
    name, title = "cost", "Throughput and memory"
    if numbers.empty:
        return too_little(name, title, "No complete run logged throughput or memory.", numbers)
    found = panels(numbers)
    drawn = found[:MOST_PANELS]
    with house_style():
        heights = [0.85 + 0.34 * rows["label"].nunique() for _, rows in drawn]
        figure = Figure(figsize=(7.2, sum(heights) + 0.5), layout="constrained")
        grid = figure.subplots(len(drawn), 2, squeeze=False, height_ratios=heights)
        for row, (panel, rows) in zip(grid, drawn, strict=True):
            for axes, column in zip(row, QUANTITIES, strict=True):
                _bars(axes, rows, column, chosen, named=axes is row[0])
            row[0].set_title(panel_title(panel))
        for axes, words in zip(grid[-1], QUANTITIES.values(), strict=True):
            axes.set_xlabel(words)
        caption = "Means over complete runs; points are single runs. Comparable only between runs on the same hardware."
        hardware = sorted({str(kind) for kind in numbers["hardware"].dropna()})
        if len(hardware) == 1:
            caption = f"Means over complete runs; points are single runs. Hardware: {hardware[0]}."
        return rendered(name, title, caption + left_out(len(found)), numbers, figure)


def _bars(axes: Axes, rows: pd.DataFrame, column: str, chosen: dict[str, Style], *, named: bool) -> None:
    labels = [label for label in chosen if label in set(rows["label"])]
    palette = {label: chosen[label].colour for label in labels}
    shared: dict[str, Any] = {
        "data": rows,
        "x": column,
        "y": "label",
        "hue": "label",
        "order": labels,
        "hue_order": labels,
        "ax": axes,
    }
    sns.barplot(
        **shared, palette=palette, errorbar=None, width=0.66, saturation=1, alpha=0.85, linewidth=0, legend=False
    )
    sns.stripplot(**shared, palette=dict.fromkeys(labels, INK), jitter=False, size=3, alpha=0.6, legend=False)
    for height, label in enumerate(labels):
        values = rows.loc[rows["label"] == label, column].dropna()
        if len(values):
            end = (max(float(values.mean()), float(values.max())), height)
            axes.annotate(quantity(float(values.mean())), end, xytext=(5, 0), textcoords="offset points", va="center")
    axes.set(xlabel=None, ylabel=None)
    axes.set_yticks(range(len(labels)), [plain(label) if named else "" for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.margins(x=0.16)
    axes.set_xlim(left=0)
    if axes.get_xlim()[1] >= 1000:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_color(FAINT)
    thin_ticks(axes)
    axes.tick_params(axis="y", length=0)
