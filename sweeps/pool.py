"""Processes for trials: a warm fork server, one fresh process per trial, messages to and from each."""

import multiprocessing
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess

from resbench.sweeps.lease import Lease
from resbench.sweeps.messages import Failed, Finished, Job, Validation, train

PRELOADED = ("resbench.sweeps.warm",)
"""What the fork server imports before the first trial."""
_EXIT_PATIENCE_S = 30.0
_HARDLY_BEGUN_S = 1.0


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_per_worker(workers: int) -> int:
    """An equal share of the cores, at least one; ``OMP_NUM_THREADS`` wins where it is set."""
    stated = os.environ.get("OMP_NUM_THREADS", "")
    return int(stated) if stated.isdigit() and int(stated) > 0 else max(1, cores() // workers)


def warm_up(threads: int) -> None:
    """Start the fork server; it imports torch, lightning and mlflow while the caller goes on planning."""
    # Both are read once, when the fork server loads its libraries; the second keeps it from initialising CUDA, which does not survive a fork.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(PRELOADED))
    forkserver.ensure_running()


@dataclass(frozen=True)
class Report:
    """A message from a trial under way. Answer it with `Pool.answer`."""

    key: str
    validation: Validation


@dataclass(frozen=True)
class Ended:
    """A trial's process is gone. ``message`` is its last word, None if it died without one."""

    key: str
    message: Finished | Failed | None
    exitcode: int | None
    seconds: float


@dataclass
class _Worker:
    job: Job
    slot: int
    process: ForkServerProcess
    connection: Connection
    started: float = field(default_factory=time.monotonic)
    last: Finished | Failed | None = None


class Pool:
    """At most ``workers`` trials at once."""

    def __init__(self, workers: int) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._free = list(range(workers))
        self._workers: dict[str, _Worker] = {}

    def free_slot(self) -> int | None:
        """The lowest slot without a trial, or None."""
        return min(self._free, default=None)

    def running(self) -> dict[str, float]:
        """Keys of the trials under way, with their seconds so far."""
        now = time.monotonic()
        return {key: now - worker.started for key, worker in self._workers.items()}

    def start(self, job: Job, slot: int, lease: Lease | None = None) -> None:
        here, there = self._context.Pipe()
        process = self._context.Process(target=train, args=(job, there, lease), name=f"trial {job.key}")
        self._free.remove(slot)
        process.start()
        there.close()
        self._workers[job.key] = _Worker(job, slot, process, here)

    def wait(self, timeout: float) -> list[Report | Ended]:
        """What happened, as soon as something has or after ``timeout`` seconds."""
        events: list[Report | Ended] = []
        by_connection = {worker.connection: worker for worker in self._workers.values()}
        if not by_connection:
            time.sleep(timeout)
        for ready in wait(list(by_connection), timeout):
            assert isinstance(ready, Connection)
            worker = by_connection[ready]
            try:
                message = ready.recv()
            except (EOFError, OSError):  # every copy of the other end is closed: the process is gone or about to be
                events.append(self._reap(worker))
                continue
            if isinstance(message, Validation):
                events.append(Report(worker.job.key, message))
            else:
                worker.last = message
        return events

    def answer(self, key: str, give_up: bool) -> None:
        """Reply to a report; a trial that died meanwhile is noticed by the next `wait`."""
        with suppress(OSError):
            self._workers[key].connection.send(give_up)

    def ask_to_stop(self) -> None:
        """SIGTERM to every trial: it saves a checkpoint and ends. One that has hardly begun has nothing to save, and may not listen yet."""
        now = time.monotonic()
        for worker in self._workers.values():
            worker.process.kill() if now - worker.started < _HARDLY_BEGUN_S else worker.process.terminate()

    def kill(self, key: str) -> None:
        self._workers[key].process.kill()

    def kill_all(self) -> list[str]:
        """Kill every trial and wait until it is gone; their keys."""
        for worker in self._workers.values():
            worker.process.kill()
        return [self._reap(worker).key for worker in list(self._workers.values())]

    def _reap(self, worker: _Worker) -> Ended:
        worker.process.join(_EXIT_PATIENCE_S)
        if worker.process.exitcode is None:  # a library's thread keeps it from ending; it has said its last word
            worker.process.kill()
            worker.process.join()
        while worker.connection.poll():  # a last word that was sent just before the end
            try:
                message = worker.connection.recv()
            except (EOFError, OSError):
                break
            if not isinstance(message, Validation):
                worker.last = message
        exitcode = worker.process.exitcode
        worker.connection.close()
        worker.process.close()
        del self._workers[worker.job.key]
        self._free.append(worker.slot)
        return Ended(worker.job.key, worker.last, exitcode, time.monotonic() - worker.started)
