"""The index: tracks, every row in one table to sort and filter, and the study's figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from resbench.results.cells import OPEN_TRACK, Cell, size_order
from resbench.results.columns import NOTHING, printable
from resbench.results.figures.drawing import Drawing
from resbench.results.figures.style import styles
from resbench.results.leaderboard import Leaderboard
from resbench.results.site.environment import Navigation, inline_svg, is_wide, render
from resbench.results.site.rows import VIEWS, facets_of, table_columns, table_row, view_of, why_empty
from resbench.results.tracks import Track

FACETS = {
    "track": "Track",
    "task": "Task",
    "size": "Size",
    "scheme": "Scheme",
    "hardware": "Hardware",
    "verified": "Verified",
}
"""What rows can be filtered by, and the words for it."""


def index_page(
    leaderboard: Leaderboard,
    figures: Sequence[Drawing],
    navigation: Navigation,
    tracks: Sequence[Track],
    reasons: Mapping[str, str],
) -> str:
    """The page at `index.html`."""
    cells = leaderboard.cells
    shared = {name: next(iter(values)) for name, values in _group_words(cells).items() if len(values) == 1}
    columns = [column for column in table_columns(cells) if column.key not in shared]
    colours = styles((cell.label, cell.scheme) for cell in cells)
    outcomes = [cell.outcomes for cell in cells]
    empty = {c.key: why_empty(c, cells[-1]) for c in columns if all(c.text(cell) == NOTHING for cell in cells)}
    return render(
        "index.html",
        "index",
        "",
        navigation,
        table=True,
        study=leaderboard.study,
        notes=leaderboard.notes,
        shared=", ".join(word for word in shared.values() if word),
        columns=columns,
        empty=empty,
        rows=[table_row(cell, columns, colours[cell.label].colour) for cell in cells],
        groups=len(leaderboard.groups),
        runs=sum(outcome.total for outcome in outcomes),
        complete=sum(outcome.complete for outcome in outcomes),
        tracks=_tracks(cells, tracks),
        facets=_facets(cells),
        views=VIEWS,
        view_of=view_of,
        open_reasons=_by_reason(reasons),
        figures=[(figure, inline_svg(figure), is_wide(figure)) for figure in figures],
    )


def track_facts(track: Track) -> list[tuple[str, str]]:
    """A track's rules in words."""
    return [
        ("Task", ", ".join(track.task)),
        (
            "Budget",
            " or ".join(f"{tokens:,}" for tokens in track.tokens) + " tokens"
            if track.tokens
            else " or ".join(f"{ratio:g}" for ratio in track.tokens_per_parameter) + " tokens per parameter",
        ),
        ("Sizes", ", ".join(track.sizes) or "any"),
        ("May be tuned", ", ".join(track.may_tune) or "nothing"),
        ("Tuning budget", f"{track.tuning_runs} trials a row" if track.tuning_runs else "none"),
        ("Seeds", f"{track.seeds} or more"),
        (
            "Fixed",
            ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in track.fixed.items()) or "nothing else",
        ),
        ("Frozen", f"{track.frozen.isoformat()}, version {track.version}"),
    ]


def _tracks(cells: Sequence[Cell], tracks: Sequence[Track]) -> list[dict[str, Any]]:
    """The tracks that have rows here, in the order of their file, the open one last."""
    counts: dict[str, int] = {}
    for cell in cells:
        counts[cell.group.track] = counts.get(cell.group.track, 0) + 1
    shown = [
        {
            "name": track.name,
            "title": track.title,
            "about": track.about,
            "facts": [*track_facts(track), ("Rows", str(counts[track.name]))],
        }
        for track in tracks
        if track.name in counts
    ]
    if OPEN_TRACK in counts:
        about = (
            "Rows that fit no track's rules. They are compared with each other where task, data, size and budget agree."
        )
        shown.append(
            {"name": OPEN_TRACK, "title": "Open", "about": about, "facts": [("Rows", str(counts[OPEN_TRACK]))]}
        )
    return shown


def _by_reason(reasons: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    """The cells in the open track under what keeps them there: a sweep's mostly share it."""
    found: dict[str, list[str]] = {}
    for cell, reason in sorted(reasons.items()):
        found.setdefault(printable(reason), []).append(printable(cell))
    return list(found.items())


def _facets(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """The filters in which rows differ; size and scheme always."""
    found = []
    for name, title in FACETS.items():
        options = {facets_of(cell)[name] for cell in cells}
        if len(options) > 1 or name in ("size", "scheme"):
            ordered = sorted(options, key=lambda option: (size_order(option), option))
            found.append({"name": name, "title": title, "options": ordered})
    return found


def _group_words(cells: Sequence[Cell]) -> dict[str, set[str]]:
    """What the rows' groups say, by column: one that says the same everywhere goes into the heading instead."""
    return {
        "task": {cell.group.task for cell in cells},
        "tokens": {
            "unknown budget" if cell.group.tokens is None else f"{cell.group.tokens:,} training tokens a run"
            for cell in cells
        },
        "setting": {cell.group.setting for cell in cells},
        "track": {"" if cell.group.track == OPEN_TRACK else f"track {cell.group.track}" for cell in cells},
    }
