"""A sweep that has to be over by a certain time: start only what will end before it, and stop what did not."""

import math
import time
from collections.abc import Callable, Iterable

from resbench.sweeps.estimate import Throughput
from resbench.sweeps.plan import CellPlan

MARGIN = 1.2
"""A run is started only if this many times its expected duration is left."""

EX_TEMPFAIL = 75
"""Exit code of a command that ran out of time and goes on when it is given again; `resbench fit` ends with it too when it is preempted."""


class Deadline:
    """What fits in the time that is left. Durations are learned from the runs that end, start-up and compilation included.

    A cell without one is expected to train as the cell most like it that has one: as long per FLOP if it is larger, as long per token if it is
    smaller, because small models keep a GPU waiting and their FLOP/s differ by an order of magnitude. That is too long for a larger one, so the
    first run of a deadline that is ``daring`` may be of a cell that nobody has measured, whatever is expected of it: else the largest models might
    never get their turn.
    """

    def __init__(
        self,
        seconds: float,
        expected: Throughput | None = None,
        cells: Iterable[CellPlan] = (),
        *,
        daring: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock, self._end, self._expected, self._daring = clock, clock() + seconds, expected, daring
        self._seconds = seconds
        self._measured: dict[str, tuple[CellPlan, float]] = {}
        self._earlier = [cell for cell in cells if expected and cell.cell.id in expected.per_cell]
        self._overhead = 0.0
        self.longest = 0.0
        """Seconds that the longest run held back is expected to take."""
        self.held_back = False
        """Whether a run was not started, or was stopped, for want of time."""

    @property
    def left(self) -> float:
        """Seconds."""
        return self._end - self._clock()

    @property
    def over(self) -> bool:
        return self.left <= 0

    def ended(self, cell: CellPlan, seconds: float, training_s: float | None) -> None:
        """Learn from a run that ended with a result: how long its process took, and its steps at their usual speed. The longest counts."""
        self._overhead = max(self._overhead, seconds - (training_s or seconds))
        earlier = self._measured.get(cell.cell.id, (cell, 0.0))[1]
        self._measured[cell.cell.id] = cell, max(seconds, earlier)

    def seconds(self, cell: CellPlan) -> float:
        """How long a run of this cell is expected to take."""
        if cell.cell.id in self._measured:
            return self._measured[cell.cell.id][1]
        if self._expected and cell.cell.id in self._expected.per_cell:  # by an earlier invocation
            return self._expected.seconds(cell) + self._overhead
        known = [*self._measured.values(), *((earlier, self.seconds(earlier)) for earlier in self._earlier)]
        if known:
            like, took = min(known, key=lambda one: _distance(one[0], cell))
            fixed = min(self._overhead, took)
            size = max(1.0, cell.flops_per_token / like.flops_per_token)
            return fixed + (took - fixed) * size * cell.tokens / like.tokens
        return self._expected.seconds(cell) if self._expected else 0.0

    def cut_short(self, cell: CellPlan) -> None:
        """A run of this cell was still under way when the time was over."""
        self.held_back = True
        self.longest = max(self.longest, self._seconds, self.seconds(cell))

    def fits(self, cell: CellPlan) -> bool:
        """Whether a run of this cell would end in time."""
        fits = self.seconds(cell) * MARGIN < self.left or (self._daring and not self._is_known(cell))
        if fits:
            self._daring = False
        else:
            self.held_back = True
            self.longest = max(self.longest, self.seconds(cell))
        return fits

    def _is_known(self, cell: CellPlan) -> bool:
        return cell.cell.id in self._measured or any(earlier.cell.id == cell.cell.id for earlier in self._earlier)


def _distance(known: CellPlan, cell: CellPlan) -> tuple[float, float]:
    """How unlike two cells are: in size, and in tokens where sizes are alike."""
    return (
        abs(math.log(known.flops_per_token / cell.flops_per_token)),
        abs(math.log(known.tokens / cell.tokens)),
    )
