"""One trial in its own process. The fork server imports what a run needs once, so that a trial starts at once; the sweep need not.

A trial must not outlive the sweep that started it: an orphan would write to a run that the next `sweep run` takes up again.
"""

import ctypes
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from resbench.harness.errors import Preempted

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Job:
    """What a trial process needs to know. ``target`` is ``module:function`` with the signature of `resbench.harness.fit.fit`."""

    key: str
    target: str
    argv: tuple[str, ...]
    tags: dict[str, str]
    run_id: str
    threads: int
    gpu: int | None
    log: Path
    lock_folder: Path


@dataclass(frozen=True)
class Validation:
    """A trial to the sweep: validation loss after so many training tokens. It waits for a bool, whether to give up."""

    tokens: int
    loss: float


@dataclass(frozen=True)
class Finished:
    """A trial to the sweep: how it ended, as `RunResult` says."""

    outcome: str
    val_loss: float | None
    tokens: int


@dataclass(frozen=True)
class Failed:
    """A trial to the sweep: it raised. ``transient`` if the tracking store refused or somebody stopped it: another attempt may fare better."""

    reason: str
    transient: bool = False


def rehearse() -> None:
    """Do once, in the fork server, what costs every run the same again: imports made on first use, and reading a configuration's types."""
    for name in (
        "mlflow.store.tracking.sqlalchemy_store",
        "mlflow.system_metrics.system_metrics_monitor",
        "sqlalchemy.dialects.sqlite",
    ):
        importlib.import_module(name)
    from resbench.harness.fit import describe

    # A broken plugin or task is for the runs to report, each in its own words.
    with suppress(Exception):
        describe([])


def main(job: Job, connection: Connection) -> None:
    """The body of a trial process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal group; the sweep process decides
    _die_with_the_sweep()
    _redirect_output(job.log)
    from resbench.sweeps.lock import hold_as_trial

    lock = hold_as_trial(job.lock_folder)
    _exit_if_orphaned()  # after taking the lock: a later sweep either sees the lock or this process leaves
    if job.gpu is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[job.gpu] if job.gpu < len(visible) and visible[0] else str(job.gpu)
    os.environ["OMP_NUM_THREADS"] = str(job.threads)  # for a torch still to be imported
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(job.threads)
    from mlflow.exceptions import MlflowException

    try:
        result = _target(job.target)(
            list(job.argv), tags=job.tags, run_id=job.run_id, on_validation=_reporter(connection)
        )
        connection.send(Finished(result.outcome, result.val_loss, result.tokens))
    except BaseException as error:  # also SystemExit from a library: the sweep has to hear of any end
        traceback.print_exc()
        transient = isinstance(error, MlflowException | ConnectionError | TimeoutError | Preempted)
        connection.send(Failed(f"{type(error).__name__}: {error}", transient))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.close()
        lock.close()


def _reporter(connection: Connection) -> Callable[[int, float], None]:
    def on_validation(tokens: int, loss: float) -> None:
        connection.send(Validation(tokens, loss))
        if connection.recv():
            from resbench.harness.callbacks.context import Pruned

            raise Pruned(f"pruned after {tokens} tokens")

    return on_validation


def _target(path: str) -> Callable[..., Any]:
    module, _, function = path.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def _die_with_the_sweep() -> None:
    """Die with the fork server (the kernel's parent of this process), and with the sweep process (which is not)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_watch_sweep, daemon=True, name="watch-sweep").start()


def _watch_sweep() -> None:
    wait([_sweep_sentinel()])
    os.kill(os.getpid(), signal.SIGKILL)


def _exit_if_orphaned() -> None:
    if wait([_sweep_sentinel()], timeout=0):
        os._exit(1)


def _sweep_sentinel() -> int:
    parent = multiprocessing.parent_process()
    assert parent is not None
    assert isinstance(parent.sentinel, int)
    return parent.sentinel


def _redirect_output(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
