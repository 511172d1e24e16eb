"""The method page: what is measured, every formula with its source, the rules of all tracks, and what the numbers cannot tell."""

from __future__ import annotations

from collections.abc import Sequence

from resbench.results.leaderboard import Leaderboard
from resbench.results.site.environment import Navigation, render
from resbench.results.site.equations import inline, read_docstring
from resbench.results.site.index import track_facts
from resbench.results.site.method_text import SECTIONS
from resbench.results.statistics import CONFIDENCE, POWER
from resbench.results.tracks import Track


def method_page(leaderboard: Leaderboard, navigation: Navigation, tracks: Sequence[Track]) -> str:
    """The page at `method.html`."""
    numbers = {
        "{confidence}": f"{100 * CONFIDENCE:.0f}",
        "{power}": f"{100 * POWER:.0f}",
        "{margin}": f"{leaderboard.margin:g}",
    }
    sections = []
    for section in SECTIONS:
        text = section.text.strip("\n")
        for name, value in numbers.items():
            text = text.replace(name, value)
        sections.append(
            {
                "anchor": section.anchor,
                "title": section.title,
                "prose": read_docstring(text),
                "source": inline(section.source),
            }
        )
    return render(
        "method.html",
        "method",
        "",
        navigation,
        study=leaderboard.study,
        sections=sections,
        tracks=[
            {"name": track.name, "title": track.title, "about": track.about, "facts": track_facts(track)}
            for track in tracks
        ],
    )
