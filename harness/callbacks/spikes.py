"""Spikes of the loss or the gradient norm: the share of steps whose value lies far above those before it."""

import math
from collections import deque
from collections.abc import Iterable
from typing import Any

WINDOW = 1000
DEVIATIONS = 7.0
FIRST_JUDGED = 50
"""Steps to have seen before one is judged: a standard deviation of a few values means nothing."""


class SpikeCounter:
    """Counts values at least 7 standard deviations above the mean of the (up to) 1000 before them."""

    def __init__(self) -> None:
        self._window: deque[float] = deque(maxlen=WINDOW)
        self._sum = 0.0
        self._squares = 0.0
        self.steps = 0
        self.spikes = 0

    @property
    def share(self) -> float:
        """Spikes over all steps seen, 0 before the first."""
        return self.spikes / self.steps if self.steps else 0.0

    def add(self, values: Iterable[float]) -> None:
        """Judge and remember one value per step, in order. A value that is not finite is not remembered."""
        for value in values:
            self.steps += 1
            if not math.isfinite(value):
                continue
            count = len(self._window)
            if count >= FIRST_JUDGED:
                mean = self._sum / count
                deviation = math.sqrt(max(self._squares / count - mean**2, 0.0))
                if value - mean >= DEVIATIONS * deviation and value > mean:
                    self.spikes += 1
            if count == WINDOW:
                oldest = self._window[0]
                self._sum -= oldest
                self._squares -= oldest**2
            self._window.append(value)
            self._sum += value
            self._squares += value**2

    def state_dict(self) -> dict[str, Any]:
        sums = {"sum": self._sum, "squares": self._squares}
        return {"window": list(self._window), **sums, "steps": self.steps, "spikes": self.spikes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._window = deque(state["window"], maxlen=WINDOW)
        self._sum, self._squares = state["sum"], state["squares"]
        self.steps, self.spikes = state["steps"], state["spikes"]
