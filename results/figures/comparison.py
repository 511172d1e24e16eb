"""The headline figure: each scheme's paired difference to the reference, with its interval and its pairs."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from resbench.results.figures.drawing import Drawing, rendered, too_little
from resbench.results.figures.facets import MOST_PANELS, columns_for, left_out, panels
from resbench.results.figures.style import FAINT, INK, Style, house_style, panel_title, plain, thin_ticks
from resbench.results.ranking import REFERENCE


def difference_to_reference(numbers: pd.DataFrame, chosen: dict[str, Style]) -> Drawing:
    """Final difference in loss to the reference: a row per scheme, a panel per comparison group."""
    name, title = "difference", f"Difference to {REFERENCE} at the end of training"
    if numbers.empty:
        return too_little(
            name,
            title,
            f"No scheme has a seed in common with a complete {REFERENCE} run of its comparison group.",
            numbers,
        )
    found = panels(numbers)
    drawn = found[:MOST_PANELS]
    with house_style():
        columns = columns_for(len(drawn))
        rows_of_panels = -(-len(drawn) // columns)
        most = max(rows["label"].nunique() for _, rows in drawn)
        figure = Figure(figsize=(max(7.2, 3.3 * columns), rows_of_panels * (1.15 + 0.5 * most)), layout="constrained")
        grid = figure.subplots(rows_of_panels, columns, squeeze=False)
        low, high = _limits(pd.concat([rows for _, rows in drawn]))
        labels = [[label for label in chosen if label in set(rows["label"])] for _, rows in drawn]
        for position, (panel, rows) in enumerate(drawn):
            axes = grid[position // columns, position % columns]
            named = position % columns == 0 or labels[position] != labels[position - 1]
            axes.set_xlim(low, high)
            _panel(axes, rows, labels[position], chosen, named=named)
            axes.set_title(panel_title(panel))
            axes.set_xlabel("Δ validation loss (nats/token)")
        for axes in list(grid.flat)[len(drawn) :]:
            axes.set_axis_off()
        caption = (
            f"Loss minus {REFERENCE}'s on the same seed; left of zero is better. Small points are single pairs, bars the 95 % t "
            "interval of their mean (none with one pair; an arrow where it leaves the panel). Grey band: differences within "
            f"±{float(numbers['margin'].iloc[0]):g}, which count as none."
        )
        return rendered(name, title, caption + left_out(len(found)), numbers, figure)


def _panel(axes: Axes, rows: pd.DataFrame, labels: list[str], chosen: dict[str, Style], *, named: bool) -> None:
    left, right = axes.get_xlim()
    margin = float(rows["margin"].iloc[0])
    axes.axvspan(max(-margin, left), min(margin, right), color=FAINT, alpha=0.6, linewidth=0, zorder=0)
    axes.axvline(0, color=chosen[REFERENCE].colour if REFERENCE in chosen else INK, linewidth=1.6)
    for height, label in enumerate(reversed(labels)):
        of_label = rows[rows["label"] == label]
        style = chosen[label]
        low, high = float(of_label["low"].iloc[0]), float(of_label["high"].iloc[0])
        if pd.notna(low) and pd.notna(high):
            ends = [max(low, left), min(high, right)]
            axes.plot(ends, [height, height], color=style.colour, linewidth=2.4, solid_capstyle="butt")
            for beyond, edge, marker in ((low < left, left, "<"), (high > right, right, ">")):
                if beyond:
                    axes.plot([edge], [height], marker=marker, color=style.colour, markersize=7, clip_on=False)
        axes.plot(
            of_label["pair_difference"],
            [height - 0.25] * len(of_label),
            "o",
            color=style.colour,
            markersize=3.5,
            alpha=0.65,
        )
        axes.plot(of_label["difference"].iloc[:1], [height], marker=style.marker, color=style.colour, markersize=8)
    axes.set_ylim(-0.6, len(labels) - 0.4)
    axes.set_yticks(range(len(labels)), [plain(label) if named else "" for label in reversed(labels)])
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    thin_ticks(axes)
    axes.tick_params(axis="y", length=0)


def _limits(rows: pd.DataFrame) -> tuple[float, float]:
    """Limits of the axis: zero, every pair and every mean, and intervals too unless they would dwarf these."""
    points = pd.concat([rows["pair_difference"], rows["difference"], pd.Series([0.0])])
    span = max(float(points.max() - points.min()), 1e-4)
    low = max(float(rows["low"].min()) if rows["low"].notna().any() else 0.0, float(points.min()) - 2 * span)
    high = min(float(rows["high"].max()) if rows["high"].notna().any() else 0.0, float(points.max()) + 2 * span)
    low, high = min(low, float(points.min())), max(high, float(points.max()))
    margin = 0.08 * (high - low)
    return low - margin, high + margin
