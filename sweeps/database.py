"""The database that workers share: its address, one worker at a time while its tables are set up, connections that survive a restart."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import optuna
from filelock import FileLock
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, OperationalError

HEARTBEAT_S = 15
# A server that is gone without a word is noticed after half a minute, not after the quarter of an hour that TCP would wait.
_POSTGRES = {
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


def storage_url(url: str) -> str:
    """``postgresql://`` with the driver of the extra ``postgres``. Raises ValueError for what is no database URL, or without the driver."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ValueError(
            f"--storage {url!r} is not a database: expected postgresql://USER@HOST/DATABASE or sqlite:///PATH"
        ) from None
    if parsed.get_backend_name() not in ("postgresql", "sqlite"):
        raise ValueError(
            f"--storage {parsed!r}: expected postgresql://USER@HOST/DATABASE, or sqlite:///PATH for workers on one machine"
        )
    if parsed.drivername == "postgresql":
        try:
            import psycopg  # noqa: F401
        except ImportError:
            raise ValueError("PostgreSQL needs a driver: pip install 'resbench[postgres]'") from None
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed.render_as_string(hide_password=False)


@contextmanager
def opening(url: str, name: str) -> Iterator[None]:
    """One worker at a time while a sweep's tables, books and queue are set up; let go by the server when a worker dies.

    Raises ConnectionError when the database does not answer.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        path = Path(str(parsed.database))
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(path.name + ".opening")):
            yield
        return
    with _server_lock(url, f"resbench/{name}"):
        yield


@contextmanager
def _server_lock(url: str, name: str) -> Iterator[None]:
    engine = create_engine(url, connect_args=_POSTGRES)
    try:
        connection = engine.connect()
    except OperationalError as error:
        raise ConnectionError(
            f"the database {make_url(url)!r} does not answer: {str(error.orig).splitlines()[0]}"
        ) from None
    try:
        with connection:
            connection.execute(text("select pg_advisory_lock(hashtext(:name))"), {"name": name})
            yield
    finally:
        engine.dispose()


def open_shared(url: str, heartbeat_s: int = HEARTBEAT_S, grace_s: int | None = None) -> RDBStorage:
    """The database with heartbeats; connections that a restart cut are replaced. A worker is dead after ``grace_s`` seconds without one."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sqlite = url.startswith("sqlite")
    extra = {"connect_args": {"timeout": 60}} if sqlite else {"pool_pre_ping": True, "connect_args": _POSTGRES}
    # One process at a time creates the tables; another sweep may begin on the same database.
    with nullcontext() if sqlite else _server_lock(url, "resbench"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return RDBStorage(
            url, engine_kwargs=extra, heartbeat_interval=heartbeat_s, grace_period=grace_s or 4 * heartbeat_s
        )
