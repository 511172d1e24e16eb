"""A second process that is already there: what `ranks.start` would start, without the seconds that importing everything takes."""

import multiprocessing
import os
import subprocess
from collections.abc import Mapping
from multiprocessing.connection import Connection

from resbench.harness import ranks


def _serve(connection: Connection) -> None:
    """Be one second process after another: read (arguments, environment), run, answer with the exit code."""
    from resbench.harness.fit import fit

    connection.send("ready")
    while (job := connection.recv()) is not None:
        argv, environment = job
        before = dict(os.environ)
        os.environ.update({name: environment[name] for name in (ranks.LINK, "LOCAL_RANK")})
        try:
            fit(argv)
            connection.send(0)
        except BaseException as error:
            print(f"second process: {type(error).__name__}: {error}")
            connection.send(1)
        finally:
            os.environ.clear()
            os.environ.update(before)


class Warm:
    """One job of the waiting process, as `subprocess.Popen` would show it."""

    def __init__(self, pair: "Pair") -> None:
        self._pair = pair
        self._code: int | None = None

    def poll(self) -> int | None:
        return self._read(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._read(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("second process", timeout or 0)
        return code

    def kill(self) -> None:
        self._pair.process.kill()

    def _read(self, timeout: float | None) -> int | None:
        if self._code is None and self._pair.connection.poll(timeout):
            try:
                self._code = self._pair.connection.recv()
            except EOFError:
                self._pair.process.join()
                self._code = self._pair.process.exitcode
        return self._code


class Pair:
    """This process and a waiting second one; `start` has the signature of `ranks.start`."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        self._ready = False

    def start(self, argv: list[str], environment: Mapping[str, str]) -> Warm:
        if not self._ready:
            self._ready = self.connection.recv() == "ready"
        self.connection.send((argv, dict(environment)))
        return Warm(self)

    def close(self) -> None:
        self.process.kill()
        self.process.join()
