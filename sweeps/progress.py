"""What a running sweep shows: one line for each run that ended, and below it, on a terminal, a bar with the time left."""

import itertools
import math
import time
from collections.abc import Mapping
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


class Clock(Protocol):
    def __call__(self) -> float: ...


class Eta:
    """Time left, from the work done so far. Work is in the plan's own estimate of seconds, which only has to be right in proportion."""

    def __init__(self, remaining: float, workers: int, clock: Clock = time.monotonic) -> None:
        self._remaining = remaining
        self._workers = workers
        self._clock = clock
        self._start = clock()
        self._done = 0.0

    def done(self, work: float) -> None:
        self._done += work
        self._remaining -= work

    def seconds(self, under_way: float = 0.0) -> float:
        """Seconds left; ``under_way`` is the work already done by unfinished runs."""
        done = self._done + under_way
        left = max(0.0, self._remaining - under_way)
        if done <= 0.0:
            return left / self._workers
        return left * (self._clock() - self._start) / done


class Display:
    """The terminal. Plain lines when it is not one, so that logs stay readable."""

    def __init__(self, console: Console, name: str, total: int, done: int) -> None:
        self.console = console
        self._live = console.is_terminal
        self._total, self._done = total, done
        self._last_plain = time.monotonic()
        self._progress = Progress(
            TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
            console=console, transient=True,
        )  # fmt: skip
        self._task = self._progress.add_task(name, total=total, completed=done, note="")

    def __enter__(self) -> "Display":
        if self._live:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._progress.stop()

    def line(self, text: str, style: str | None = None) -> None:
        self.console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)

    def ended(self, title: str, text: str, style: str | None = None) -> None:
        self.advance()
        width = len(str(self._total))
        self.line(f"[{self._done:>{width}}/{self._total}] {title}  {text}", style)

    def advance(self) -> None:
        """One more is done, of which nothing is to be said."""
        self._done += 1
        self._progress.update(self._task, completed=self._done)

    def tick(self, running: Mapping[str, float], eta_s: float) -> None:
        """Show the time left: at once on a terminal, every half minute otherwise."""
        note = f"{len(running)} running, about {duration(eta_s)} left"
        if self._live:
            self._progress.update(self._task, note=note)
        elif time.monotonic() - self._last_plain > 30:
            self._last_plain = time.monotonic()
            self.line(f"{self._done} of {self._total} done, {note}")


_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def duration(seconds: float, digits: int | None = None) -> str:
    """``75 -> 1 min 15 s``, ``5400 -> 1 h 30 min``; with ``digits``, as one number: ``75 -> 1.2 min``."""
    if not math.isfinite(seconds):
        return "an unknown time"
    seconds = max(0.0, seconds)
    if digits is not None:
        size, unit = next((size, unit) for size, unit in _UNITS if seconds >= size or size == 1)
        return f"{float(f'{seconds / size:.{digits}g}'):g} {unit}"
    whole = round(seconds)
    for (big, unit), (small, small_unit) in itertools.pairwise(_UNITS):
        if whole >= big:
            rest = whole % big // small
            return f"{whole // big} {unit} {rest} {small_unit}" if rest else f"{whole // big} {unit}"
    return f"{whole} s"


def count(value: float) -> str:
    """``12_345 -> 12.3k``; three significant digits."""
    for factor, unit in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}"


def plural(number: int, word: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{number} {word}{'' if number == 1 else 's'}"
