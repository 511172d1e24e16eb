"""The scaling of a study in a terminal: one short table for each question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from resbench.results.columns import NOTHING, printable, quantity, signed
from resbench.results.scaling.points import COSTS
from resbench.results.scaling.study import Scaling

Row = Mapping[str, Any]


def print_scaling(scaling: Scaling, console: Console) -> None:
    """Print every question's table; a row without an answer says why below it."""
    _print(console, f"{scaling.study}: L(N, D) = E + A/N^α + B/D^β", ["scheme", "runs", "E", "α", "β", "N_opt ~ C^"], scaling.laws,
           lambda row: [row["label"], str(row["runs"]), *(_with_ends(row, name, 3) for name in ("E", "alpha", "beta", "exponent"))])  # fmt: skip
    _print(console, "The largest size, predicted from the others", ["scheme", "size", "tokens", "law", "predicted", "measured", "error"],
           scaling.held_out, lambda row: [row["label"], row["size"], quantity(row["tokens"]), row["law"],
                                          f"{row['predicted']:.4f}{_bracket(row['low'], row['high'], 4)}", f"{row['measured']:.4f}",
                                          f"{signed(row['error'])} ({signed(100 * row['error_relative'], 2)} %)"])  # fmt: skip
    _print(console, "Power laws L = A C^-a along the frontier", ["scheme", "cost", "a", "points", "misfit", "holds from", "to"], scaling.frontiers,
           lambda row: [row["label"], row["cost"], _with_ends(row, "a", 4), str(int(row["points"])), f"{100 * row['misfit']:.2f} %",
                        quantity(row["cost_low"]), quantity(row["cost_high"])])  # fmt: skip
    _print(console, "What resnet must spend for the same loss", ["scheme", "cost", "multiplier", "at the ends", "losses"], scaling.multipliers,
           lambda row: [row["label"], row["cost"], f"{row['multiplier']:.3f}×{_bracket(row['low'], row['high'], 3)}",
                        f"{row['at_highest_loss']:.3f}× to {row['at_lowest_loss']:.3f}×",
                        f"{row['highest_loss']:.3f} to {row['lowest_loss']:.3f}"])  # fmt: skip
    _print(console, "Loss per doubling of the factor (nats/token)", ["factor", "scheme", "where", "slope", "p", "seeds"], scaling.effects,
           lambda row: [row["factor"], row["scheme"], row["where"], signed(row["slope"]) + _bracket(row["low"], row["high"], 4),
                        NOTHING if pd.isna(row["p"]) else "<0.001" if row["p"] < 0.001 else f"{row['p']:.3f}", str(row["seeds"])])  # fmt: skip
    _print(console, "Best size at one compute", ["scheme", "FLOPs", "sizes", "N_opt"], scaling.iso_flops,
           lambda row: [row["label"], f"{row['flops']:.2e}", str(row["sizes"]), _best_size(row)])  # fmt: skip
    for note in scaling.notes:
        console.print(Text(f"· {note}", style="dim"))


def _print(console: Console, title: str, headings: Sequence[str], numbers: pd.DataFrame, cells: Any) -> None:
    if "ladder" in numbers and numbers["ladder"].nunique() > 1:
        for ladder, rows in numbers.groupby("ladder", sort=False):
            _print(console, f"{title}: {ladder}", headings, rows, cells)
        return
    if numbers.empty:
        return
    table = Table(
        title=Text(printable(title)), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False
    )
    for heading in headings:
        table.add_column(heading, overflow="fold")
    unanswered: dict[str, dict[str, list[str]]] = {}
    for row in numbers.to_dict(orient="records"):
        if row.get("reason"):
            costs = unanswered.setdefault(str(row["reason"]), {}).setdefault(str(row["label"]), [])
            costs += [str(row["cost"])] if "cost" in row else []
        else:
            table.add_row(*(Text(printable(str(cell))) for cell in cells(row)))
    if table.row_count:
        console.print(table)
    else:
        console.print(Text(printable(title)))
    for reason, labels in unanswered.items():
        named = [
            label + (f" ({', '.join(costs)})" if costs and len(costs) < len(COSTS) else "")
            for label, costs in labels.items()
        ]
        console.print(Text(printable(f"· {'; '.join(named)}: {reason}"), style="dim"))
    console.print()


def _best_size(row: Row) -> str:
    if pd.isna(row["best_params"]):
        return "no minimum within the sizes"
    ends = "" if pd.isna(row["low"]) else f" [{quantity(row['low'])}, {quantity(row['high'])}]"
    return quantity(row["best_params"]) + ends


def _with_ends(row: Row, name: str, digits: int) -> str:
    return f"{row[name]:.{digits}f}{_bracket(row[f'{name}_low'], row[f'{name}_high'], digits)}"


def _bracket(low: Any, high: Any, digits: int) -> str:
    return "" if pd.isna(low) or pd.isna(high) else f" [{low:.{digits}f}, {high:.{digits}f}]"
