"""The start of a run, attributed: what passes between the process's birth and the end of its first training step, and in which part.

The first run of a process counts from the process's creation, so that imports are in it; later runs from their call. A trial that a sweep forks is a
process of its own whose imports were done before it was born.
"""

import os
import time
from pathlib import Path

import psutil

from resbench.harness import names

PHASES = tuple(names.START_S)
"""In order. ``record``: the run's params and tags. ``model``: Trainer, weights, device, optimizer. ``validation``: of the untrained model, and the
first batch. The last three are the first step's and contain compilation."""


def age_s() -> float:
    """Seconds since this process was created, forked ones since their fork."""
    try:
        after_boot = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - after_boot
    except (
        OSError
    ):  # not Linux; psutil's answer there is off by up to a second, as it knows the time of boot to the second
        return time.time() - psutil.Process().create_time()


class Timeline:
    """Seconds from mark to mark."""

    _in_use = False

    def __init__(self) -> None:
        now = time.time()
        self._last = now if Timeline._in_use else now - age_s()
        self._began = self._last
        self.seconds: dict[str, float] = {}
        first, Timeline._in_use = not Timeline._in_use, True
        if first:
            self.mark("imports")

    def mark(self, phase: str) -> None:
        """The phase has ended now; only its first end counts."""
        if phase not in self.seconds:
            now = time.time()
            self.seconds[phase] = now - self._last
            self._last = now

    @property
    def total(self) -> float:
        """Seconds until the last mark."""
        return self._last - self._began


_current: Timeline | None = None


def begin() -> None:
    """A run starts in this process."""
    global _current
    _current = Timeline()


def mark(phase: str) -> None:
    """A phase of the run that is starting has ended; nothing when none is."""
    if _current is not None:
        _current.mark(phase)


def end() -> Timeline | None:
    """The first step is done; the timeline, once."""
    global _current
    found, _current = _current, None
    return found
