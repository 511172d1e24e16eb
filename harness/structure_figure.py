"""The per-sublayer profile of a run, drawn: one small panel for each thing measured, sublayers from left to right.

Written as SVG by hand, in a millisecond: every run of a sweep has this figure, and matplotlib would spend more time on it than a short run takes
to be measured.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

PANELS: tuple[tuple[str, tuple[str, ...], bool], ...] = (
    ("composite gain (Amax)", ("composite_forward", "composite_backward"), True),
    ("gain of each sublayer", ("gain_forward", "gain_backward"), True),
    ("|row sum - 1|, |column sum - 1|", ("row_error", "column_error"), True),
    ("composite's second eigenvalue", ("composite_second_eigenvalue",), False),
    ("range of ln |H|", ("logit_range",), False),
    ("entropy of mixing, nats", ("entropy",), False),
    ("effective rank of mixing", ("effective_rank",), False),
    ("distance of H to I and to 11ᵀ/n", ("distance_to_identity", "distance_to_uniform"), False),
    ("cosine between streams", ("cosine",), False),
    ("root mean square of streams", ("norm_min", "norm_max"), True),
    ("entropy of read and write, nats", ("read_entropy", "write_entropy"), False),
    ("largest attention logit", ("max_attention_logit",), False),
)
"""(title, columns of the profile, whether the axis is logarithmic)."""

COLOURS = ("#0072b2", "#d55e00")
INK, FAINT = "#1f2933", "#d3d9e0"
ACROSS = 4
WIDTH, HEIGHT = 285, 150
"""Of a panel, in pixels."""
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 36, 22
"""Margins of a panel: numbers, air, title and legend, numbers."""
HEAD = 34
SMALLEST_SPAN = 1e-3
"""Least relative height of an axis: a line that moves less is drawn flat, lest rounding look like an effect."""


def draw_profile(
    profile: Mapping[str, Sequence[Any]], title: str, panels: Sequence[tuple[str, tuple[str, ...], bool]] = PANELS
) -> str:
    """``profile`` as `Structure.as_dict` gives it -> an SVG; panels without data are left out."""
    sublayers = len(profile["sublayer"])
    drawn = [
        panel(name, {column: profile[column] for column in columns if column in profile}, log, sublayers)
        for name, columns, log in panels
    ]
    drawn = [content for content in drawn if content]
    width, height = WIDTH * ACROSS, HEAD + HEIGHT * max(1, -(-len(drawn) // ACROSS))
    placed = "".join(
        f'<g transform="translate({WIDTH * (at % ACROSS)},{HEAD + HEIGHT * (at // ACROSS)})">{content}</g>'
        for at, content in enumerate(drawn)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="DejaVu Sans, Verdana, sans-serif" font-size="10" fill="{INK}">'
        f'<rect width="100%" height="100%" fill="white"/><text x="12" y="20" font-size="13">{escape(title)}</text>{placed}</svg>\n'
    )


def panel(name: str, columns: Mapping[str, Sequence[Any]], log: bool, sublayers: int) -> str:
    """One panel with its axes and a line for each column; empty when there is nothing to draw."""
    lines = {column: points(values, log) for column, values in columns.items()}
    heights = [y for line in lines.values() for _, y in line]
    if not heights:
        return ""
    low, high = min(heights), max(heights)
    spare = max(SMALLEST_SPAN if log else SMALLEST_SPAN * max(abs(low), abs(high)), 1e-12) - (high - low)
    if spare > 0:
        low, high = low - spare / 2, high + spare / 2
    inner_width, inner_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x_of(i: int) -> float:
        return LEFT + inner_width * (i + 0.5) / sublayers

    def y_of(value: float) -> float:
        return TOP + inner_height * (high - value) / (high - low)

    out = [f'<text x="{LEFT}" y="14" font-weight="bold">{escape(name)}</text>']
    for value in (high, (low + high) / 2, low):
        y = y_of(value)
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{FAINT}"/>')
        shown = number(math.exp(value) if log else value)
        out.append(f'<text x="{LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end" font-size="9">{shown}</text>')
    for i in sorted({0, sublayers // 2, sublayers - 1}):
        out.append(f'<text x="{x_of(i):.1f}" y="{HEIGHT - 8}" text-anchor="middle" font-size="9">{i}</text>')
    for at, (column, line) in enumerate(lines.items()):
        path = " ".join(f"{x_of(i):.1f},{y_of(y):.1f}" for i, y in line)
        out.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[at]}" stroke-width="1.5"/>')
        out += [f'<circle cx="{x_of(i):.1f}" cy="{y_of(y):.1f}" r="1.6" fill="{COLOURS[at]}"/>' for i, y in line]
        if len(lines) > 1:
            first, _, last = column.rpartition("_")
            word = first if last in ("error", "entropy") else last
            out.append(f'<text x="{LEFT + 90 * at}" y="28" fill="{COLOURS[at]}">{escape(word)}</text>')
    return "".join(out)


def points(values: Sequence[Any], log: bool) -> list[tuple[int, float]]:
    """(sublayer, height) of what can be drawn; on a logarithmic axis the logarithms of what is positive."""
    found = [(i, float(v)) for i, v in enumerate(values) if v is not None and math.isfinite(v) and (v > 0 or not log)]
    return [(i, math.log(v)) for i, v in found] if log else found


def number(value: float) -> str:
    """Four digits, without an exponent where that stays short."""
    return f"{value:.4g}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.1e}"
