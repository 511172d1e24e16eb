"""The differences of a ladder in one picture: every pair against the compute of its group, and the mean over all groups."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from resbench.results.figures.drawing import Drawing, rendered
from resbench.results.figures.numbers import difference_numbers
from resbench.results.figures.style import FAINT, INK, Style, house_style, legend_below, plain, point_looks, thin_ticks
from resbench.results.leaderboard import Leaderboard
from resbench.results.ranking import REFERENCE
from resbench.results.statistics import FEWEST_GROUPS, group_means, mean_interval

NAME = "difference_compute"

SPAN = 4.0
"""Ratio of the largest to the smallest compute from which groups are a ladder."""

LINEAR = 0.02
"""Nats up to which the axis of differences is linear; beyond it is logarithmic, for small models that learn late or not."""

TICKS = (-0.5, -0.2, -0.1, -0.05, -0.02, -0.01, 0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)

DODGE = 0.013
"""Between the places of neighbouring schemes in a group, which else would hide each other; as a part of the axis, like `NEAR`."""

NEAR = 0.055
"""Groups nearer than this have their names on two lines."""


def difference_compute_numbers(leaderboard: Leaderboard) -> pd.DataFrame:
    """The rows of `difference_numbers` whose compute is known. Empty if the groups are no ladder."""
    numbers = difference_numbers(leaderboard)
    if numbers.empty or numbers[["task", "setting"]].drop_duplicates().shape[0] > 1:
        return pd.DataFrame()
    numbers = numbers.dropna(subset="flops")
    is_ladder = numbers["flops"].nunique() >= FEWEST_GROUPS and numbers["flops"].max() >= SPAN * numbers["flops"].min()
    return numbers if is_ladder else pd.DataFrame()


def difference_over_compute(numbers: pd.DataFrame, chosen: dict[str, Style]) -> Drawing:
    """Left: pairs against compute. Right: each scheme's mean over all groups with its 95 % t interval."""
    present = {label: style for label, style in chosen.items() if label in set(numbers["label"])}
    span = numbers["flops"].max() / numbers["flops"].min()
    place = {label: span ** (DODGE * (position - (len(present) - 1) / 2)) for position, label in enumerate(present)}
    linear = numbers["pair_difference"].abs().max() <= LINEAR
    placed = numbers.assign(at=numbers["flops"] * numbers["label"].map(place))
    with house_style():
        figure = Figure(figsize=(8.6, 4.3), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(3, 1), sharey=True)
        sns.scatterplot(
            placed, x="at", y="pair_difference", hue="label", style="label", s=46, linewidth=0, alpha=0.9, legend=False, ax=left,
            **point_looks(present),
        )  # fmt: skip
        left.set_xscale("log")
        left.set_xlabel(f"training FLOPs of {REFERENCE}")
        left.set_ylabel(f"validation loss minus {REFERENCE}'s (nats/token)")
        if not linear:
            left.set_yscale("symlog", linthresh=LINEAR, linscale=1.2)
        for position, (label, style) in enumerate(present.items()):
            mean = mean_interval(group_means(_by_group(numbers[numbers["label"] == label])))
            if mean.low is not None and mean.high is not None:
                right.vlines(position, mean.low, mean.high, color=style.colour, linewidth=2.4)
            right.plot([position], [mean.mean], marker=style.marker, color=style.colour, markersize=8)
        right.set_xticks(range(len(present)), [plain(label) for label in present], rotation=35, ha="right")
        right.set_xlim(-0.6, len(present) - 0.4)
        right.set_title("mean of all groups", fontsize=10)
        for axes in (left, right):
            axes.axhline(0, color=chosen[REFERENCE].colour if REFERENCE in chosen else INK, linewidth=1.6, zorder=1)
            axes.grid(visible=False, axis="x")
            thin_ticks(axes)
        _differences_axis(left, linear)
        _name_sizes(left, numbers, span**NEAR)
        legend_below(figure, present, lines=False)
        beyond = "" if linear else f" The axis is linear up to {LINEAR:g} nats and logarithmic beyond."
        caption = (
            f"Loss minus {REFERENCE}'s on the same seed, size and tokens; below zero is better.{beyond} Left: every pair, at the training FLOPs of "
            f"{REFERENCE} (moved aside a little where schemes would hide each other); dotted lines are the groups, named by size. Right: the mean "
            "over groups, each counting alike, with its 95 % t interval over groups."
        )
        return rendered(NAME, f"Difference to {REFERENCE} over the ladder", caption, numbers, figure)


def _by_group(numbers: pd.DataFrame) -> list[list[float]]:
    return [rows["pair_difference"].to_list() for _, rows in numbers.groupby(["size", "budget_tokens"], sort=False)]


def _differences_axis(axes: Axes, linear: bool) -> None:
    low, high = axes.get_ylim()
    if not linear:
        ticks = [tick for tick in TICKS if low <= tick <= high]
        axes.set_yticks(ticks, [f"{tick:g}".replace("-", "\N{MINUS SIGN}") for tick in ticks])
        axes.yaxis.set_minor_locator(NullLocator())
    scale = axes.yaxis.get_transform()
    bottom, top = scale.transform([low, max(high, 0.0)])
    axes.set_ylim(low, float(scale.inverted().transform([top + 0.15 * (top - bottom)])[0]))  # room for the sizes


def _name_sizes(axes: Axes, numbers: pd.DataFrame, least: float) -> None:
    """A dotted line at every group's compute, and its size above; of two less than a factor ``least`` apart the second stands lower."""
    groups = numbers[["flops", "size"]].drop_duplicates().sort_values("flops")
    last = 0.0
    for flops, size in groups.itertuples(index=False, name=None):
        axes.axvline(flops, color=FAINT, linewidth=0.9, linestyle=":", zorder=0)
        near = flops < least * last
        axes.annotate(
            plain(str(size)), (flops, 1.0), xycoords=("data", "axes fraction"), xytext=(0, -12 if near else -1), textcoords="offset points",
            ha="center", va="top", fontsize=8.5,
        )  # fmt: skip
        last = 0.0 if near else flops
