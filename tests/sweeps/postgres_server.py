"""A real PostgreSQL server for a test: its own data folder, on a free port of loopback, restarted when the test says so."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Postgres:
    def __init__(self, programs: Path, folder: Path, user: str | None) -> None:
        self._programs, self._data, self._user = programs, folder / "data", user
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._run("initdb", "-D", str(self._data), "-A", "trust", "-U", "resbench", "--no-sync", "-E", "UTF8")

    @property
    def url(self) -> str:
        return f"postgresql://resbench@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-c listen_addresses=127.0.0.1 -p {self.port} -k {self._data} -c fsync=off"
        self._run("pg_ctl", "-D", str(self._data), "-w", "-l", str(self._data / "log"), "-o", options, "start")

    def stop(self) -> None:
        """Cut every connection and end at once, without finishing what was under way."""
        self._run("pg_ctl", "-D", str(self._data), "-w", "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._programs / program, *arguments],
            check=True,
            user=self._user,
            cwd=self._data.parent,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A running server. Skips where PostgreSQL or its driver is missing, and fails instead where RESBENCH_REQUIRE_POSTGRES=1."""
    missing = _missing()
    if missing:
        if os.environ.get("RESBENCH_REQUIRE_POSTGRES") == "1":
            pytest.fail(f"RESBENCH_REQUIRE_POSTGRES=1, but {missing}")
        pytest.skip(missing)
    programs = _programs()
    assert programs is not None
    user = "nobody" if os.geteuid() == 0 else None  # the server refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="resbench-postgres-"))
    try:
        if user:
            os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        server = Postgres(programs, folder, user)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def _programs() -> Path | None:
    """Where initdb and pg_ctl are: Debian keeps them out of the PATH."""
    found = [Path(found).parent for found in [shutil.which("initdb")] if found]
    found += sorted((path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")), reverse=True)
    return next((folder for folder in found if (folder / "pg_ctl").exists()), None)


def _missing() -> str | None:
    if _programs() is None:
        return "there is no PostgreSQL server here (Debian: apt-get install postgresql)"
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "there is no PostgreSQL driver here (pip install psycopg[binary])"
    return None
