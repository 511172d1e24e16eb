"""Compiling beforehand: every distinct network of a sweep is trained for two steps, in processes beside each other, before a trial is timed.

The trials then find it in the compilers' cache, which they share (`resbench.harness.compilation`); else the first trial of each network would keep
its GPU waiting for one core. To be found there a network is trained as by a trial: the same function, forked from the same server, with the same
threads and view of the GPUs. Its folder and its MLflow store are its own, and are removed.
"""

import copy
import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from resbench.sweeps import keys
from resbench.sweeps.deadline import Deadline
from resbench.sweeps.machine import Machine
from resbench.sweeps.messages import Failed, Job
from resbench.sweeps.plan import CellPlan, Plan
from resbench.sweeps.pool import Ended, Pool, Report
from resbench.sweeps.progress import Display, duration, plural
from resbench.sweeps.target import target_of
from resbench.sweeps.yamlfile import dump

STEPS = 2
"""The second is compiled too where it differs from the first, as with CUDA graphs."""

TIME_SHARE = 0.5
"""Of the time a sweep has left, so that trials get the rest even where networks take long. What is not compiled then is left to them."""

EXPECTED_S = 40.0
"""For one network, until the first is compiled."""

_POLL_S = 0.5

APART: tuple[keys.Path, ...] = tuple(
    keys.expand(key)
    for key in (
        "budget",
        "every",
        "profile",
        "data.val_sequences",
        *(f"model.{name}" for name in ("learning_rate", "weight_decay", "betas", "eps", "loss_bound")),
        *(f"model.{name}_fraction" for name in ("warmup", "decay", "final_learning_rate")),
        *(f"trainer.gradient_clip_{name}" for name in ("val", "algorithm")),
        *(f"trainer.{name}" for name in ("accumulate_grad_batches", "log_every_n_steps", "enable_progress_bar")),
    )
)
"""Keys of a fit configuration that a compiled network does not depend on. Any other counts: too many networks cost time, one too few as well."""


def network_of(config: Mapping[str, Any]) -> str:
    """What the compiled graph of a run depends on; equal for runs that share it."""
    rest = copy.deepcopy(dict(config))
    for path in APART:
        _remove(rest, path)
    return json.dumps(rest, sort_keys=True, default=str)


def compiles(cell: CellPlan, machine: Machine) -> bool:
    """Whether the runs of a cell are compiled: as `model.compile` says, on a GPU where that is left open."""
    choice = keys.look_up(cell.cell.config, ("model", "compile"))
    return machine.visible(0, cell.cell) is not None if choice is None else bool(choice)


class Ahead:
    """Compiles in so many processes at once. One for all the sweeps of a command: a network that two of them have is compiled once."""

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._known: set[str] = set()

    def compile(
        self,
        plan: Plan,
        left: Sequence[CellPlan],
        machine: Machine,
        target: str,
        console: Console,
        deadline: Deadline,
        stopped: Callable[[], bool],
    ) -> None:
        """The networks of the cells with runs left, largest first, until all are compiled, the sweep is stopped or its time is needed for trials.

        target: as of `run_plan`. A network that fails is said and left to its trial.
        """
        networks = self._networks(plan, left, machine, console)
        if not networks:
            return
        began, until = time.monotonic(), time.monotonic() + TIME_SHARE * deadline.left
        many = plural(len(networks), "network")
        say(console, f"Compiling {many} ahead, {min(self._processes, len(networks))} at once")

        with (
            # Killed processes may have children that write for another moment.
            tempfile.TemporaryDirectory(prefix="resbench-ahead-", ignore_cleanup_errors=True) as folder,
            Display(console, f"{plan.spec.name}, compiling", len(networks), 0) as display,
        ):
            rounds = _Rounds(plan, machine, target, Path(folder), display, until, stopped)
            cells = sorted(networks.values(), key=lambda cell: cell.flops_per_token, reverse=True)
            short = rounds.compile(cells, self._processes, last=self._processes <= machine.workers)
            if short:  # beside so many others; beside as many as trials have they must have enough
                rounds.compile(short, machine.workers, last=True)
        self._known |= {network for network, cell in networks.items() if cell.cell.id in rounds.compiled}
        took = duration(time.monotonic() - began)
        if len(rounds.compiled) == len(networks):
            say(console, f"{many} compiled ahead in {took}.")
        else:
            why = "stopped; " if stopped() else "the rest of the time is for trials; " if rounds.cut_short else ""
            rest = len(networks) - len(rounds.compiled)
            say(
                console,
                f"{len(rounds.compiled)} of {many} compiled ahead in {took}; {why}{rest} left to their trials.",
                "yellow",
            )

    def _networks(
        self, plan: Plan, left: Sequence[CellPlan], machine: Machine, console: Console
    ) -> dict[str, CellPlan]:
        """A cell for each network still to be compiled. Says why where a sweep can have none."""
        searched = [] if plan.spec.search is None else [key for key in plan.spec.search.space if not _is_apart(key)]
        compiled = [cell for cell in left if compiles(cell, machine)]
        if left and not compiled:
            reason = "it compiles none of its networks (model.compile is false, or null on a CPU)"
        elif compiled and searched:
            reason = f"its networks are not known yet, the search draws {', '.join(searched)}"
        else:
            networks: dict[str, CellPlan] = {}
            for cell in compiled:
                networks.setdefault(network_of(cell.cell.config), cell)
            return {network: cell for network, cell in networks.items() if network not in self._known}
        say(console, f"--compile-ahead {self._processes}: nothing to compile ahead for {plan.spec.name}: {reason}")
        return {}


class _Rounds:
    """Networks of one sweep being compiled, once or, where memory was short, in a second round."""

    def __init__(
        self,
        plan: Plan,
        machine: Machine,
        target: str,
        folder: Path,
        display: Display,
        until: float,
        stopped: Callable[[], bool],
    ) -> None:
        self._plan, self._machine, self._target = plan, machine, target
        self._folder, self._display = folder, display
        self._until, self._stopped = until, stopped
        self._took: list[float] = []
        self.compiled: set[str] = set()
        """By their cells' ids."""
        self.cut_short = False
        """Whether time did not suffice for all."""

    def compile(self, cells: Sequence[CellPlan], processes: int, *, last: bool) -> list[CellPlan]:
        """Returns the cells that ran out of memory, none in the ``last`` round, where that is a failure like any other."""
        pool = Pool(processes)
        waiting = list(cells)
        under_way: dict[str, CellPlan] = {}
        short: list[CellPlan] = []
        try:
            while (waiting or under_way) and not self._stopped():
                left = self._until - time.monotonic()
                if waiting and self._seconds_of_one() > left:
                    self.cut_short = True
                    waiting.clear()  # one that is killed in the middle leaves little for its trial
                    continue
                if left <= 0:
                    self.cut_short = True
                    break
                while waiting and (slot := pool.free_slot()) is not None:
                    cell = waiting.pop(0)
                    under_way[cell.cell.id] = cell
                    pool.start(self._job(cell, slot), slot)
                for event in pool.wait(_POLL_S):
                    if isinstance(event, Report):
                        pool.answer(event.key, False)
                        continue
                    cell, reason = under_way.pop(event.key), _failure(event)
                    if reason == _OUT_OF_MEMORY and not last:
                        short.append(cell)
                    else:
                        self._ended(cell, event.seconds, reason)
                for key, seconds in pool.running().items():
                    if seconds > (self._plan.spec.timeout or math.inf):
                        pool.kill(key)
                self._display.tick(pool.running(), self._seconds_left(len(waiting), pool.running(), processes))
        finally:
            pool.kill_all()
        return short

    def _ended(self, cell: CellPlan, seconds: float, reason: str) -> None:
        self._took.append(seconds)
        self._display.advance()
        if reason:
            self._display.line(f"{cell.cell.id}: not compiled ahead, its trial will try: {reason}", "yellow")
        else:
            self.compiled.add(cell.cell.id)

    def _seconds_of_one(self) -> float:
        return fmean(self._took) if self._took else EXPECTED_S

    def _seconds_left(self, waiting: int, running: Mapping[str, float], processes: int) -> float:
        each = self._seconds_of_one()
        under_way = [max(0.0, each - seconds) for seconds in running.values()]
        return max([*under_way, (each * waiting + sum(under_way)) / processes])

    def _job(self, cell: CellPlan, slot: int) -> Job:
        target = target_of(self._target, self._plan.final(cell.cell, self._plan.spec.seeds[0]), self._plan.spec)
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        config = folder / "config.yaml"
        config.write_text(dump(brief(cell, folder)), encoding="utf-8")
        return Job(
            key=cell.cell.id,
            target=target.function,
            argv=target.arguments(("--config", str(config))),
            tags={},
            run_id=None,
            threads=self._machine.threads,
            gpus=self._machine.visible(slot % self._machine.workers, cell.cell),
            log=folder / "log",
            lock_folder=folder,
        )


def brief(cell: CellPlan, folder: Path) -> dict[str, Any]:
    """The configuration of a run of a cell, for so few steps, that leaves nothing outside the folder.

    It validates one batch, in the trials' own shape: validation is not compiled, but has kernels that are.
    """
    config = copy.deepcopy(cell.cell.config)
    tokens = STEPS * cell.tokens // cell.steps
    config["budget"] = {"tokens": tokens}
    config["every"] = {**(config.get("every") or {}), "validation": tokens, "checkpoint": 0}
    config["profile"] = False
    config["output_dir"] = str(folder)
    config["tracking"] = {"uri": f"sqlite:///{folder / 'mlflow.db'}", "experiment": "ahead", "weights": False}
    config["trainer"] = {**(config.get("trainer") or {}), "enable_progress_bar": False}
    data = keys.look_up(config, (*keys.DATA, "init_args"))
    if isinstance(data, dict) and "val_sequences" in data and "batch_size" in data:
        data["val_sequences"] = min(data["val_sequences"], data["batch_size"])
    return config


def say(console: Console, text: str, style: str | None = None) -> None:
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


_OUT_OF_MEMORY = "out of memory"


def _failure(event: Ended) -> str:
    """Why a network is not compiled, in a line; empty if it is."""
    message = event.message
    if message is None:
        return f"its process ended with code {event.exitcode}"
    if isinstance(message, Failed):
        return (message.reason.strip().splitlines() or ["it failed"])[0]
    return _OUT_OF_MEMORY if message.outcome == "oom" else ""


def _remove(config: dict[str, Any], path: keys.Path) -> None:
    """What is at a path, in place, and mappings that have nothing else."""
    name, rest = path[0], path[1:]
    if rest and isinstance(config.get(name), dict):
        _remove(config[name], rest)
    if not rest or config.get(name) == {}:
        config.pop(name, None)


def _is_apart(key: str) -> bool:
    path = keys.expand(key)
    return any(path[: len(known)] == known for known in APART)
