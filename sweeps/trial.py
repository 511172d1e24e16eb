"""One trial in its own process. The fork server imports what a run needs once, so that a trial starts at once; the sweep need not.

A trial must not outlive the sweep that started it: an orphan would write to a run that the next `sweep run` takes up again.
"""

import ctypes
import errno
import gc
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TextIO

from resbench.harness.errors import CannotSave, Preempted
from resbench.sweeps.lease import Lease
from resbench.sweeps.messages import Failed, Fault, Finished, Job, Validation

_PR_SET_PDEATHSIG = 1
_LONGEST_LOOK_S = 2.0

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO}


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


def main(job: Job, connection: Connection, lease: Lease | None = None) -> None:
    """The body of a trial process. With a lease, it ends when that does."""
    gc.freeze()  # collecting what came with the fork would copy every page of it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal group; the sweep process decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which the fork server ignores
    _die_with_the_sweep(lease)
    lock: TextIO | None = None
    try:
        _redirect_output(job.log)
        from resbench.sweeps.lock import hold_as_trial

        lock = hold_as_trial(job.lock_folder)
        _exit_if_orphaned()  # after taking the lock: a later sweep either sees the lock or this process leaves
        if job.gpus is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = job.gpus
        os.environ["OMP_NUM_THREADS"] = str(job.threads)  # for a torch still to be imported
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(job.threads)
        result = _target(job.target)(
            list(job.argv), tags=job.tags, run_id=job.run_id, on_validation=_reporter(connection)
        )
        connection.send(Finished(result.outcome, result.val_loss, result.tokens))
    except BaseException as error:  # also SystemExit from a library: the sweep has to hear of any end
        connection.send(Failed(f"{type(error).__name__}: {error}", fault_of(error)))
        with suppress(OSError):  # the disk that is full may be the log's
            traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        connection.close()
        if lock is not None:
            lock.close()


def fault_of(error: BaseException) -> Fault:
    """What is to blame for the end of a run."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, Preempted):
        return "signal"
    if isinstance(error, MlflowException | ConnectionError | TimeoutError):
        return "store"
    if isinstance(error, CannotSave) or (isinstance(error, OSError) and error.errno in _DISK):
        return "disk"
    return "run"


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


def _die_with_the_sweep(lease: Lease | None) -> None:
    """Die with the fork server (the kernel's parent of this process), and with the sweep process (which is not)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_watch_sweep, args=(lease,), daemon=True, name="watch-sweep").start()


def _watch_sweep(lease: Lease | None) -> None:
    """Kill this process when its sweep is gone or its lease has ended; ask it for a checkpoint shortly before the latter."""
    asked = False
    while not wait([_sweep_sentinel()], None if lease is None else max(0.01, min(lease.left() / 8, _LONGEST_LOOK_S))):
        assert lease is not None
        if lease.left() <= 0:
            break
        if lease.short and not asked:
            asked = True
            os.kill(os.getpid(), signal.SIGTERM)
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
