"""The figures of `resbench scaling`: fits with residuals, frontiers, multipliers, effects, and loss over size at one compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from resbench.results.figures.drawing import Drawing, rendered, too_little
from resbench.results.figures.style import (
    INK,
    Style,
    house_style,
    legend_below,
    panel_title,
    plain,
    point_looks,
    styles,
    thin_ticks,
)
from resbench.results.ranking import REFERENCE
from resbench.results.scaling.points import COSTS
from resbench.results.scaling.study import Scaling

LOSS = "validation loss (nats/token)"

NAMES = ("scaling_fit", "frontier", "multiplier", "effect", "iso_flop")
"""Names of the figures, drawn or not."""


def draw_scaling(scaling: Scaling) -> list[Drawing]:
    """Every figure of a study's scaling, drawn or with the reason why not."""
    pairs = [(str(row["label"]), str(row["scheme"])) for _, row in scaling.laws.iterrows()]
    effect_pairs = [(str(name), str(name)) for name in (scaling.effects["scheme"] if len(scaling.effects) else [])]
    chosen = styles(pairs)
    return [
        _fit(scaling, chosen),
        _frontiers(scaling, chosen),
        _multipliers(scaling, chosen),
        _effects(scaling, styles(effect_pairs) if effect_pairs else {}),
        _iso_flops(scaling, chosen),
    ]


def _fit(scaling: Scaling, chosen: dict[str, Style]) -> Drawing:
    name, title, numbers = "scaling_fit", "L(N, D) = E + A/N^α + B/D^β, fitted", scaling.fitted
    if numbers.empty:
        return too_little(name, title, _reason(scaling.laws), numbers)
    shown = _main_ladder(numbers)
    with house_style():
        figure = Figure(figsize=(7.2, 5.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        looks: dict[str, Any] = point_looks(_styles_of(shown, chosen)) | {
            "s": 30,
            "alpha": 0.8,
            "linewidth": 0,
            "legend": False,
        }
        percent = shown.assign(residual=100 * shown["residual"])
        sns.scatterplot(shown, x="fitted", y="loss", hue="label", style="label", ax=left, **looks)
        sns.scatterplot(percent, x="params", y="residual", hue="label", style="label", ax=right, **looks)
        ends = [float(shown[["fitted", "loss"]].min().min()), float(shown[["fitted", "loss"]].max().max())]
        left.plot(ends, ends, color=INK, linewidth=1)
        left.set_xlabel("fitted loss (nats/token)")
        left.set_ylabel("measured loss (nats/token)")
        right.axhline(0, color=INK, linewidth=1)
        right.set_xscale("log")
        _log_ticks(right, "x")
        right.set_xlabel("parameters")
        right.set_ylabel("residual of ln loss (%)")
        _finish(figure, [left, right], _styles_of(shown, chosen))
        caption = "A point for each run. Left: on the line, the fit is exact. Right: what it leaves, by size; a trend means that the form is wrong."
        return rendered(name, title, caption + _only_one(numbers), numbers, figure)


def _frontiers(scaling: Scaling, chosen: dict[str, Style]) -> Drawing:
    name, title, numbers = "frontier", "Loss against compute, time and memory", scaling.frontier_points
    if numbers.empty:
        return too_little(name, title, _reason(scaling.frontiers), numbers)
    shown = _main_ladder(numbers)
    laws = scaling.frontiers[scaling.frontiers["ladder"] == shown["ladder"].iloc[0]]
    costs = [cost for cost in COSTS if cost in set(shown["cost"])]
    with house_style():
        figure = Figure(figsize=(max(4.8, 3.5 * len(costs)), 4.4), layout="constrained")
        grid = figure.subplots(1, len(costs), squeeze=False, sharey=True)[0]
        for axes, cost in zip(grid, costs, strict=True):
            for label, rows in _by_label(shown[shown["cost"] == cost], chosen):
                style = chosen[label]
                axes.plot(rows["spent"], rows["loss"], style.marker, color=style.colour, markersize=5)
                law = laws[(laws["label"] == label) & (laws["cost"] == cost)].iloc[0]
                spent = np.geomspace(float(law["cost_low"]), float(law["cost_high"]), 50)
                axes.plot(spent, float(law["A"]) * spent ** -float(law["a"]), color=style.colour, linestyle=style.dash)
            axes.set_xscale("log")
            axes.set_yscale("log")
            _log_ticks(axes, "x")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 7)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.set_xlabel(COSTS[cost])
        grid[0].set_ylabel(LOSS)
        _finish(figure, grid, _styles_of(shown, chosen))
        caption = (
            "A point for each size and budget, averaged over seeds; lines are power laws A C^-a through the points that no cheaper one of the "
            "same scheme beats, drawn as far as they were measured."
        )
        return rendered(name, title, caption + _only_one(numbers), numbers, figure)


def _multipliers(scaling: Scaling, chosen: dict[str, Style]) -> Drawing:
    name, title, numbers = "multiplier", f"What {REFERENCE} must spend for the same loss", scaling.multipliers
    if numbers.empty or "multiplier" not in numbers:
        return too_little(name, title, _reason(numbers), numbers)
    shown = _main_ladder(numbers[numbers["multiplier"].notna()])
    costs = [cost for cost in COSTS if cost in set(shown["cost"])]
    labels = [label for label in chosen if label in set(shown["label"])][::-1]
    with house_style():
        figure = Figure(figsize=(max(4.8, 3.2 * len(costs)), 1.3 + 0.42 * len(labels)), layout="constrained")
        grid = figure.subplots(1, len(costs), squeeze=False, sharey=True)[0]
        for axes, cost in zip(grid, costs, strict=True):
            axes.axvline(1, color=INK, linewidth=1.2)
            for height, label in enumerate(labels):
                rows = shown[(shown["cost"] == cost) & (shown["label"] == label)]
                if rows.empty:
                    continue
                row, style = rows.iloc[0], chosen[label]
                if pd.notna(row["low"]):
                    axes.plot([row["low"], row["high"]], [height, height], color=style.colour, linewidth=2.4)
                axes.plot(row["multiplier"], height, style.marker, color=style.colour, markersize=8)
            axes.set_yticks(range(len(labels)), [plain(label) for label in labels])
            axes.set_ylim(-0.6, len(labels) - 0.4)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
            axes.set_xlabel(COSTS[cost].removeprefix("training "))
            axes.grid(visible=False, axis="y")
            thin_ticks(axes)
        caption = (
            f"{REFERENCE}'s cost over the scheme's at a loss in the middle of those both reached; right of 1× the scheme saves. Bars: 95 % intervals "
            "over seeds (none with one). The CSV has the range of losses and the multipliers at its ends."
        )
        return rendered(name, title, caption + _only_one(numbers), numbers, figure)


def _effects(scaling: Scaling, chosen: dict[str, Style]) -> Drawing:
    name, title, numbers = "effect", "Effect of streams and of the Sinkhorn budget", scaling.levels
    if numbers.empty:
        return too_little(
            name,
            title,
            "No scheme was trained with two numbers of streams or two Sinkhorn budgets, all else equal.",
            numbers,
        )
    found = [(factor, where) for factor, where in numbers[["factor", "where"]].drop_duplicates().to_numpy().tolist()][
        :6
    ]
    with house_style():
        columns = min(3, len(found))
        rows_of_panels = -(-len(found) // columns)
        figure = Figure(figsize=(max(4.8, 3.6 * columns), 3.0 * rows_of_panels + 0.6), layout="constrained")
        grid = figure.subplots(rows_of_panels, columns, squeeze=False)
        for axes, (factor, where) in zip(grid.flat, found, strict=False):
            for label, rows in _by_label(
                numbers[(numbers["factor"] == factor) & (numbers["where"] == where)], chosen, "scheme"
            ):
                style = chosen[label]
                known = rows[rows["difference"].notna()]
                low, high = (
                    (known["difference"] - known["low"]).fillna(0),
                    (known["high"] - known["difference"]).fillna(0),
                )
                axes.errorbar(
                    known["value"], known["difference"], yerr=[low, high], color=style.colour, marker=style.marker,
                    linestyle=style.dash, capsize=3,
                )  # fmt: skip
                axes.plot(rows["value"].iloc[:1], [0.0], style.marker, color=style.colour)
            axes.axhline(0, color=INK, linewidth=1)
            axes.set_xscale("log", base=2)
            values = sorted({int(value) for value in numbers.loc[numbers["factor"] == factor, "value"]})
            axes.set_xticks(values, [str(value) for value in values])
            axes.set_xlabel("streams n" if factor == "n_streams" else "Sinkhorn iterations t")
            axes.set_title(panel_title(where))
            thin_ticks(axes)
        for axes in list(grid.flat)[len(found) :]:
            axes.set_axis_off()
        grid[0, 0].set_ylabel("Δ loss to the smallest\n(nats/token)")
        legend_below(figure, chosen)
        caption = "Paired difference in loss to the smallest value of the factor, mean over seeds and its 95 % t interval; below zero is better."
        return rendered(name, title, caption, numbers, figure)


def _iso_flops(scaling: Scaling, chosen: dict[str, Style]) -> Drawing:
    name, title, numbers = "iso_flop", "Loss over size at one compute", scaling.iso_points
    if numbers.empty:
        return too_little(
            name, title, "No scheme has three sizes trained with the same compute (within a tenth).", numbers
        )
    shown = _main_ladder(numbers)
    curves = scaling.iso_flops[scaling.iso_flops["ladder"] == shown["ladder"].iloc[0]]
    labels = [label for label in chosen if label in set(shown["label"])][:6]
    with house_style():
        columns = min(3, len(labels))
        rows_of_panels = -(-len(labels) // columns)
        figure = Figure(figsize=(max(4.8, 3.5 * columns), 3.1 * rows_of_panels + 0.3), layout="constrained")
        grid = figure.subplots(rows_of_panels, columns, squeeze=False, sharex=True, sharey=True)
        for axes, label in zip(grid.flat, labels, strict=False):
            own = curves[curves["label"] == label].sort_values("flops")
            for position, (_, curve) in enumerate(own.iterrows()):
                rows = shown[(shown["label"] == label) & (shown["flops"] == curve["flops"])]
                alpha = 0.35 + 0.65 * (position + 1) / len(own)
                axes.plot(rows["params"], rows["loss"], chosen[label].marker, color=chosen[label].colour, alpha=alpha)
                params = np.geomspace(rows["params"].min(), rows["params"].max(), 60)
                x = np.log(params)
                fitted = np.exp(curve["c2"] * x**2 + curve["c1"] * x + curve["c0"])
                axes.plot(params, fitted, color=chosen[label].colour, alpha=alpha, linewidth=1.6)
                axes.annotate(
                    f"{curve['flops']:.1e}",
                    (params[-1], fitted[-1]),
                    xytext=(4, 0),
                    textcoords="offset points",
                    fontsize=8.5,
                    va="center",
                )
                if pd.notna(curve["best_params"]):
                    axes.plot(curve["best_params"], curve["best_loss"], "*", color=INK, markersize=9)
            axes.set_xscale("log")
            _log_ticks(axes, "x")
            axes.margins(x=0.16)
            axes.set_title(panel_title(label))
            thin_ticks(axes)
        for axes in list(grid.flat)[len(labels) :]:
            axes.set_axis_off()
        for axes in grid[:, 0]:
            axes.set_ylabel(LOSS)
        for axes in grid[-1]:
            axes.set_xlabel("parameters")
        caption = (
            "A parabola in ln N for each compute (FLOPs beside it); a star marks a minimum within the sizes measured."
        )
        return rendered(name, title, caption + _only_one(numbers), numbers, figure)


def _by_label(numbers: pd.DataFrame, chosen: dict[str, Style], column: str = "label") -> list[tuple[str, pd.DataFrame]]:
    return [(label, numbers[numbers[column] == label]) for label in chosen if (numbers[column] == label).any()]


def _styles_of(numbers: pd.DataFrame, chosen: dict[str, Style]) -> dict[str, Style]:
    return {label: style for label, style in chosen.items() if label in set(numbers["label"])}


def _main_ladder(numbers: pd.DataFrame) -> pd.DataFrame:
    """The rows of the ladder with the most of them; the first of several."""
    return numbers[numbers["ladder"] == numbers["ladder"].mode().iloc[0]] if len(numbers) else numbers


def _only_one(numbers: pd.DataFrame) -> str:
    count = numbers["ladder"].nunique()
    return (
        ""
        if count < 2
        else f" Drawn: {plain(_main_ladder(numbers)['ladder'].iloc[0])}, one of {count} ladders; the CSV has all."
    )


def _reason(table: pd.DataFrame) -> str:
    reasons = [str(reason) for reason in table.get("reason", []) if reason]
    return f"{reasons[0][:1].upper()}{reasons[0][1:]}." if reasons else f"No scheme beside a {REFERENCE} to compare."


def _log_ticks(axes: Axes, which: str) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    subs: tuple[float, ...] = (1.0, 2.0, 5.0) if high < 100 * low else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs))
    plain_numbers = FuncFormatter(lambda value, _: f"{value:.0e}".replace("e+", "e"))
    axis.set_major_formatter(plain_numbers if high > 1e12 else EngFormatter(sep=""))
    axis.set_minor_formatter(NullFormatter())


def _finish(figure: Figure, panels: object, chosen: dict[str, Style]) -> None:
    for axes in np.ravel(np.asarray(panels, dtype=object)):
        thin_ticks(axes)
    legend_below(figure, chosen)
