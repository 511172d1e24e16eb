"""What a worker does next where many share a sweep: the same questions as `resbench.sweeps.agenda.Agenda` answers, answered by the queue.

No worker knows of another but through the database; each may die or lose its connection at any line. What was written is found again by key: a
claimed run whose result is in MLflow already is only booked.
"""

import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from optuna.storages import RDBStorage
from optuna.trial import TrialState

from resbench.sweeps import lease
from resbench.sweeps.agenda import Task
from resbench.sweeps.ledger import Entry, Ledger
from resbench.sweeps.patience import OUTAGES, Patience
from resbench.sweeps.plan import CellPlan, Plan, PlannedRun
from resbench.sweeps.queue import Attempt, RunQueue
from resbench.sweeps.search import CellSearch

_LEASE_SHARE = 0.8
"""Of the grace period: what is left of it is for a busy machine to really end a process."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 5.0
_OFFERED = 64
"""Waiting runs a claim may choose from: as many workers as that can claim at once without waiting for each other."""
_LOOKS = 10
"""A look is good for so many times what it took."""


class SharedAgenda:
    """One worker's view of the sweep. Heartbeats are sent by a thread, for as long as the agenda is entered as a context.

    With a run in each of its slots a worker asks the database for nothing: one heartbeat (three statements) for all of them each interval. With a
    free slot it looks for work at once, then ever more seldom, down to every five seconds, with two statements a look and one more in each quarter of
    the grace period: half a statement a second from an idle worker, and a run that becomes free is claimed within five seconds.
    """

    def __init__(
        self, plan: Plan, ledger: Ledger, storage: RDBStorage, queue: RunQueue, worker: str, patience: Patience
    ) -> None:
        self._plan, self._ledger, self._worker, self._patience = plan, ledger, worker, patience
        self._queue = queue
        self._interval, self._grace = queue.interval_s, queue.grace_s
        self._searches: dict[str, CellSearch] = {}
        if plan.spec.search:
            for cell in plan.cells:
                name = f"{plan.spec.name}/{cell.cell.id}"
                self._searches[cell.cell.id] = CellSearch(plan.spec.search, name, storage, cell.tokens)
        self._runs = {planned.key: (planned, cell) for cell in plan.cells for planned in _planned(plan, cell)}
        self._mine: dict[str, tuple[Attempt, lease.Lease]] = {}
        self._lost: set[str] = set()
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._reachable_since = time.monotonic()
        self._buried = -self._grace
        self._pause, self._next_look = _FIRST_PAUSE_S, 0.0
        self._others_busy = True
        self._seen: list[Attempt] = []
        self._seen_until = 0.0
        self.drained = False

    def __enter__(self) -> "SharedAgenda":
        self._thread = threading.Thread(target=self._beat, name="heartbeats", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def prepare(self) -> None:
        """Queue every planned run that is not, and give each search its trials. Only within `resbench.sweeps.queue.opening`."""
        for search in self._searches.values():
            while search.ask() is not None:
                pass
            search.forget()
        self._queue.add(self._runs)

    def hurry(self) -> None:
        self._patience.hurry()

    def next(self, fits: Callable[[CellPlan], bool] = lambda _cell: True) -> Task | None:
        """Claim a run to start now; None if there is none at the moment, or the database is away. Workers have no deadline: all cells fit."""
        if time.monotonic() < self._next_look:
            return None
        try:
            task = self._claim()
        except OUTAGES:
            self._out_of_reach()
            task = None
        if task is None:
            self._next_look = time.monotonic() + self._pause * random.uniform(0.8, 1.0)
            self._pause = min(2 * self._pause, max(_FIRST_PAUSE_S, min(self._interval / 3, _LONGEST_PAUSE_S)))
        else:
            self._pause = _FIRST_PAUSE_S
        return task

    def waits(self) -> bool:
        """Whether there may be something to do later, though there is nothing now."""
        return self._others_busy

    def started(self, planned: PlannedRun) -> None:
        """It was claimed by `next` already."""

    def retry(self) -> None:
        """`sweep retry` queues failed runs itself."""

    def lost(self) -> set[str]:
        """Runs that were taken from this worker, because its heartbeats did not arrive for too long."""
        with self._lock:
            return set(self._lost)

    def give_back(self, planned: PlannedRun, *, died: bool = False) -> None:
        self._let_go(planned, lambda attempt: self._queue.give_back(attempt, died=died))

    def failed(self, planned: PlannedRun, reason: str) -> None:
        self._let_go(planned, lambda attempt: self._queue.fail(attempt, reason))

    def ended(self, planned: PlannedRun, entry: Entry) -> None:
        """Tell the study, then the queue: a run that is complete in the queue is known to its search."""
        if planned.phase == "search":
            self._patience(lambda: self._tell(planned, entry))
        self._let_go(planned, lambda attempt: self._queue.complete(attempt, entry.outcome))

    def give_up(self, planned: PlannedRun, tokens: int, loss: float) -> bool:
        if planned.phase != "search":
            return False
        return self._patience(lambda: self._searches[planned.cell.id].report(planned.number, tokens, loss))

    @property
    def searches(self) -> Mapping[str, CellSearch]:
        """The search of each cell; none for a sweep without."""
        return self._searches

    def blocked_cells(self) -> list[str]:
        return []  # the failed trials themselves are reported, by the worker that had them and by `sweep status`

    def winners(self) -> dict[str, Mapping[str, Any]]:
        with suppress(*OUTAGES):
            return {cell: search.winner()[1] for cell, search in self._searches.items() if search.complete()}
        return {}

    def _claim(self) -> Task | None:
        # After a look at ten thousand runs, those it found waiting are offered for a while, or looking would be most of the work.
        if time.monotonic() < self._seen_until and (task := self._claim_one_of(self._seen)):
            return task
        begun = time.monotonic()
        if self._queue.stopping:
            self._others_busy, self.drained = False, True
            return None
        now = time.monotonic()
        # Not sooner after an outage: every worker looks dead until its next heartbeat.
        if now - self._reachable_since > self._grace and now - self._buried > self._grace / 4:
            self._queue.bury()
            self._buried = now
        latest = {key: attempt for key, attempt in self._queue.latest().items() if key in self._runs}
        for attempt in [attempt for attempt in latest.values() if attempt.abandoned]:
            if reason := self._queue.worn_out(attempt):
                self._fail_in_books(attempt.key, reason)
            self._queue.requeue(attempt)
        waiting = [latest[key] for key in self._order(latest) if latest[key].state is TrialState.WAITING]
        task = self._claim_one_of(waiting)
        self._seen, self._seen_until = waiting, time.monotonic() + _LOOKS * (time.monotonic() - begun)
        if task is not None:
            return task
        with self._lock:
            mine = set(self._mine)
        ended = (TrialState.COMPLETE, TrialState.FAIL)
        self._others_busy = any(a.abandoned or a.state not in ended for key, a in latest.items() if key not in mine)
        if self._others_busy and self._only_blocked(latest):
            self._others_busy = False
        return None

    def _claim_one_of(self, waiting: list[Attempt]) -> Task | None:
        """The first that others leave to us; those that were taken or booked go from the list."""
        while waiting:
            since = lease.now()
            claimed = self._queue.claim_one(waiting[:_OFFERED], self._worker)
            if claimed is None:
                del waiting[:_OFFERED]
                continue
            waiting.remove(claimed)
            held = lease.Lease(_LEASE_SHARE * self._grace, since)
            with self._lock:
                self._mine[claimed.key] = claimed, held
                self._lost.discard(claimed.key)
            if (task := self._begin(claimed.key, held)) is not None:
                return task
        return None

    def _begin(self, key: str, held: lease.Lease) -> Task | None:
        try:
            return self._patience(lambda: self._task(key, held))
        except BaseException:  # nobody here will run it: heartbeats for it must end
            with suppress(*OUTAGES):
                self.give_back(self._runs[key][0])
            with self._lock:
                self._mine.pop(key, None)
            raise

    def _task(self, key: str, held: lease.Lease) -> Task | None:
        """What a claimed run is to be started with; None if MLflow has its result already, which is booked."""
        planned, cell = self._runs[key]
        known = self._ledger.look_up(planned)
        if known is not None and known.has_result:
            self.ended(planned, self._ledger.close(planned))
            return None
        search = self._searches.get(cell.cell.id)
        if search is None:
            return Task(planned, cell, {}, held)
        values = search.values(planned.number) if planned.phase == "search" else search.winner()[1]
        return Task(planned, cell, values, held)

    def _order(self, latest: Mapping[str, Attempt]) -> list[str]:
        """Trials of cells without one under way, then final runs of cells whose search is complete, seed by seed, then other trials."""
        busy = {self._runs[key][1].cell.id for key, a in latest.items() if a.state is TrialState.RUNNING}
        ready = {cell.cell.id for cell in self._plan.cells if self._search_complete(cell, latest)}
        trials = [planned for planned, _ in self._runs.values() if planned.phase == "search"]
        finals = [
            planned for planned, cell in self._runs.values() if planned.phase == "final" and cell.cell.id in ready
        ]
        position = {seed: place for place, seed in enumerate(self._plan.spec.seeds)}
        finals.sort(key=lambda planned: position[planned.seed])
        trials.sort(key=lambda planned: planned.number)
        first = [planned for planned in trials if planned.cell.id not in busy]
        rest = [planned for planned in trials if planned.cell.id in busy]
        return [planned.key for planned in (*first, *finals, *rest) if planned.key in latest]

    def _search_complete(self, cell: CellPlan, latest: Mapping[str, Attempt]) -> bool:
        keys = [self._plan.trial(cell.cell, number).key for number in range(self._plan.trials)]
        return all(key in latest and latest[key].state is TrialState.COMPLETE for key in keys)

    def _only_blocked(self, latest: Mapping[str, Attempt]) -> bool:
        """Whether all that is left are final runs of cells with a failed trial."""
        failed = {self._runs[key][1].cell.id for key, a in latest.items() if a.reason and a.state is TrialState.FAIL}
        left = [key for key, a in latest.items() if a.state in (TrialState.WAITING, TrialState.RUNNING) or a.abandoned]
        return all(
            latest[key].state is TrialState.WAITING
            and self._runs[key][0].phase == "final"
            and self._plan.trials > 0
            and self._runs[key][1].cell.id in failed
            for key in left
        )

    def _tell(self, planned: PlannedRun, entry: Entry) -> None:
        search = self._searches[planned.cell.id]
        if not search.is_finished(planned.number):
            search.values(planned.number)
            loss = entry.val_loss if entry.outcome == "complete" else None
            metrics = self._ledger.metrics(entry) if search.constrained else {}
            search.tell(planned.number, loss, entry.tokens, pruned=entry.outcome == "pruned", metrics=metrics)

    def _fail_in_books(self, key: str, reason: str) -> None:
        planned, _ = self._runs[key]
        if self._ledger.look_up(planned) is not None:
            self._ledger.fail(planned, reason)

    def _let_go(self, planned: PlannedRun, book: Callable[[Attempt], None]) -> None:
        self._pause, self._next_look = _FIRST_PAUSE_S, 0.0
        with self._lock:
            held = self._mine.get(planned.key)
        if held is not None:
            self._patience(lambda: book(held[0]))
        with self._lock:
            self._mine.pop(planned.key, None)
            self._lost.discard(planned.key)

    def _out_of_reach(self) -> None:
        self._reachable_since = time.monotonic()
        self._others_busy = True

    def _beat(self) -> None:
        while not self._done.wait(self._interval):
            with self._lock:
                held = dict(self._mine)
            if not held:
                continue
            since = lease.now()
            try:
                ours = self._queue.beat([attempt for attempt, _ in held.values()])
            except Exception:  # whatever it was: the leases end by themselves, and nobody trains without one
                self._out_of_reach()
                continue
            with self._lock:
                for key, (attempt, right) in held.items():
                    if key in ours:
                        right.renew(since)
                    elif self._mine.get(key, (None,))[0] is attempt:
                        self._lost.add(key)


def _planned(plan: Plan, cell: CellPlan) -> list[PlannedRun]:
    trials = [plan.trial(cell.cell, number) for number in range(plan.trials)]
    return trials + [plan.final(cell.cell, seed) for seed in plan.spec.seeds]
