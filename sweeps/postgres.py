"""A PostgreSQL server of one's own for a while: its data in a temporary folder, on a free port of loopback. For tests and measurements."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


class Postgres:
    """``programs`` has initdb and pg_ctl; ``settings`` are the server's, by name."""

    def __init__(self, programs: Path, folder: Path, user: str | None, settings: Mapping[str, str]) -> None:
        self._programs, self._data, self._user, self._settings = programs, folder / "data", user, dict(settings)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._run("initdb", "-D", str(self._data), "-A", "trust", "-U", "resbench", "--no-sync", "-E", "UTF8")

    @property
    def url(self) -> str:
        return f"postgresql://resbench@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        settings = {"listen_addresses": "127.0.0.1", "port": str(self.port), **self._settings}
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        options += f" -k {self._data}"
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
def running(settings: Mapping[str, str]) -> Iterator[Postgres]:
    """A server with these settings. Raises ValueError where PostgreSQL is not installed."""
    found = programs()
    if found is None:
        raise ValueError("there is no PostgreSQL server here (Debian: apt-get install postgresql)")
    user = "nobody" if os.geteuid() == 0 else None  # the server refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="resbench-postgres-"))
    try:
        if user:
            os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        server = Postgres(found, folder, user, settings)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def programs() -> Path | None:
    """Where initdb and pg_ctl are: Debian keeps them out of the PATH."""
    found = [Path(found).parent for found in [shutil.which("initdb")] if found]
    found += sorted((path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")), reverse=True)
    return next((folder for folder in found if (folder / "pg_ctl").exists()), None)
