"""The leaderboard as Markdown: a table per comparison group, safe whatever the names of schemes are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from resbench.results.columns import DisplayColumn, shown_columns
from resbench.results.figures.drawing import Drawing
from resbench.results.leaderboard import Leaderboard

GROUPED = ("size", "setting", "task", "tokens", "track")
"""Columns that the heading of a table already says."""


def to_markdown(leaderboard: Leaderboard, figures: Iterable[Drawing]) -> str:
    """A document with one table per comparison group, the notes, what columns mean, and the figures as files beside it."""
    columns = [column for column in shown_columns(leaderboard.cells) if column.key not in GROUPED]
    parts = [f"# {escape(leaderboard.study)}: leaderboard", *_notes(leaderboard.notes)]
    for group, cells in leaderboard.groups:
        parts += [
            f"## {escape(group.title)}",
            _table(columns, [[column.text(cell) for column in columns] for cell in cells]),
        ]
    parts.append(
        "## Columns\n\n"
        + "\n".join(f"- **{escape(column.heading)}**: {escape(column.explanation)}" for column in columns)
    )
    for figure in figures:
        body = (
            f"![{escape(figure.title)}](figures/{figure.name}.svg)\n\n{escape(figure.caption)}"
            if figure.svg
            else escape(figure.reason)
        )
        parts.append(f"## {escape(figure.title)}\n\n{body}")
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Text from a run with nothing left in it that Markdown or HTML would read as markup; always one line."""
    one_line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    entities = one_line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{character}" if character in "\\`*_{}[]()#+!|~$" else character for character in entities)


def _notes(notes: Sequence[str]) -> list[str]:
    return ["\n".join(f"- {escape(note)}" for note in notes)] if notes else []


def _table(columns: Sequence[DisplayColumn], rows: Sequence[Sequence[str]]) -> str:
    lines = [
        [escape(column.heading) for column in columns],
        ["---:" if column.numeric else ":---" for column in columns],
        *([escape(text) for text in row] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
