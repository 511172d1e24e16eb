"""The leaderboard in a terminal: the columns that fit, a table per comparison group."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from resbench.results.cells import Cell
from resbench.results.columns import DisplayColumn, printable, shown_columns
from resbench.results.leaderboard import Leaderboard

LONGEST_LABEL = 28
"""Characters a scheme's label gets; the files have it whole."""


def print_leaderboard(leaderboard: Leaderboard, console: Console) -> None:
    """Print every group's table and the notes; names from runs are shown as they are, never as rich markup."""
    columns = fitting(shown_columns(leaderboard.cells), leaderboard.cells, console.width)
    for position, (_, cells) in enumerate(leaderboard.groups):
        if position:
            console.print()
        table = Table(
            title=Text(printable(_title(leaderboard, cells[0]))),
            title_justify="left",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            show_edge=False,
        )
        for column in columns:
            table.add_column(
                column.heading,
                justify="right" if column.numeric else "left",
                no_wrap=True,
                overflow="ellipsis",
                max_width=_width(column, leaderboard.cells),
            )
        for cell in cells:
            table.add_row(*(Text(column.text(cell)) for column in columns), style="dim" if cell.rank is None else None)
        console.print(table)
    for note in leaderboard.notes:
        console.print(Text(f"· {note}", style="dim"))


def fitting(columns: Sequence[DisplayColumn], cells: Sequence[Cell], width: int) -> list[DisplayColumn]:
    """The columns of a table `width` characters wide: the most important ones that fit, in their usual order."""
    chosen: list[DisplayColumn] = []
    for column in sorted((column for column in columns if column.brief), key=lambda column: column.brief):
        needed = 2 + _width(column, cells)
        if column.brief == 1 or needed <= width:
            chosen.append(column)
            width -= needed
    return [column for column in columns if column in chosen]


def _width(column: DisplayColumn, cells: Sequence[Cell]) -> int:
    longest = max(len(column.heading), *(len(column.text(cell)) for cell in cells))
    return min(longest, LONGEST_LABEL) if column.key == "label" else longest


def _title(leaderboard: Leaderboard, cell: Cell) -> str:
    entropy = (
        f" · unigram entropy {cell.unigram_bits_per_byte:.3f} bits/byte"
        if cell.unigram_bits_per_byte is not None
        else ""
    )
    return f"{leaderboard.study}: {cell.group.title}{entropy}"
