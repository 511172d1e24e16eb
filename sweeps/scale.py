"""How many runs a second the queue of a sweep can deal out: workers that train nothing, on a real database.

Each simulated worker is a process, as each real one is: threads would wait for one interpreter's lock and measure that. It does what a worker does,
by the worker's own code (`SharedAgenda`, `RunQueue`): look what is there, claim a run, send a heartbeat, tell the queue how it ended. There is
no MLflow and no training, so this is what the queue itself could serve; a real worker asks it for something once in minutes.
"""

import multiprocessing
import os
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import psutil
from optuna.trial import TrialState
from sqlalchemy import create_engine, text

from resbench.sweeps.database import open_shared, opening, storage_url
from resbench.sweeps.grid import Cell
from resbench.sweeps.ledger import Entry
from resbench.sweeps.patience import Patience
from resbench.sweeps.plan import CellPlan, Plan, PlannedRun
from resbench.sweeps.queue import Attempt, RunQueue
from resbench.sweeps.shared import SharedAgenda
from resbench.sweeps.spec import SweepSpec

OPERATIONS = ("look", "claim", "heartbeat", "finish")
PERCENTILES = (50, 95, 99)
CONNECTIONS_PER_WORKER = 2
"""Of a worker: one for claiming and booking, one for the thread that sends heartbeats."""
_HEARTBEAT_S = 15


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one operation, and how often it was done."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Measurement:
    """``workers`` at once. ``trials`` ended in ``seconds``.

    CPU seconds in that time are those of all workers, of the server's connections (None unless it is on this machine), and of everything here.
    """

    workers: int
    trials: int
    seconds: float
    latency: dict[str, Latency]
    missed_claims: int
    """Claims that another worker was faster with."""
    worker_cpu_s: float
    server_cpu_s: float | None
    machine_cpu_s: float
    queue_s: float
    """Queueing the trials."""
    start_s: float
    """A worker's first look at the queue, the slowest one's."""

    @property
    def trials_per_s(self) -> float:
        return self.trials / self.seconds


@dataclass
class _Tally:
    seconds: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in OPERATIONS})
    missed: int = 0
    ended: int = 0
    cpu_s: float = 0.0
    start_s: float = 0.0


def measure(url: str, workers: int, trials: int, limit_s: float, name: str) -> Measurement:
    """Let ``workers`` work off ``trials``, for at most ``limit_s`` seconds, in a sweep of this name on the database.

    Raises ValueError if the database allows too few connections, RuntimeError if a trial was lost or ended twice.
    """
    url = storage_url(url)
    _check_connections(url, workers)
    plan = _plan(name, trials)
    begun = time.monotonic()
    with opening(url, name):
        storage = open_shared(url, _HEARTBEAT_S)
        RunQueue(storage, name).add(planned.key for planned in _runs(plan))
    queue_s = time.monotonic() - begun
    storage.remove_session()
    storage.engine.dispose()  # a connection must not be shared with a forked process
    context = multiprocessing.get_context("fork")
    ready, go, read = context.Barrier(workers + 1), context.Event(), context.Event()
    pipes = [context.Pipe(duplex=False) for _ in range(workers)]
    processes = [
        context.Process(target=_work, args=(url, plan, limit_s, (ready, go, read), there), daemon=True)
        for _, there in pipes
    ]
    for process in processes:
        process.start()
    for _, there in pipes:
        there.close()
    ready.wait(timeout=600)
    server_before, before, begun = _server_cpu(url), _machine_cpu(), time.monotonic()
    go.set()
    tallies: list[_Tally] = [here.recv() for here, _ in pipes]
    seconds, cpu, server = time.monotonic() - begun, _machine_cpu() - before, _server_cpu(url)
    read.set()
    for process in processes:
        process.join()
    _check(url, name, sum(tally.ended for tally in tallies), trials)
    return Measurement(
        workers=workers,
        trials=sum(tally.ended for tally in tallies),
        seconds=seconds,
        latency={name: _latency([s for tally in tallies for s in tally.seconds[name]]) for name in OPERATIONS},
        missed_claims=sum(tally.missed for tally in tallies),
        worker_cpu_s=sum(tally.cpu_s for tally in tallies),
        server_cpu_s=None if server is None or server_before is None else server - server_before,
        machine_cpu_s=cpu,
        queue_s=queue_s,
        start_s=max(tally.start_s for tally in tallies),
    )


def saturation(measured: Sequence[Measurement]) -> Measurement:
    """The fewest workers that reach nine tenths of the highest throughput: more of them only wait longer."""
    most = max(one.trials_per_s for one in measured)
    return min((one for one in measured if one.trials_per_s >= 0.9 * most), key=lambda one: one.workers)


class _TimedQueue(RunQueue):
    """Notes how long each request takes."""

    tally = _Tally()
    claimed: Attempt

    @property
    def stopping(self) -> bool:
        with self._timed("look"):
            return super().stopping

    def latest(self) -> dict[str, Attempt]:
        started = time.perf_counter()
        found = super().latest()
        if self.tally.seconds["look"]:  # a look is both questions: whether to stop, and what there is
            self.tally.seconds["look"][-1] += time.perf_counter() - started
        return found

    def claim_one(self, attempts: Sequence[Attempt], worker: str) -> Attempt | None:
        with self._timed("claim"):
            claimed = super().claim_one(attempts, worker)
        if claimed is not None:
            self.claimed = claimed
        else:
            self.tally.missed += 1
        return claimed

    def complete(self, attempt: Attempt, outcome: str) -> None:
        with self._timed("finish"):
            super().complete(attempt, outcome)

    def beat(self, attempts: Any) -> set[str]:
        with self._timed("heartbeat"):
            return super().beat(attempts)

    @contextmanager
    def _timed(self, operation: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.tally.seconds[operation].append(time.perf_counter() - started)


class _NoBooks:
    """In place of MLflow: no run has a result yet."""

    def look_up(self, planned: PlannedRun) -> Entry | None:
        return None


def _work(url: str, plan: Plan, limit_s: float, signals: tuple[Any, Any, Any], results: Connection) -> None:
    """The body of a simulated worker. It stays connected until the server's CPU time has been read."""
    begun = time.monotonic()
    ready, go, read = signals
    storage = open_shared(url, _HEARTBEAT_S)
    queue = _TimedQueue(storage, plan.spec.name)
    books: Any = _NoBooks()
    agenda = SharedAgenda(plan, books, storage, queue, f"simulated-{os.getpid()}", Patience(limit_s))
    queue.latest()
    queue.tally = _Tally(start_s=time.monotonic() - begun)
    with agenda:
        ready.wait()
        go.wait()
        before, deadline = time.process_time(), time.monotonic() + limit_s
        while time.monotonic() < deadline:
            task = agenda.next()
            if task is None:
                if not agenda.waits():
                    break
                time.sleep(0.01)
                continue
            queue.beat([queue.claimed])
            agenda.ended(task.planned, _entry(task.planned))
            queue.tally.ended += 1
        queue.tally.cpu_s = time.process_time() - before
    results.send(queue.tally)
    results.close()
    read.wait()


def _entry(planned: PlannedRun) -> Entry:
    return Entry(
        "", planned.key, "complete", "FINISHED", 0.0, None, None, None, 0, None, planned.cell.id, planned.phase
    )


def _plan(name: str, trials: int) -> Plan:
    """One cell with as many seeds as there are trials."""
    spec = SweepSpec.model_validate({"name": name, "base": {}, "factors": {}, "seeds": list(range(trials))})
    return Plan(spec, (CellPlan(Cell("base", {}, {}), 0, 0, 0, 1, 1),))


def _runs(plan: Plan) -> Iterator[PlannedRun]:
    for seed in plan.spec.seeds:
        yield plan.final(plan.cells[0].cell, seed)


def _check(url: str, name: str, ended: int, trials: int) -> None:
    storage = open_shared(url, _HEARTBEAT_S)
    states = Counter(attempt.state for attempt in RunQueue(storage, name).latest().values())
    storage.engine.dispose()
    if states[TrialState.COMPLETE] != ended or states.total() != trials:
        raise RuntimeError(f"{ended} trials were ended, but of {trials} the database has {dict(states)}")


def _check_connections(url: str, workers: int) -> None:
    engine = create_engine(url)
    if engine.dialect.name == "postgresql":
        with engine.connect() as connection:
            allowed = int(connection.execute(text("show max_connections")).scalar_one())
        if workers * CONNECTIONS_PER_WORKER + 5 > allowed:
            raise ValueError(
                f"{workers} workers hold up to {workers * CONNECTIONS_PER_WORKER} connections and the server allows {allowed} (max_connections): "
                "raise that, or give fewer --workers"
            )
    engine.dispose()


def _latency(seconds: Sequence[float]) -> Latency:
    if len(seconds) < 2:
        value = 1e3 * seconds[0] if seconds else float("nan")
        return Latency(len(seconds), value, value, value, value)
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return Latency(len(seconds), 1e3 * statistics.fmean(seconds), *(1e3 * cuts[p - 1] for p in PERCENTILES))


def _server_cpu(url: str) -> float | None:
    """CPU seconds so far of the processes that serve connections; None for a server elsewhere."""
    engine = create_engine(url)
    try:
        if engine.dialect.name != "postgresql" or engine.url.host not in ("127.0.0.1", "localhost", "::1"):
            return None
        with engine.connect() as connection:
            pids = connection.execute(text("select pid from pg_stat_activity where pid <> pg_backend_pid()")).scalars()
            return sum(_cpu_of(pid) for pid in pids)
    finally:
        engine.dispose()


def _cpu_of(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _machine_cpu() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.system)
