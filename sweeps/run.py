"""Running a sweep: keep every worker busy, write down what ended, survive what does not end well.

The sweep process alone writes to the Optuna database and creates MLflow runs; trial processes train (`resbench.sweeps.trial`) and log to the
run they were given. Whatever is killed, the same command finds the books as they are and goes on (`resbench.sweeps.ledger`).
"""

import hashlib
import math
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from rich.console import Console

from resbench.sweeps import control
from resbench.sweeps.agenda import Agenda, Task
from resbench.sweeps.ahead import Ahead
from resbench.sweeps.deadline import Deadline
from resbench.sweeps.estimate import Throughput
from resbench.sweeps.ledger import Entry, Ledger
from resbench.sweeps.machine import Machine
from resbench.sweeps.messages import Failed, Job
from resbench.sweeps.patience import OUTAGES
from resbench.sweeps.plan import Plan
from resbench.sweeps.pool import Ended, Pool, Report
from resbench.sweeps.progress import Display, Eta, count, duration
from resbench.sweeps.target import target_of
from resbench.sweeps.yamlfile import dump

if TYPE_CHECKING:
    from resbench.sweeps.shared import SharedAgenda

FIT = "resbench.harness.fit:fit"
_POLL_S = 0.5
_ATTEMPTS = {"died": 2, "store": 5}  # for a run whose process died, or whose tracking store was away
_ONE_BLOW_S = 1.0
STOP_S = 60.0
"""How long trials may take to save a checkpoint once the sweep is stopped by a signal."""


@dataclass
class Summary:
    """How a sweep run ended. ``outcomes`` counts every planned run that has a result, earlier invocations included."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False
    out_of_time: bool = False
    """Interrupted by its own time limit, with runs left to do."""
    stuck_s: float = 0.0
    """If time sufficed for no run at all: seconds that the longest one held back is expected to take."""
    unfit: str = ""
    """Why this machine cannot go on, such as a full disk; what it had under way was given back."""
    seconds: float = 0.0
    winners: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return not self.failures and not self.interrupted and not self.unfit


class Runner:
    """One invocation of `sweep run`, between taking the lock and letting it go."""

    def __init__(
        self,
        plan: Plan,
        ledger: Ledger,
        agenda: "Agenda | SharedAgenda",
        *,
        folder: Path,
        output_dir: Path,
        tracking_uri: str,
        machine: Machine,
        throughput: Throughput,
        console: Console,
        target: str = FIT,
        stop_s: float = STOP_S,
        deadline: Deadline | None = None,
        ahead: Ahead | None = None,
    ) -> None:
        self._deadline, self._ahead = deadline or Deadline(math.inf), ahead
        self._plan, self._ledger, self._agenda = plan, ledger, agenda
        self._folder, self._output_dir, self._tracking_uri = folder, output_dir, tracking_uri
        self._machine, self._throughput, self._target = machine, throughput, target
        self._pool = Pool(machine.workers)
        self._tasks: dict[str, Task] = {}
        self._tokens: dict[str, int] = {}
        self._attempts: Counter[tuple[str, str]] = Counter()
        self._timed_out: dict[str, str] = {}
        self._summary = Summary()
        self._draining, self._stopping = False, False
        self._stop_s = stop_s
        self._ended = 0
        self._display = Display(console, plan.spec.name, plan.runs, len(ledger.results(plan)))

    def run(self) -> Summary:
        """Until nothing is left to do, or the user stops it."""
        with _stop_signals(self._agenda.hurry) as stopped:
            if self._ahead is not None:
                self._compile(self._ahead, stopped)
            return self._run(stopped)

    def _compile(self, ahead: Ahead, stopped: Callable[[], bool]) -> None:
        """What the runs still to do compile, before one of them is timed."""
        runs = self._runs_left()
        left = [cell for cell in self._plan.cells if runs[cell.cell.id]]

        def over() -> bool:
            return stopped() or self._agenda.drained or control.asked_to_stop(self._folder)

        ahead.compile(self._plan, left, self._machine, self._target, self._display.console, self._deadline, over)

    def _run(self, stopped: Callable[[], bool]) -> Summary:
        start = time.monotonic()
        self._eta = Eta(self._work_left(), min(self._machine.workers, self._plan.runs))
        with self._display:
            try:
                while not stopped() and not self._deadline.over:
                    self._listen()
                    self._fill()
                    if not self._tasks and (self._draining or not self._agenda.waits()):
                        break
                    self._attend(_POLL_S)
                if stopped():
                    self._stop()
            finally:
                if self._deadline.over and self._tasks:
                    for task in self._tasks.values():
                        self._deadline.cut_short(task.cell)
                    self._display.line(f"time is over: {len(self._tasks)} under way are stopped", "yellow")
                for key in self._pool.kill_all():
                    self._abandon(self._tasks.pop(key))
            held_back = self._deadline.held_back and not (stopped() or self._draining)
            self._summary.interrupted = stopped() or self._draining or self._agenda.drained
        self._summary.seconds = time.monotonic() - start
        self._summary.outcomes = Counter(entry.outcome for entry in self._ledger.results(self._plan))
        self._summary.winners = self._agenda.winners()
        if held_back and self._summary.outcomes.total() + len(self._summary.failures) < self._plan.runs:
            self._summary.out_of_time = self._summary.interrupted = True
            if not self._ended:
                self._summary.stuck_s = self._deadline.longest
        if not self._summary.interrupted:
            for cell in self._agenda.blocked_cells():
                self._summary.failures.setdefault(
                    f"{cell}, final runs", "not started: a trial of the cell's search failed"
                )
        return self._summary

    def _attend(self, seconds: float) -> None:
        """Hear the trials under way, for at most so long."""
        for event in self._pool.wait(seconds):
            self._report(event) if isinstance(event, Report) else self._end(event)
        self._enforce_timeout()
        self._display.tick(self._pool.running(), self._eta.seconds(self._work_under_way()))

    def _stop(self) -> None:
        """Let every trial save a checkpoint and end; whoever takes it up goes on from there."""
        self._stopping = True
        if not self._tasks:
            return
        self._display.line(f"stopping: {len(self._tasks)} under way save a checkpoint first", "yellow")
        deadline = time.monotonic() + self._stop_s
        self._pool.ask_to_stop()
        while self._tasks and time.monotonic() < deadline:
            self._attend(0.2)

    def _abandon(self, task: Task) -> None:
        """Give back a run that was stopped. A server that is away does not keep us: its worker's silence says the same a little later."""
        with suppress(*OUTAGES):
            self._ledger.interrupt(task.planned)
        with suppress(*OUTAGES):
            self._agenda.give_back(task.planned)

    def _leave(self, reason: str) -> None:
        """Start nothing more: the next run would fare no better on this machine."""
        if not self._summary.unfit:
            self._display.line(f"{reason}\nNothing more is started here; what is under way elsewhere goes on.", "red")
        self._summary.unfit = self._summary.unfit or reason
        self._draining = True

    def _listen(self) -> None:
        """What `resbench sweep stop` and `resbench sweep retry` said meanwhile."""
        if control.take_retry(self._folder):
            self._agenda.retry()
            self._summary.failures.clear()
            self._display.line("failed runs are tried again", "yellow")
        if not self._draining and (self._agenda.drained or control.asked_to_stop(self._folder)):
            self._draining = True
            self._display.line(f"asked to stop: {len(self._tasks)} under way end first", "yellow")

    def _fill(self) -> None:
        while (
            not self._draining
            and (slot := self._pool.free_slot()) is not None
            and (task := self._agenda.next(self._deadline.fits)) is not None
        ):
            try:
                self._start(task, slot)
            except BaseException as error:
                self._tasks.pop(task.planned.key, None)
                self._abandon(task)
                if not isinstance(error, OSError) or isinstance(error, ConnectionError):
                    raise
                self._leave(str(error))

    def _start(self, task: Task, slot: int) -> None:
        planned = task.planned
        run_id = self._ledger.open(planned)
        stem = file_stem(planned.key)
        config = self._folder / "configs" / f"{stem}.yaml"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(dump(self._config(task)), encoding="utf-8")
        target = target_of(self._target, planned, self._plan.spec)
        job = Job(
            key=planned.key,
            target=target.function,
            argv=target.arguments(("--config", str(config))),
            tags=self._ledger.tags(planned) | self._machine.tags(slot, planned.cell),
            run_id=run_id,
            threads=self._machine.threads,
            gpus=self._machine.visible(slot, planned.cell),
            log=self._folder / "logs" / f"{stem}.log",
            lock_folder=self._folder,
        )
        self._tasks[planned.key] = task
        self._agenda.started(planned)
        self._pool.start(job, slot, task.lease)

    def _config(self, task: Task) -> dict[str, Any]:
        """The complete `resbench fit` configuration of a run, which reproduces it when run by hand."""
        config = task.planned.cell.with_values(task.values)
        config["seed_everything"] = task.planned.seed
        config["output_dir"] = str(self._output_dir)
        config["tracking"] = {"uri": self._tracking_uri, "experiment": self._plan.spec.name}
        config["trainer"] = {"enable_progress_bar": False, **(config.get("trainer") or {})}
        return config

    def _report(self, event: Report) -> None:
        task = self._tasks[event.key]
        self._tokens[event.key] = event.validation.tokens
        self._pool.answer(event.key, self._agenda.give_up(task.planned, event.validation.tokens, event.validation.loss))

    def _end(self, event: Ended) -> None:
        task = self._tasks.pop(event.key)
        self._tokens.pop(event.key, None)
        if event.key in self._agenda.lost():
            self._display.line(
                f"{task.planned.title}: taken over by another worker, this one was out of reach", "yellow"
            )
            self._agenda.give_back(task.planned)
            return
        entry = self._ledger.close(task.planned)
        if entry.has_result:
            self._agenda.ended(task.planned, entry)
            steps_s = entry.tokens / entry.tokens_per_s if entry.tokens_per_s else None
            self._deadline.ended(task.cell, event.seconds, steps_s)
            self._ended += 1
            self._eta.done(self._throughput.seconds(task.cell))
            self._display.ended(
                task.planned.title, result_line(entry), None if entry.outcome == "complete" else "yellow"
            )
            return
        reason, fault = self._why(event, task)
        if fault in ("signal", "disk") or (self._stopping and fault in _ATTEMPTS):
            self._abandon(task)
            if fault == "disk":
                self._leave(f"{task.planned.title}: {reason}")
            return
        if fault in _ATTEMPTS:
            self._attempts[event.key, fault] += 1
            if self._attempts[event.key, fault] < _ATTEMPTS[fault]:
                self._display.line(f"{task.planned.title}: {reason.splitlines()[0]}; starting it again", "yellow")
                self._agenda.give_back(task.planned, died=fault == "died")
                return
        self._fail(task, reason)

    def _why(self, event: Ended, task: Task) -> tuple[str, str]:
        """Why a run has no result, and what is to blame: ``run``, ``store``, ``disk``, ``signal``, or that its process ``died``."""
        if event.key in self._timed_out:
            return self._timed_out.pop(event.key), "run"
        if isinstance(event.message, Failed):
            return event.message.reason, event.message.fault
        if event.message is not None:
            return "it ended without saying in MLflow how", "run"
        if event.exitcode is not None and event.exitcode < 0:
            name = signal.Signals(-event.exitcode).name
            if name == "SIGTERM" or (task.lease is not None and task.lease.left() <= 0):
                return f"stopped ({name})", "signal"
            return (
                f"its process was killed ({name}); if nobody did that, the machine was probably out of memory",
                "died",
            )
        return f"its process ended with code {event.exitcode} and said nothing", "run"

    def _fail(self, task: Task, reason: str) -> None:
        self._ledger.fail(task.planned, reason)
        self._agenda.failed(task.planned, reason)
        self._eta.done(self._throughput.seconds(task.cell))
        log = self._folder / "logs" / f"{file_stem(task.planned.key)}.log"
        self._summary.failures[task.planned.title] = f"{reason}\n  log: {log}"
        self._display.line(f"{task.planned.title}  FAILED: {reason.splitlines()[0]}", "red")

    def _enforce_timeout(self) -> None:
        for key in self._agenda.lost() & self._tasks.keys():
            self._pool.kill(key)
        limit = self._plan.spec.timeout
        if limit is None:
            return
        for key, seconds in self._pool.running().items():
            if seconds > limit and key not in self._timed_out:
                self._timed_out[key] = f"stopped after {duration(seconds)}, longer than `timeout: {limit:g}` seconds"
                self._pool.kill(key)

    def _work_left(self) -> float:
        runs = self._runs_left()
        return sum(self._throughput.seconds(cell) * runs[cell.cell.id] for cell in self._plan.cells)

    def _runs_left(self) -> dict[str, int]:
        """How many runs of each cell have no result."""
        finished = Counter(entry.cell for entry in self._ledger.results(self._plan))
        return {cell.cell.id: self._plan.runs_per_cell - finished[cell.cell.id] for cell in self._plan.cells}

    def _work_under_way(self) -> float:
        return sum(
            self._throughput.seconds(task.cell) * min(1.0, self._tokens.get(key, 0) / max(1, task.cell.tokens))
            for key, task in self._tasks.items()
        )


def result_line(entry: Entry) -> str:
    """One finished run: ``val loss 2.1040, 3.0354 bits per byte (unigram 4.53), 41.2k tokens/s``.

    The unigram entropy is what knowing only how frequent each token is would give; a run has learned something only below it.
    """
    parts = [] if entry.outcome == "complete" else [entry.outcome]
    if entry.val_loss is not None:
        parts.append(f"val loss {entry.val_loss:.4f}")
    if entry.bits_per_byte is not None:
        unigram = f" (unigram {entry.unigram_bits_per_byte:.2f})" if entry.unigram_bits_per_byte else ""
        parts.append(f"{entry.bits_per_byte:.4f} bits per byte{unigram}")
    if entry.tokens_per_s is not None:
        parts.append(f"{count(entry.tokens_per_s)} tokens/s")
    return ", ".join(parts)


def file_stem(key: str) -> str:
    """A run's key as a file name: readable, safe on any file system, and unique through eight digits of its hash."""
    digest = hashlib.sha256(key.encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9.]+', '-', key.partition('/')[2])[:80].strip('-')}-{digest}"


@contextmanager
def _stop_signals(hurry: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Ctrl-C, SIGTERM and SIGUSR1 as a question the loop asks; another one, later than the same blow, interrupts at once."""
    received: list[float] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(time.monotonic())
        hurry()
        if received[-1] - received[0] > _ONE_BLOW_S:
            raise KeyboardInterrupt

    earlier = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
