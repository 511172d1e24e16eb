"""What the callbacks of one run share: where to log, how long training has taken, and the two ways it can stop early."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from resbench.harness.tracking import TrackedRun


class Diverged(Exception):
    """The loss is not finite or above its bound. A result of the run, not a fault."""

    def __init__(self, tokens: int, reason: str) -> None:
        super().__init__(f"diverged at {tokens:,} tokens: {reason}")
        self.tokens = tokens
        self.verdict: str | None = None
        """Which sublayer broke, in a sentence, once `PostMortem` has looked."""
        self.last_good: Path | None = None
        """The newest checkpoint from before."""


class Pruned(Exception):
    """Raised by `on_validation` to end a run that is not worth finishing."""


class TrainingClock:
    """Seconds spent on training steps: stands still before the first step and while anything else is done."""

    def __init__(self) -> None:
        self._before = 0.0
        self.pauses = 0
        """How often something else than training was done."""
        self._since: float | None = None

    @property
    def seconds(self) -> float:
        return self._before + (time.perf_counter() - self._since if self._since is not None else 0.0)

    @seconds.setter
    def seconds(self, value: float) -> None:
        self._before = value

    def start(self) -> None:
        if self._since is None:
            self._since = time.perf_counter()

    def stop(self) -> None:
        self._before, self._since = self.seconds, None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count what happens inside."""
        running = self._since is not None
        self.pauses += 1
        self.stop()
        try:
            yield
        finally:
            if running:
                self.start()


@dataclass
class RunContext:
    """One run as its callbacks see it. ``run`` is None on every process but the first."""

    run: TrackedRun | None
    tokens_per_step: int
    steps: int
    flops_per_token: int
    """Of training: three times the forward pass."""
    clock: TrainingClock = field(default_factory=TrainingClock)
    latest: dict[str, float] = field(default_factory=dict)
    """The last value of every metric."""

    def log(self, metrics: Mapping[str, float], tokens: int) -> None:
        self.latest.update(metrics)
        if self.run is not None:
            self.run.log(metrics, tokens)

    def steps_for(self, tokens: int | None, default_share: float = 0.1) -> int:
        """``tokens`` in whole steps, at least one; None means a share of the run."""
        return max(1, round(self.steps * default_share if tokens is None else tokens / self.tokens_per_step))
