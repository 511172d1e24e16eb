"""What a figure function returns: the figure as SVG and PNG whose bytes depend on the numbers alone, its caption and its numbers."""

from __future__ import annotations

import io
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Drawing:
    """A figure and the numbers behind it. Where there is too little to draw, `svg` and `png` are empty and `reason` says why."""

    name: str
    title: str
    caption: str
    numbers: pd.DataFrame
    svg: str = ""
    png: bytes = b""
    reason: str = ""

    def csv(self) -> str:
        """The numbers behind the figure."""
        return self.numbers.to_csv(index=False, lineterminator="\n")


def rendered(name: str, title: str, caption: str, numbers: pd.DataFrame, figure: Figure) -> Drawing:
    """A drawn figure; to be called under `house_style`, which fixes fonts and ids. Dates and versions stay out of the files."""
    svg, png = io.StringIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None, "Title": title}, facecolor="white")
    figure.set_layout_engine("none")  # everything is in its place: working that out again takes as long as drawing
    figure.savefig(png, format="png", metadata={"Software": None}, facecolor="white")
    return Drawing(name, title, caption, numbers, svg.getvalue(), png.getvalue())


def too_little(name: str, title: str, reason: str, numbers: pd.DataFrame) -> Drawing:
    """A figure that is not drawn, and why."""
    return Drawing(name, title, "", numbers, reason=reason)
