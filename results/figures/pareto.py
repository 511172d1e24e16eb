"""Loss against what it cost, one point for each row, and the front of rows that no other one beats at both."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from resbench.results.figures.drawing import Drawing, rendered, too_little
from resbench.results.figures.loss import power_of_ten
from resbench.results.figures.style import (
    INK,
    Style,
    house_style,
    legend_below,
    panel_title,
    plain,
    point_looks,
    thin_ticks,
)
from resbench.results.leaderboard import Leaderboard

NAME = "pareto"

COSTS = {"flops": "training FLOPs", "wall_s": "training time (s)", "peak_gib": "peak memory (GiB)"}
"""Cost of a run -> words for its axis."""

MOST_ROWS = 3


def pareto_numbers(leaderboard: Leaderboard) -> pd.DataFrame:
    """One row for each cell with a loss: its mean loss and interval, the cost of a run, and whether it is on the front of each cost."""
    rows = []
    for group, cells in leaderboard.groups:
        for cell in cells:
            if cell.val_loss.mean is None:
                continue
            spent = (
                None if cell.flops_per_token is None or group.tokens is None else cell.flops_per_token * group.tokens
            )
            rows.append(
                {
                    "task": group.task,
                    "setting": group.setting,
                    "size": group.size,
                    "budget_tokens": group.tokens,
                    "scheme": cell.scheme,
                    "label": cell.label,
                    "val_loss": cell.val_loss.mean,
                    "low": cell.val_loss.low,
                    "high": cell.val_loss.high,
                    "runs": cell.val_loss.n,
                    "flops": spent,
                    "wall_s": cell.wall_s,
                    "peak_gib": cell.peak_gib,
                    "hardware": ", ".join(cell.hardware),
                }
            )
    numbers = pd.DataFrame(rows)
    if numbers.empty:
        return numbers
    numbers = numbers.astype(dict.fromkeys(("val_loss", "low", "high", *COSTS), "float64"))
    for cost in COSTS:
        fronts = [
            on_front(of_panel[cost], of_panel["val_loss"]) for _, of_panel in numbers.groupby(["task", "setting"])
        ]
        numbers[f"front_{cost}"] = pd.concat(fronts)
    return numbers


def on_front(cost: pd.Series, loss: pd.Series) -> pd.Series:
    """Whether no other row has at most this cost and a lower loss (or the same loss for less); rows without a cost are on no front."""
    order = np.lexsort((loss.to_numpy(), cost.to_numpy()))  # unknown costs, nan, come last
    best = np.inf
    front = pd.Series(False, index=cost.index)
    for position in order:
        if np.isfinite(cost.iloc[position]) and loss.iloc[position] < best:
            best = float(loss.iloc[position])
            front.iloc[position] = True
    return front


def loss_and_cost(numbers: pd.DataFrame, chosen: dict[str, Style]) -> Drawing:
    """A panel for each cost (columns) and each task and setting (rows)."""
    title = "Loss and cost: the Pareto front"
    if numbers.empty or numbers[list(COSTS)].isna().all(axis=None):
        return too_little(NAME, title, "No row has both a loss and a cost.", numbers)
    if len(numbers) < 2:
        return too_little(NAME, title, "There is one row only: nothing to be better or worse than.", numbers)
    costs = [cost for cost in COSTS if numbers[cost].notna().any()]
    found = list(numbers.groupby(["task", "setting"], sort=False, dropna=False))
    drawn = found[:MOST_ROWS]
    present = {label: style for label, style in chosen.items() if label in set(numbers["label"])}
    with house_style():
        figure = Figure(figsize=(max(5.2, 3.3 * len(costs)), 0.6 + 3.0 * len(drawn)), layout="constrained")
        grid = figure.subplots(len(drawn), len(costs), squeeze=False, sharey="row")
        for row, ((task, setting), of_row) in zip(grid, drawn, strict=True):
            for axes, cost in zip(row, costs, strict=True):
                _panel(axes, of_row[of_row[cost].notna()], cost, present)
                axes.set_xlabel(COSTS[cost])
                axes.set_ylabel("validation loss (nats/token)" if axes is row[0] else "")
            if len(drawn) > 1:
                row[0].set_title(panel_title(", ".join(str(part) for part in (task, setting) if part)))
        legend_below(figure, present, lines=False)
        caption = (
            "A point for each row, with the 95 % t interval of its loss where it has one; sizes are named at the best point of their smallest "
            "budget. Steps join the rows that no other one beats at both loss and cost. Time and memory are comparable only between runs on "
            "the same hardware."
        )
        if len(found) > MOST_ROWS:
            caption += f" The first {MOST_ROWS} of {len(found)} groups are drawn; the CSV has all."
        return rendered(NAME, title, caption, numbers, figure)


def _panel(axes: Axes, rows: pd.DataFrame, cost: str, chosen: dict[str, Style]) -> None:
    axes.set_xscale("log")
    front = rows[rows[f"front_{cost}"]].sort_values(cost)
    axes.step(front[cost], front["val_loss"], where="post", color=INK, linewidth=1.0, alpha=0.7, zorder=1)
    for label, style in chosen.items():
        own = rows[(rows["label"] == label) & rows["low"].notna()]
        axes.vlines(own[cost], own["low"], own["high"], color=style.colour, linewidth=1.4, alpha=0.6, zorder=2)
    sns.scatterplot(
        rows, x=cost, y="val_loss", hue="label", style="label", s=55, linewidth=0, legend=False, ax=axes, zorder=3, **point_looks(chosen)
    )  # fmt: skip
    # Intervals of two seeds would dwarf the points: the axis shows all points, and of the intervals as much as fits.
    low, high = float(rows["val_loss"].min()), float(rows["val_loss"].max())
    margin = 0.18 * (high - low or 1.0)
    axes.set_ylim(low - margin, high + margin)
    for size, of_size in rows.groupby("size", sort=False):
        best = of_size.sort_values(["budget_tokens", "val_loss"]).iloc[0]
        axes.annotate(plain(str(size)), (float(best[cost]), float(best["val_loss"])), xytext=(0, -8), textcoords="offset points",
                      ha="center", va="top", fontweight="bold")  # fmt: skip
    axes.margins(x=0.14)
    if rows[cost].nunique() == 1:  # no range to scale to
        axes.set_autoscalex_on(False)
        axes.set_xlim(float(rows[cost].iloc[0]) / 2, float(rows[cost].iloc[0]) * 2)
    left, right = axes.get_xlim()
    if right < 4 * left:
        axes.xaxis.set_major_locator(MaxNLocator(3))
    else:
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if right < 100 * left else (1.0,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    thin_ticks(axes)
