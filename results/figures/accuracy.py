"""Which schemes solve which difficulty at which depth: accuracy over difficulty, a column of panels per scheme, a line per depth."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

from resbench.results.cells import natural
from resbench.results.figures.drawing import Drawing, rendered, too_little
from resbench.results.figures.style import INK, LEGEND_SIZE, Style, house_style, panel_title, plain, thin_ticks

NAME = "accuracy"
MOST_ROWS, MOST_COLUMNS = 6, 6

ACCURACY_COLUMNS = [
    "task", "variant", "what", "scheme", "label", "depth", "difficulty", "accuracy", "low", "high", "n", "chance",
]  # fmt: skip
"""`variant` is the task with the sweep's other factors; `accuracy` the mean over complete runs, `low` and `high` their range, `n` their number."""


def accuracy_numbers(runs: pd.DataFrame, accuracies: pd.DataFrame) -> pd.DataFrame:
    """One row for each task variant, scheme, depth and difficulty.

    Args:
        runs: a labelled table of runs.
        accuracies: of `load_accuracies` for them.
    """
    table = runs[runs["outcome"] == "complete"].merge(accuracies, on="run_id")
    if table.empty:
        return pd.DataFrame(columns=ACCURACY_COLUMNS)
    table["variant"] = [
        _variant(task, setting) for task, setting in zip(table["task"], table["setting"].fillna(""), strict=True)
    ]
    by = ["task", "variant", "what", "scheme", "label", "depth", "difficulty"]
    groups = table.groupby(by, sort=False, dropna=False)
    numbers = groups.agg(
        accuracy=("accuracy_y", "mean"),
        low=("accuracy_y", "min"),
        high=("accuracy_y", "max"),
        n=("accuracy_y", "size"),
        chance=("chance_accuracy", "first"),
    ).reset_index()
    return numbers.sort_values(["task", "variant", "label", "depth", "difficulty"], ignore_index=True)


def accuracy_over_difficulty(numbers: pd.DataFrame, chosen: dict[str, Style]) -> Drawing:
    """Panels task variant x scheme; lines from shallow (light) to deep (dark), the band the range over seeds, chance dashed."""
    title = "Accuracy over difficulty and depth"
    if numbers.empty:
        return too_little(NAME, title, "No complete run logged accuracy by difficulty.", numbers)
    labels = [label for label in chosen if label in set(numbers["label"])]
    variants = sorted(set(numbers["variant"]), key=natural)
    depths = sorted({int(depth) for depth in numbers["depth"].dropna()})
    colours = dict(zip(depths, matplotlib.colormaps["viridis_r"](np.linspace(0.12, 0.95, len(depths))), strict=True))
    with house_style():
        rows, columns = min(len(variants), MOST_ROWS), min(len(labels), MOST_COLUMNS)
        figure = Figure(figsize=(1.2 + 1.9 * columns, 0.9 + 1.75 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True, sharex="row")
        for row, variant in zip(grid, variants, strict=False):
            for axes, label in zip(row, labels, strict=False):
                here = numbers[(numbers["variant"] == variant) & (numbers["label"] == label)]
                _panel(axes, here, colours)
                if axes in grid[0]:
                    axes.set_title(panel_title(label))
            shown = numbers[numbers["variant"] == variant]
            _difficulty_axis(row, shown)
            row[0].set_ylabel(plain(variant))
            row[len(row) // 2].set_xlabel(plain(str(shown["what"].iloc[0])))
        handles = [Line2D([], [], color=colours[depth], marker="o", markersize=4) for depth in depths]
        names = [f"{depth} layer{'s' * (depth > 1)}" for depth in depths]
        handles.append(Line2D([], [], color=INK, linestyle=(0, (4, 3)), linewidth=1))
        figure.legend(handles, [*names, "chance"], loc="outside lower center", ncols=len(handles), fontsize=LEGEND_SIZE)
        seeds = int(numbers["n"].max())
        caption = (
            f"Share of questions answered rightly, by their difficulty. Means over up to {seeds} runs; bands are the range over seeds. "
            "Dashed: the best guess that does not solve the task."
        )
        if len(variants) > MOST_ROWS or len(labels) > MOST_COLUMNS:
            caption += f" The first {rows} of {len(variants)} tasks and {columns} of {len(labels)} schemes are drawn; the CSV has all."
        return rendered(NAME, title, caption, numbers, figure)


def _panel(axes: Axes, rows: pd.DataFrame, colours: dict[int, object]) -> None:
    for depth, line in rows.groupby("depth"):
        line = line.sort_values("difficulty")
        colour = colours[int(str(depth))]
        axes.plot(line["difficulty"], line["accuracy"], "o-", color=colour, markersize=4, linewidth=1.6)
        axes.fill_between(line["difficulty"], line["low"], line["high"], color=colour, alpha=0.18, linewidth=0)
    chance = rows["chance"].dropna()
    if len(chance):
        axes.axhline(float(chance.iloc[0]), color=INK, linestyle=(0, (4, 3)), linewidth=1)
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.yaxis.set_major_locator(FixedLocator([0, 0.5, 1]))
    thin_ticks(axes)


def _difficulty_axis(row: np.ndarray, rows: pd.DataFrame) -> None:
    values = sorted(set(rows["difficulty"]))
    for axes in row:
        if len(values) > 1 and values[-1] / max(values[0], 1) > 4:
            axes.set_xscale("log", base=2)
        shown = values if len(values) <= 5 else values[:: -(-len(values) // 4)]
        axes.xaxis.set_major_locator(FixedLocator(shown))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _variant(task: str, setting: str) -> str:
    """The words for a panel's row: the sweep's factors but the depth, or the task's name where there are none."""
    parts = [part for part in setting.split(", ") if part and not part.startswith(("depth=", "data="))]
    return ", ".join(part.removeprefix("task=") for part in parts) or task
