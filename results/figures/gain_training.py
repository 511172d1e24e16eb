"""Gain over training: when the product of all mixing matrices grows, and when it stays where it was (HC against mHC)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, MaxNLocator, NullLocator

from resbench.harness import names
from resbench.results.cells import GROUP, group_of, group_order
from resbench.results.figures.drawing import Drawing, rendered, too_little
from resbench.results.figures.facets import largest, panels, smaller_left_out
from resbench.results.figures.gain import SMALLEST_SPAN, gain_text, gain_ticks
from resbench.results.figures.style import INK, Style, house_style, legend_below, line_looks, panel_title, thin_ticks
from resbench.results.leaderboard import Leaderboard

NAME = "gain_training"

DIRECTIONS = {names.GAIN_FORWARD: "forward", names.GAIN_BACKWARD: "backward"}
"""Metric -> direction."""

MOST_ROWS = 3


def gain_training_numbers(leaderboard: Leaderboard, curves: pd.DataFrame) -> pd.DataFrame:
    """One row for each complete or diverged run, direction and number of tokens at which its composite gain was measured.

    A run that diverged is there until it did: without it, what the figure is about would be left out.
    """
    own = curves[curves["metric"].isin(DIRECTIONS) & np.isfinite(curves["value"]) & (curves["value"] > 0)]
    runs = leaderboard.runs[leaderboard.runs["outcome"].isin(["complete", "diverged"])]
    columns = ["task", "size", "setting", "budget_tokens", "scheme", "label", "seed", "direction", "tokens", "gain"]
    by_group: list[pd.DataFrame] = [members for _, members in runs.groupby(GROUP, dropna=False, sort=False)]
    if not by_group:
        return pd.DataFrame(columns=columns)
    by_group.sort(key=lambda members: group_order(group_of(members)))
    gains = own.assign(direction=own["metric"].map(DIRECTIONS)).rename(columns={"value": "gain"})
    return pd.concat(by_group).merge(gains, on="run_id", suffixes=("_of_run", ""))[columns]


def gain_over_training(numbers: pd.DataFrame, chosen: dict[str, Style]) -> Drawing:
    """Composite gain by training tokens on a logarithmic axis; of many groups, those of the largest models."""
    title = "Gain over training"
    if numbers.empty:
        return too_little(NAME, title, "No run logged a gain (schemes without a mixing matrix have none).", numbers)
    if numbers["tokens"].nunique() < 2:
        return too_little(
            NAME, title, "The gain was measured once only; validate more often to see it change.", numbers
        )
    found = panels(numbers)
    drawn = largest(found, MOST_ROWS, "tokens")
    present = {label: style for label, style in chosen.items() if label in set(numbers["label"])}
    with house_style():
        figure = Figure(figsize=(7.2, 0.9 + 2.5 * len(drawn)), layout="constrained")
        grid = figure.subplots(len(drawn), 2, squeeze=False, sharey="row", sharex="row")
        for row, (about, of_group) in zip(grid, drawn, strict=True):
            low, high = float(of_group["gain"].min()), float(of_group["gain"].max())
            for axes, direction in zip(row, DIRECTIONS.values(), strict=True):
                axes.set_yscale("log")
                axes.axhline(1, color=INK, linewidth=1.0, linestyle=(0, (2, 2)))
                # seaborn averages on the axis's own scale: of logarithms, a geometric mean
                own = of_group[of_group["direction"] == direction]
                sns.lineplot(
                    own, x="tokens", y="gain", hue="label", style="label", estimator="mean", errorbar=("pi", 100),
                    err_kws={"alpha": 0.16, "linewidth": 0}, legend=False, ax=axes, **line_looks(present),
                )  # fmt: skip
                axes.set_title(panel_title(f"{direction}, {about}"))
                axes.set_xlabel("training tokens")
                axes.set_ylabel("composite gain (Amax)" if direction == "forward" else "")
                axes.set_ylim(min(low * 0.95, 1 / SMALLEST_SPAN), max(high * 1.05, SMALLEST_SPAN))
                axes.yaxis.set_major_locator(FixedLocator(gain_ticks(*axes.get_ylim())))
                axes.yaxis.set_major_formatter(gain_text)
                axes.yaxis.set_minor_locator(NullLocator())
                axes.xaxis.set_major_locator(MaxNLocator(5))
                axes.xaxis.set_major_formatter(EngFormatter(sep=""))
                thin_ticks(axes)
        legend_below(figure, present)
        caption = (
            "Largest absolute row sum (forward) and column sum (backward) of all mixing matrices multiplied, on a fixed validation sequence, as "
            "training goes on, of runs that diverged until they did; geometric mean over seeds, bands their range. Doubly stochastic mixing "
            "stays at 1."
        )
        return rendered(NAME, title, caption + smaller_left_out(len(drawn), len(found)), numbers, figure)
