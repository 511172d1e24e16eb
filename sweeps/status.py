"""`resbench sweep status`: where a sweep stands, read from MLflow alone, so that it can be asked from anywhere and at any time.

States of a planned run: *waiting* (no run yet, or given back), *running*, *dead* (said to be running, but nobody runs it), *failed*, and the outcomes
that are results: complete, diverged, oom, pruned.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from resbench.sweeps.ledger import RESULTS, Entry, Ledger
from resbench.sweeps.plan import planned_keys
from resbench.sweeps.progress import count, duration, plural

STATES = ("waiting", "running", "dead", "failed", *RESULTS)


@dataclass(frozen=True)
class CellStatus:
    """``best``: lowest validation loss in nats per token of the cell's completed runs, final ones before those of the search."""

    cell: str
    states: Mapping[str, int]
    best: float | None
    seconds: Sequence[float]


@dataclass(frozen=True)
class Status:
    """A sweep at one moment. ``eta_s`` is None where nothing has ended yet or nobody runs it."""

    study: str
    cells: Sequence[CellStatus]
    eta_s: float | None
    dead: Sequence[Entry] = ()
    failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def states(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for cell in self.cells:
            total.update(cell.states)
        return total


def status_of(
    ledger: Ledger, record: Mapping[str, Any], alive: bool, under_way: frozenset[str] | None = None
) -> Status:
    """Where a sweep stands.

    alive: whether anybody runs it; a run that is said to be running is dead otherwise. under_way: keys of the runs that live workers hold, where
    that is known.
    """
    entries = {entry.key: entry for entry in ledger.entries()}
    cells, dead = [], []
    for cell, keys in planned_keys(record).items():
        states: Counter[str] = Counter()
        for key in keys:
            state = _state(entries.get(key), alive, under_way)
            states[state] += 1
            if state == "dead":
                dead.append(entries[key])
        done = [entries[key] for key in keys if key in entries and entries[key].outcome == "complete"]
        best = min(done, key=lambda e: (e.phase != "final", e.val_loss is None, e.val_loss), default=None)
        seconds = [entry.seconds for entry in done if entry.seconds]
        cells.append(CellStatus(cell, states, best.val_loss if best else None, seconds))
    failures = {entry.key: entry.error for entry in entries.values() if entry.outcome == "failed"}
    return Status(ledger.study, cells, _eta(cells) if alive else None, dead, failures)


def _state(entry: Entry | None, alive: bool, under_way: frozenset[str] | None) -> str:
    if entry is None:
        return "waiting"
    if entry.has_result or entry.outcome == "failed":
        return entry.outcome
    if entry.status == "RUNNING":
        held = entry.key in under_way if under_way is not None else alive
        return "running" if held else "dead"
    return "waiting"


def _eta(cells: Sequence[CellStatus]) -> float | None:
    """Runs to do times the mean time of the cell's completed runs (of all cells' where it has none), shared by as many as run now."""
    everywhere = [seconds for cell in cells for seconds in cell.seconds]
    if not everywhere:
        return None
    work, running = 0.0, 0
    for cell in cells:
        known = cell.seconds or everywhere
        each = sum(known) / len(known)
        running += cell.states.get("running", 0)
        # A run under way is taken to be half done.
        work += each * (cell.states.get("waiting", 0) + cell.states.get("dead", 0) + cell.states.get("running", 0) / 2)
    return work / max(1, running)


def print_status(console: Console, status: Status, who: str) -> None:
    """One table, a line per cell, and what needs a hand below it."""

    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)

    total = status.states
    shown = [state for state in STATES if total[state]]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("cell", overflow="fold")
    for state in shown:
        table.add_column(state, justify="right", no_wrap=True)
    table.add_column("best val loss", justify="right", no_wrap=True)
    table.add_column("time a run", justify="right", no_wrap=True)
    for cell in status.cells:
        mean = sum(cell.seconds) / len(cell.seconds) if cell.seconds else None
        table.add_row(
            Text(cell.cell),
            *(str(cell.states.get(state, 0) or "") for state in shown),
            "" if cell.best is None else f"{cell.best:.4f}",
            "" if mean is None else duration(mean),
        )
    console.print(table)
    done = sum(total[state] for state in RESULTS)
    left = "" if status.eta_s is None else f", about {duration(status.eta_s)} left"
    say(f"{status.study}: {count(done)} of {plural(total.total(), 'run')} ended{left}. {who}", "bold")
    for entry in status.dead:
        say(
            f"dead: {entry.key} (MLflow run {entry.run_id}): its worker is gone; it goes on from its last checkpoint",
            "yellow",
        )
    for key, error in status.failures.items():
        say(f"failed: {key}: {(error or 'no reason given').splitlines()[0]}", "red")
