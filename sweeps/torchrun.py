"""A trial on several devices: one process for each, started and looked after by torchrun's agent (`torch.distributed.launcher`).

The agent runs in the trial's own process, which passes the first rank's validations on to the sweep and the sweep's answers back. All ranks end when
one of them fails, and none outlives the trial. SIGTERM reaches every rank, which save a checkpoint together.
"""

import copy
import ctypes
import json
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from resbench.harness.errors import PREEMPTED, Preempted
from resbench.sweeps.target import Target, load

if TYPE_CHECKING:
    from resbench.harness.fit import RunResult

LOOPBACK = "127.0.0.1"
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class _Order:
    target: Target
    devices: int


@dataclass(frozen=True)
class _Validation:
    tokens: int
    loss: float


@dataclass(frozen=True)
class _End:
    """The first rank's last words: its result, or what it raised (without its checkpoint's path, a `Preempted` would not be one)."""

    result: "RunResult | None" = None
    error: BaseException | None = None
    preempted: tuple[Any, ...] | None = None


def wrap(target: Target, devices: int) -> Target:
    """``target`` with one process for each of ``devices``."""
    return Target("resbench.sweeps.torchrun:fit", json.dumps(asdict(_Order(target, devices))))


def fit(
    argv: list[str],
    *,
    tags: dict[str, str] | None = None,
    run_id: str | None = None,
    on_validation: Callable[[int, float], None] | None = None,
) -> "RunResult":
    """`resbench.harness.fit.fit` on several devices; argv: the order as JSON, then the arguments of every rank.

    Raises what the first rank raised, or RuntimeError with the reason of the rank that failed.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    given = json.loads(argv[0])
    order = _Order(Target(**given["target"]), given["devices"])
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=order.devices,
        run_id=run_id or "trial",
        rdzv_backend="c10d",
        rdzv_endpoint=f"{LOOPBACK}:0",  # the agent picks a free port
        local_addr=LOOPBACK,
        max_restarts=0,  # the sweep starts a run again, from its checkpoint
        start_method="spawn",
    )
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    os.environ["OMP_NUM_THREADS"] = str(max(1, int(threads) // order.devices))  # of each rank
    here, there = get_context("spawn").Pipe()
    relay = _Relay(here, on_validation)
    failed: BaseException | None = None
    try:
        elastic_launch(config, _rank)(order.target, argv[1:], tags, run_id, there, os.getpid())
    except (ChildFailedError, SignalException) as error:
        failed = error
    there.close()
    end = relay.last_words()
    if end is not None and end.preempted is not None:
        raise Preempted(*end.preempted)
    if end is not None and end.error is not None:
        raise end.error
    if isinstance(failed, SignalException):  # it came before the ranks had anything to save
        raise Preempted(0, None, run_id or "")
    if failed is not None or end is None or end.result is None:
        raise RuntimeError(_reason(failed)) from failed
    return end.result


class _Relay:
    """Hears the first rank in a thread, as the agent has the main one."""

    def __init__(self, connection: Connection, on_validation: Callable[[int, float], None] | None) -> None:
        self._connection, self._on_validation = connection, on_validation
        self._end: _End | None = None
        self._thread = threading.Thread(target=self._listen, daemon=True, name="relay-ranks")
        self._thread.start()

    def last_words(self) -> _End | None:
        """Once all ranks are gone."""
        self._thread.join()
        return self._end

    def _listen(self) -> None:
        while True:
            try:
                message = self._connection.recv()
            except (EOFError, OSError):
                return
            if isinstance(message, _End):
                self._end = message
            else:
                self._connection.send(self._give_up(message))

    def _give_up(self, message: _Validation) -> str | None:
        """Why the trial is to end, or None."""
        from resbench.harness.fit import Pruned

        try:
            if self._on_validation is not None:
                self._on_validation(message.tokens, message.loss)
        except Pruned as error:
            return str(error)
        return None


def _rank(
    target: Target,
    argv: list[str],
    tags: dict[str, str] | None,
    run_id: str | None,
    connection: Connection,
    trial: int,
) -> None:
    """The body of every rank; the first one talks to the trial."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with(trial)
    first = os.environ["RANK"] == "0"
    asked = _Asked()
    try:
        result = load(target)(argv, tags=tags, run_id=run_id, on_validation=_reporter(connection) if first else None)
        if first:
            connection.send(_End(result))
    except Preempted as error:
        if first:
            connection.send(_End(preempted=(error.tokens, error.checkpoint, error.run_id)))
    except BaseException as error:
        if first:
            connection.send(_End(error=_portable(error)))
        raise
    if asked.to_stop():
        # To return would be to wait for the agent to fetch a result, while it waits for this process to end.
        connection.close()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(PREEMPTED)


class _Asked:
    """Notes SIGTERM beside whoever handles it."""

    def __init__(self) -> None:
        self._read, write = os.pipe()
        for end in (self._read, write):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)

    def to_stop(self) -> bool:
        try:
            return signal.SIGTERM in os.read(self._read, 4096)
        except BlockingIOError:
            return False


def _reporter(connection: Connection) -> Callable[[int, float], None]:
    from resbench.harness.fit import Pruned

    def on_validation(tokens: int, loss: float) -> None:
        connection.send(_Validation(tokens, loss))
        if (reason := connection.recv()) is not None:
            raise Pruned(reason)

    return on_validation


def _portable(error: BaseException) -> BaseException:
    """The error, if it survives being sent to another process."""
    try:
        pickle.dumps(error)
        copy.copy(
            error
        )  # makes it again as the other end will: some errors' constructors take other arguments than they keep
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _reason(failed: BaseException | None) -> str:
    """The first rank that failed, with its last line."""
    if failed is None:
        return "the first rank ended without a result"
    failures = getattr(failed, "failures", None)
    if not failures:
        return str(failed)
    rank, failure = min(failures.items(), key=lambda item: item[1].timestamp)
    return f"rank {rank} failed with code {failure.exitcode}: {str(failure.message).strip().splitlines()[-1]}"


def _end_with(trial: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != trial:
        os._exit(1)
