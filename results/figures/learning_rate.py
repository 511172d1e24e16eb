"""Loss by learning rate: where each scheme has its best rate, and what missing it costs."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from resbench.results.figures.drawing import Drawing, rendered
from resbench.results.figures.facets import MOST_PANELS, columns_for, left_out, panels
from resbench.results.figures.loss import power_of_ten
from resbench.results.figures.style import Style, house_style, legend_below, line_looks, panel_title, thin_ticks
from resbench.results.leaderboard import Leaderboard

NAME = "learning_rate"

PANEL = ["task", "size", "budget_tokens"]

FEWEST_RATES = 3


def learning_rate_numbers(leaderboard: Leaderboard) -> pd.DataFrame:
    """One row for each complete or diverged run of a label that was trained at `FEWEST_RATES` learning rates or more, all else equal."""
    ended = leaderboard.runs[leaderboard.runs["outcome"].isin(["complete", "diverged"])]
    known = ended.dropna(subset=["learning_rate"])
    rates = known.groupby([*PANEL, "label"], dropna=False)["learning_rate"].transform("nunique")
    columns = [*PANEL, "scheme", "label", "seed", "learning_rate", "outcome", "val_loss"]
    kept = known.loc[rates >= FEWEST_RATES, columns]
    return kept.sort_values([*PANEL, "label", "learning_rate", "seed"], ignore_index=True)


def loss_against_learning_rate(numbers: pd.DataFrame, chosen: dict[str, Style]) -> Drawing:
    """A panel for each size and budget, a line for each label; runs that diverged are crosses at the upper edge."""
    found = panels(numbers.assign(setting=""))  # whatever it says, the learning rate is the axis
    drawn = found[:MOST_PANELS]
    present = {label: style for label, style in chosen.items() if label in set(numbers["label"])}
    with house_style():
        columns = columns_for(len(drawn))
        rows = -(-len(drawn) // columns)
        figure = Figure(figsize=(max(5.2, 3.6 * columns), 0.5 + 3.2 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, (about, of_panel) in zip(grid.flat, drawn, strict=False):
            _panel(axes, of_panel, present)
            axes.set_title(panel_title(about))
        for axes in list(grid.flat)[len(drawn) :]:
            axes.set_axis_off()
        legend_below(figure, present)
        caption = (
            "Final validation loss by learning rate, mean over seeds, bars their range. A cross at the upper edge is a run that diverged. "
            "The rate at which a comparison was made is fair to a scheme as far as it is near that scheme's minimum."
        )
        return rendered(NAME, "Loss against learning rate", caption + left_out(len(found)), numbers, figure)


def _panel(axes: Axes, rows: pd.DataFrame, present: dict[str, Style]) -> None:
    axes.set_xscale("log")
    complete = rows[rows["outcome"] == "complete"].astype({"val_loss": "float64", "learning_rate": "float64"})
    sns.lineplot(
        complete, x="learning_rate", y="val_loss", hue="label", style="label", errorbar=("pi", 100), err_style="bars", legend=False,
        markers={label: style.marker for label, style in present.items()}, markeredgewidth=0, ax=axes, **line_looks(present),
    )  # fmt: skip
    for label, style in present.items():
        lost = rows[(rows["label"] == label) & (rows["outcome"] == "diverged")]
        axes.plot(
            lost["learning_rate"], [0.97] * len(lost), marker="x", linestyle="none", color=style.colour,
            transform=axes.get_xaxis_transform(),
        )  # fmt: skip
    rates = sorted(rows["learning_rate"].unique())
    axes.set_xticks(rates[:: max(1, len(rates) // 6)])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("learning rate")
    axes.set_ylabel("validation loss (nats/token)")
    thin_ticks(axes)
