"""How every figure looks: one colour for a scheme everywhere, type that stays legible at half a page, stable bytes."""

from __future__ import annotations

import colorsys
import hashlib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib.style
import seaborn as sns
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
    "mhc-lite": "#56b4e9",
    "kromhc": "#7a5cc7",
    "single-pass-mhc": "#2f8f9d",
    "orthogonal-hc": "#9c6b30",
    "frac-connections": "#c98a00",
    "attnres": "#b3416f",
    "denseformer": "#7f8f1f",
    "laurel": "#b565d9",
}
"""Colours of the built-in schemes. The first five are compared most and come from Okabe and Ito's palette, made to be told apart by colour-blind
people; thirteen colours cannot be, which is why every scheme has a marker and a dash of its own as well. All have a contrast of 3 : 1 or more on
light and on dark paper but the lightest, which has 2.3 on white."""

DASHED = frozenset({"identity-hc", "wide"})
"""Built-in controls: drawn in dashes, so that a scheme they coincide with can be seen underneath."""

PLUGIN_COLOURS = tuple(to_hex(colour) for colour in sns.husl_palette(12, s=0.75, l=0.56))
"""Colours of all other schemes; which one is fixed by the scheme's name, whatever else a study compares."""

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

    A scheme's own colour, marker and dash follow from its name alone, so that it looks the same in every figure of every study. Variants of a scheme
    (several labels) run from light to dark in the natural order of their labels, with markers and dashes of their own. Two plugins whose names
    fall on the same look keep their colour and differ in marker.
    """
    in_order = sorted(set(labels), key=lambda pair: label_order(*pair))
    by_scheme: dict[str, list[str]] = {}
    for label, scheme in in_order:
        by_scheme.setdefault(scheme, []).append(label)
    chosen: dict[str, Style] = {}
    taken: set[Style] = set()
    for scheme, variants in by_scheme.items():
        first = scheme_style(scheme)
        for position, label in enumerate(variants):
            shade = first.colour if len(variants) == 1 else shade_of(first.colour, position / (len(variants) - 1))
            at = MARKERS.index(first.marker) + position
            dash = DASHES[(DASHES.index(first.dash) + position) % len(DASHES)]
            while (style := Style(shade, MARKERS[at % len(MARKERS)], dash)) in taken and at < 2 * len(MARKERS):
                at += 1
            taken.add(style)
            chosen[label] = style
    return {label: chosen[label] for label, _ in in_order}


def scheme_style(scheme: str) -> Style:
    """How a scheme without variants looks, from its name alone."""
    known = list(SCHEME_COLOURS)
    number = known.index(scheme) if scheme in known else hashlib.sha256(scheme.encode()).digest()[1]
    dash = DASHES[1] if scheme in DASHED else DASHES[0] if number < 5 else DASHES[number % len(DASHES)]
    return Style(scheme_colour(scheme), MARKERS[number % len(MARKERS)], dash)


def line_looks(chosen: Mapping[str, Style]) -> dict[str, Any]:
    """`chosen` as the arguments by which seaborn's line plots take colours, dashes and their order."""
    return {
        "palette": {label: style.colour for label, style in chosen.items()},
        "dashes": {label: "" if style.dash == "-" else style.dash[1] for label, style in chosen.items()},
        "hue_order": list(chosen),
        "style_order": list(chosen),
    }


def point_looks(chosen: Mapping[str, Style]) -> dict[str, Any]:
    """`chosen` as the arguments by which seaborn's scatter plots take colours, markers and their order."""
    return {
        "palette": {label: style.colour for label, style in chosen.items()},
        "markers": {label: style.marker for label, style in chosen.items()},
        "hue_order": list(chosen),
        "style_order": list(chosen),
    }


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
    """The rcParams under which figures are made and saved: seaborn's white grid in our ink, and ids that do not change between builds."""
    settings = (
        sns.plotting_context("notebook")
        | sns.axes_style("whitegrid")
        | {
            "axes.edgecolor": INK,
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
            "xtick.bottom": True,
            "ytick.left": True,
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
    )
    with matplotlib.style.context(["default", settings]):  # whatever someone's matplotlibrc says
        yield


def legend_below(figure: Figure, chosen: Mapping[str, Style], *, lines: bool = True) -> None:
    """One legend for the whole figure, under it, in the order of `chosen`; ``lines=False`` for figures of points."""
    handles = [
        Line2D([], [], color=style.colour, marker=style.marker, linestyle=style.dash if lines else "none")
        for style in chosen.values()
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


def shade_of(colour: str, position: float) -> str:
    """The colour made lighter (position 0) to darker (position 1), within what both light and dark pages can show."""
    hue, _, saturation = colorsys.rgb_to_hls(*to_rgb(colour))
    lightness = 0.72 - 0.34 * position
    return to_hex(colorsys.hls_to_rgb(hue, lightness, saturation))
