"""The processes of one run on one machine: the first starts the others, they meet on loopback, and none outlives it.

In place of Lightning's launcher, which repeats the command line of whatever program is running (a test, a sweep's worker), meets on every network
interface, and kills the first process when another ends, whatever it had left to write. Processes started by torchrun or srun are left to Lightning.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed as dist

from resbench.harness.processes import importing

LINK = "RESBENCH_RANK"
LOOPBACK = "127.0.0.1"
_JOIN_TIMEOUT_S = 300.0
_LAST_WORDS_S = 20.0
_EXIT_PATIENCE_S = 20.0


@dataclass(frozen=True)
class Link:
    """How a process joins the others: its rank, how many they are, the port of the store they meet at, and what carries tensors."""

    rank: int
    world: int
    port: int
    backend: str

    @staticmethod
    def of_this_process() -> "Link | None":
        """The link this process was started with, None for the first process and for what others started."""
        text = os.environ.get(LINK)
        return Link(**json.loads(text)) if text else None


@dataclass(frozen=True)
class LastWords:
    """How a process other than the first ended early: ``outcome`` as in `names`, and why."""

    outcome: str
    reason: str


class Process(Protocol):
    """The part of `subprocess.Popen` that is used."""

    def poll(self) -> int | None: ...
    def kill(self) -> None: ...
    def wait(self, timeout: float | None = None) -> int: ...


class Others(Protocol):
    """What the first process needs of the others."""

    def begin(self, facts: Mapping[str, Any]) -> Any: ...
    def watch(self, on_stuck: Callable[[int, LastWords], None]) -> None: ...
    def failure(self, patience_s: float = 0.0) -> tuple[int, LastWords] | None: ...


def started_by_torchrun() -> bool:
    """Whether torchrun has started one process per device already; it also watches them and ends them together."""
    return dist.is_torchelastic_launched()


def is_first() -> bool:
    """Whether this process is the one that keeps the records, whoever started it."""
    if Link.of_this_process() is not None:
        return False
    if started_by_torchrun():
        return os.environ["RANK"] == "0"
    return os.environ.get("LOCAL_RANK", "0") == "0" and os.environ.get("NODE_RANK", "0") == "0"


def started_by_others() -> bool:
    """Whether torchrun, srun or a script has started one process per device already."""
    return "LOCAL_RANK" in os.environ or started_by_torchrun()


class Companions:
    """The other processes, as the first one sees them."""

    def __init__(self, store: dist.TCPStore, processes: Mapping[int, Process], link: Link) -> None:
        self._store, self._processes, self._link = store, dict(processes), link
        self._done = threading.Event()
        self._watch: threading.Thread | None = None

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Tell the others ``facts``, wait until each is there, and form the group. Raises RuntimeError if one of them ends instead."""
        self._store.set("facts", json.dumps(dict(facts)))
        ready = [f"ready/{rank}" for rank in self._processes]
        while ready and not self._store.check(ready):
            if (found := self.failure()) is not None:
                raise RuntimeError(f"process {found[0]} of {self._link.world} did not start: {found[1].reason}")
            time.sleep(0.02)
        _form_group(self._store, self._link)

    def failure(self, patience_s: float = 0.0) -> tuple[int, LastWords] | None:
        """The first of the others that ended early, with its last words; waits for one to speak or exit."""
        deadline = time.monotonic() + patience_s
        while True:
            for rank, process in self._processes.items():
                if self._store.check([f"end/{rank}"]):
                    return rank, LastWords(**json.loads(self._store.get(f"end/{rank}")))
                code = process.poll()
                if code:
                    return rank, LastWords("failed", f"it ended with code {code}")
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.05)

    def watch(self, on_stuck: Callable[[int, LastWords], None]) -> None:
        """Call ``on_stuck`` from a thread if one of the others has ended and this process still waits for it in vain after a while.

        gloo notices a lost peer by itself; NCCL waits for ever, in a place where no Python exception can reach it.
        """

        def run() -> None:
            while not self._done.wait(0.5):
                if (found := self.failure()) is not None and not self._done.wait(_LAST_WORDS_S):
                    on_stuck(*found)
                    return

        self._watch = threading.Thread(target=run, daemon=True, name="watch-ranks")
        self._watch.start()

    def stop(self, patience_s: float) -> None:
        """Wait for the others to end by themselves, then end them."""
        self._done.set()
        deadline = time.monotonic() + patience_s
        for process in self._processes.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(_EXIT_PATIENCE_S)


class Elastic:
    """Processes that torchrun started and looks after; every one of them calls `begin`."""

    def __init__(self, device: torch.device) -> None:
        self._backend = _backend(device)

    def begin(self, facts: Mapping[str, Any] | None) -> dict[str, Any]:
        """Form the group; the first process's ``facts`` on all of them."""
        if self._backend == "nccl":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group(self._backend)
        told: list[Any] = [dict(facts) if facts is not None else None]
        dist.broadcast_object_list(told)
        found: dict[str, Any] = told[0]
        return found

    def watch(self, on_stuck: Callable[[int, LastWords], None]) -> None:
        return

    def failure(self, patience_s: float = 0.0) -> tuple[int, LastWords] | None:
        return None


@contextmanager
def together(argv: list[str], world: int, device: torch.device) -> Iterator[Companions]:
    """Start ``world - 1`` processes that run `resbench fit` with the same arguments, and form a process group with them.

    Leaving waits for them after a normal end, and ends them at once after an exception.
    """
    backend = _backend(device)
    before = {name: os.environ.get(name) for name in ("LOCAL_RANK", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")}
    _stay_on_loopback()
    with socket.create_server((LOOPBACK, 0)) as listener:
        port = listener.getsockname()[1]
        store = dist.TCPStore(
            LOOPBACK,
            port,
            world,
            is_master=True,
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
            timeout=timedelta(seconds=_JOIN_TIMEOUT_S),
        )
    threads = max(1, torch.get_num_threads() // world)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),  # a scheme may come from the caller's folder
    }
    first = Link(0, world, port, backend)
    companions = Companions(store, {}, first)
    patience = 0.0
    try:
        started: dict[int, Process] = {}
        for rank in range(1, world):
            own = {**environment, LINK: json.dumps(asdict(replace(first, rank=rank))), "LOCAL_RANK": str(rank)}
            started[rank] = start(argv, own)
            companions = Companions(store, started, first)
        os.environ["LOCAL_RANK"] = "0"  # tells Lightning that there is nothing to launch
        yield companions
        patience = _EXIT_PATIENCE_S
    finally:
        companions.stop(patience)
        leave()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def start(argv: list[str], environment: Mapping[str, str]) -> Process:
    """One further process. Its standard input is a pipe that closes when this process is gone, however it went."""
    command = [sys.executable, "-m", "resbench.harness.ranks", *argv]
    return subprocess.Popen(command, env=dict(environment), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)


def join(link: Link) -> tuple[dist.TCPStore, dict[str, Any]]:
    """Join the group from another process than the first; the store, and what the first process told."""
    _stay_on_loopback()
    timeout = timedelta(seconds=_JOIN_TIMEOUT_S)
    store = dist.TCPStore(LOOPBACK, link.port, link.world, is_master=False, timeout=timeout)
    facts: dict[str, Any] = json.loads(store.get("facts"))
    store.set(f"ready/{link.rank}", "")
    _form_group(store, link)
    return store, facts


def _backend(device: torch.device) -> str:
    return "nccl" if device.type == "cuda" else "gloo"


def _form_group(store: dist.TCPStore, link: Link) -> None:
    group = dist.PrefixStore("group", store)
    dist.init_process_group(link.backend, store=group, rank=link.rank, world_size=link.world)


def say(store: dist.TCPStore, link: Link, words: LastWords) -> None:
    """Leave last words for the first process."""
    store.set(f"end/{link.rank}", json.dumps(asdict(words)))


def leave() -> None:
    """Take the process group down, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _stay_on_loopback() -> None:
    """gloo and NCCL take the interface of the host name by default; on one machine nothing needs to leave it."""
    name = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    if name is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", name)


def _end_with_the_first() -> None:
    def watch() -> None:
        os.read(0, 1)  # not through sys.stdin, whose lock the interpreter wants when it shuts down
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watch-first-rank").start()


def main() -> None:
    """The body of every process but the first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal group; the first process decides
    _end_with_the_first()
    with importing(for_good=True):
        from resbench.harness.fit import fit

    fit(sys.argv[1:])
    sys.stderr.flush()
    os._exit(0)  # threads of the store and of gloo may still be running, which the interpreter's end takes for a crash


if __name__ == "__main__":
    main()
