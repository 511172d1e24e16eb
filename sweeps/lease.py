"""A trial's right to train, which its worker renews with every heartbeat and which ends by itself.

Another worker takes over a run whose heartbeats have stopped for the grace period. By then the first one must have stopped training, even if its
worker is cut off from the database, suspended or stuck: so the trial's own process watches the lease. It counts on the machine's clock of seconds
since its start (sleep included), which nobody sets, from a moment before the heartbeat was sent: it always ends before the database thinks so.
"""

import multiprocessing
import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_WARN_SHARE = 1 / 3


class Lease:
    """Shared by a worker and one trial's process. ``seconds`` is what a heartbeat is good for."""

    def __init__(self, seconds: float, since: float) -> None:
        self._seconds = seconds
        self._end = multiprocessing.get_context("forkserver").Value("d", since + seconds, lock=False)

    def renew(self, since: float) -> None:
        """A heartbeat that was sent at ``since`` (of `now`) has arrived."""
        self._end.value = since + self._seconds

    def left(self) -> float:
        """Seconds left; negative once it has ended."""
        return float(self._end.value) - now()

    @property
    def short(self) -> bool:
        """Whether it is time to save a checkpoint and stop."""
        return self.left() < self._seconds * _WARN_SHARE


def now() -> float:
    """Seconds on the clock of leases."""
    return time.clock_gettime(_CLOCK)
