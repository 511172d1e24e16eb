"""How far from doubly stochastic the applied mixing is, by Sinkhorn budget: what a few iterations leave undone."""

from __future__ import annotations

import re

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from resbench.results.figures.drawing import Drawing, rendered, too_little
from resbench.results.figures.facets import MOST_PANELS, columns_for, left_out
from resbench.results.figures.style import house_style, panel_title, plain, scheme_colour, thin_ticks
from resbench.results.leaderboard import Leaderboard

NAME = "sinkhorn_error"

FLOOR = 1e-8
"""Errors below the rounding of float32 sums are drawn here: a logarithm has no zero."""

UNKNOWN = 0
"""Stands for a number of streams that was not logged."""

BUDGET = r", t = \d+"
"""How labels name it (`resbench.results.cells`)."""

ERRORS = {"column_error": "columns", "row_error": "rows"}


def sinkhorn_numbers(leaderboard: Leaderboard) -> pd.DataFrame:
    """One row for each complete run of a scheme with a Sinkhorn budget: its last row and column errors."""
    columns = ["task", "size", "setting", "scheme", "label", "seed", "n_streams", "sinkhorn_iterations", *ERRORS]
    complete = leaderboard.runs[leaderboard.runs["outcome"] == "complete"]
    known = complete[complete["sinkhorn_iterations"].notna()].dropna(subset=list(ERRORS), how="all")
    return known[columns].sort_values(["task", "size", "setting", "label", "seed"], ignore_index=True)


def error_against_budget(numbers: pd.DataFrame) -> Drawing:
    """Largest deviation of a row's and a column's sum from one, by iterations, both on logarithmic axes."""
    title = "Sinkhorn error against budget"
    if numbers.empty:
        return too_little(NAME, title, "No complete run has a Sinkhorn budget and logged its error.", numbers)
    if numbers["sinkhorn_iterations"].nunique() < 2:
        only = int(numbers["sinkhorn_iterations"].iloc[0])
        reason = f"Every run has the same Sinkhorn budget ({only} iterations); `resbench sweep run sinkhorn` varies it."
        return too_little(NAME, title, reason, numbers)
    long = numbers.melt(
        id_vars=[name for name in numbers if name not in ERRORS], value_vars=list(ERRORS), var_name="sums", value_name="error"
    )  # fmt: skip
    long = long.dropna(subset="error").assign(
        sums=lambda table: table["sums"].map(ERRORS),
        error=lambda table: table["error"].astype(float).clip(lower=FLOOR),
        sinkhorn_iterations=lambda table: table["sinkhorn_iterations"].astype(float),
        n_streams=lambda table: table["n_streams"].astype("Int64").fillna(UNKNOWN).astype(int),
    )
    long = long.assign(
        variant=[_variant(str(label), str(scheme)) for label, scheme in zip(long["label"], long["scheme"], strict=True)]
    )
    found = list(long.groupby(["variant", "scheme", "task", "size", "setting", "n_streams"], sort=False, dropna=False))
    drawn = found[:MOST_PANELS]
    with house_style():
        columns = columns_for(len(drawn))
        rows = -(-len(drawn) // columns)
        figure = Figure(figsize=(max(5.2, 3.6 * columns), 3.2 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes, ((variant, scheme, task, size, setting, n), of_panel) in zip(grid.flat, drawn, strict=False):
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            colour = scheme_colour(str(scheme))
            sns.lineplot(
                of_panel, x="sinkhorn_iterations", y="error", style="sums", style_order=list(ERRORS.values()), color=colour,
                markers=["o", "s"], dashes=["", (3, 1.5)], estimator="median", errorbar=("pi", 100),
                err_kws={"alpha": 0.16, "linewidth": 0}, markeredgewidth=0, ax=axes,
            )  # fmt: skip
            axes.legend(title=None)
            ticks = sorted(of_panel["sinkhorn_iterations"].unique())
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.yaxis.set_major_locator(LogLocator(numticks=6))
            about = [
                plain(str(variant)),
                "" if n == UNKNOWN else f"n = {n}",
                size,
                setting,
                task if long["task"].nunique() > 1 else "",
            ]
            axes.set_title(panel_title(", ".join(str(part) for part in about if part)))
            axes.set_xlabel("Sinkhorn iterations")
            axes.set_ylabel("largest |sum − 1|")
            thin_ticks(axes)
        for axes in list(grid.flat)[len(drawn) :]:
            axes.set_axis_off()
        caption = (
            "Largest deviation from one of a row or column sum of the mixing matrices as applied, over all sublayers and the tokens of a fixed "
            f"validation sequence, at the end of training; median over runs, bands their range, values below {FLOOR:g} drawn there. The axis that "
            "is normalised last is exact; the other one shows what the budget leaves."
        )
        return rendered(NAME, title, caption + left_out(len(found)), numbers, figure)


def _variant(label: str, scheme: str) -> str:
    """What a panel shows: the label without the budget, which is the axis; the scheme where a label of one's own hides it."""
    return re.sub(BUDGET, "", label) if re.search(BUDGET, label) else scheme
