"""How every figure looks: one colour for a scheme everywhere, type that stays legible at half a page, stable bytes."""

from __future__ import annotations

import colorsys
import hashlib
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from resbench.results.cells import natural
from resbench.results.columns import printable

INK = "#1f2933"
"""Text and axes. The page replaces it in dark mode, so nothing else may use this colour."""

FAINT = "#d3d9e0"
"""Grid and reference lines; replaced in dark mode too."""

SCHEME_COLOURS = {
    "resnet": "#6b7683",
    "hc": "#d55e00",
    "mhc": "#0072b2",
    "identity-hc": "#009e73",
    "wide": "#cc79a7",
}
"""Colours of the built-in schemes (after Okabe and Ito, who chose them to be told apart by colour-blind people)."""

DASHED = frozenset({"identity-hc", "wide"})
"""Built-in controls: drawn in dashes, so that a scheme they coincide with can be seen underneath."""

PLUGIN_COLOURS = ("#e69f00", "#56b4e9", "#a3386c", "#8c8c2a", "#8059c4", "#3c9d9b")
"""Colours of all other schemes; which one is fixed by the scheme's name."""

Dash = Literal["-"] | tuple[float, tuple[float, ...]]

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES: tuple[Dash, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))

LEGEND_SIZE = 10.5
"""Points."""

LONGEST_LABEL, LONGEST_TITLE = 32, 48
"""Characters shown of a label and of a panel's title; the CSV has them whole."""


@dataclass(frozen=True)
class Style:
    """How one label (a scheme or a variant of it) is drawn."""

    colour: str
    marker: str
    dash: Dash


def scheme_colour(scheme: str) -> str:
    """The colour of a scheme, from its name alone."""
    if scheme in SCHEME_COLOURS:
        return SCHEME_COLOURS[scheme]
    return PLUGIN_COLOURS[hashlib.sha256(scheme.encode()).digest()[0] % len(PLUGIN_COLOURS)]


def styles(labels: Iterable[tuple[str, str]]) -> dict[str, Style]:
    """A style for every (label, scheme) of a study, in the order in which figures list them.

    Labels that share a colour (variants of a scheme, or plugins whose names fall on the same one) run from light to dark in
    the natural order of their labels and differ in marker and dash as well.
    """
    by_colour: dict[str, list[str]] = {}
    in_order = sorted(set(labels), key=lambda pair: label_order(*pair))
    for label, scheme in in_order:
        by_colour.setdefault(scheme_colour(scheme), []).append(label)
    chosen: dict[str, Style] = {}
    dashed = {SCHEME_COLOURS[scheme] for scheme in DASHED}
    for start, (colour, sharing) in enumerate(sorted(by_colour.items())):
        for position, label in enumerate(sharing):
            shade = colour if len(sharing) == 1 else _shade(colour, position / (len(sharing) - 1))
            marker = MARKERS[(start + position) % len(MARKERS)]
            chosen[label] = Style(shade, marker, DASHES[(position + (colour in dashed)) % len(DASHES)])
    return {label: chosen[label] for label, _ in in_order}


def label_order(label: str, scheme: str) -> tuple[int, list[tuple[int, float, str]]]:
    """Sorting key for rows and legends: the built-in schemes in their order above, then plugins, each in natural order."""
    known = list(SCHEME_COLOURS)
    return known.index(scheme) if scheme in known else len(known), natural(label)


def plain(text: str, longest: int = LONGEST_LABEL) -> str:
    """Text from a run as a figure may show it: printable, not too long, and never read as mathematics."""
    shown = printable(unicodedata.normalize("NFC", text))
    short = shown if len(shown) <= longest else shown[: longest - 1] + "…"
    return short.replace("$", r"\$")


@contextmanager
def house_style() -> Iterator[None]:
    """The rcParams under which figures are made and saved: fonts, thin axes, and ids that do not change between builds."""
    settings = {
        "axes.axisbelow": True,
        "axes.edgecolor": INK,
        "axes.grid": True,
        "axes.labelcolor": INK,
        "axes.labelsize": 11,
        "axes.linewidth": 0.8,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 11.5,
        "axes.titlecolor": INK,
        "axes.titleweight": "bold",
        "axes.unicode_minus": True,
        "figure.dpi": 100,
        "font.family": ["DejaVu Sans"],
        "font.size": 10.5,
        "grid.color": FAINT,
        "grid.linewidth": 0.7,
        "legend.fontsize": LEGEND_SIZE,
        "legend.frameon": False,
        "legend.labelcolor": INK,
        "lines.linewidth": 2.0,
        "lines.markersize": 6,
        "savefig.dpi": 160,
        "svg.fonttype": "none",
        "svg.hashsalt": "resbench",
        "text.color": INK,
        "xtick.color": INK,
        "xtick.labelsize": 10,
        "ytick.color": INK,
        "ytick.labelsize": 10,
    }
    with matplotlib.rc_context(matplotlib.RcParams(settings)):
        yield


def legend_below(figure: Figure, chosen: dict[str, Style]) -> None:
    """One legend for the whole figure, under it, in the order of `chosen`."""
    handles = [
        Line2D([], [], color=style.colour, marker=style.marker, linestyle=style.dash) for style in chosen.values()
    ]
    # A label that starts with an underscore is hidden by matplotlib; a word joiner in front shows it unchanged.
    names = [f"\N{WORD JOINER}{plain(label)}" if label.startswith("_") else plain(label) for label in chosen]
    widest = max(map(len, names)) * 0.6 + 5.5  # in ems: letters, then the line and the gaps beside it
    columns = max(1, min(len(names), int(figure.get_figwidth() * 72 / LEGEND_SIZE / widest)))
    # matplotlib fills a legend column by column; people read it row by row.
    by_row = [position for column in range(columns) for position in range(column, len(names), columns)]
    figure.legend(
        [handles[position] for position in by_row],
        [names[position] for position in by_row],
        loc="outside lower center",
        ncols=columns,
        handlelength=2.6,
        columnspacing=1.6,
    )


def panel_title(text: str) -> str:
    """A panel's title: `plain`, with room for more than a label has."""
    return plain(text, longest=LONGEST_TITLE)


def thin_ticks(axes: Axes) -> None:
    """Short tick marks in the grid's colour: the labels carry the numbers."""
    axes.tick_params(length=3, width=0.8, which="major")
    axes.tick_params(length=0, which="minor")


def _shade(colour: str, position: float) -> str:
    """The colour made lighter (position 0) to darker (position 1), within what both light and dark pages can show."""
    hue, _, saturation = colorsys.rgb_to_hls(*to_rgb(colour))
    lightness = 0.72 - 0.34 * position
    return to_hex(colorsys.hls_to_rgb(hue, lightness, saturation))
