"""Opening an MLflow tracking store, with every way it can fail said in a sentence.

The default store is one SQLite file. Creating it (`new_store`) must not be done by two processes at once: a file lock beside the database
serialises it. A database written by another version of MLflow is refused, never migrated.
"""

import functools
import logging
import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from mlflow import MlflowClient

CONNECT_TIMEOUT_S = 5.0
REQUEST_TIMEOUT_S = 30.0
DATABASE = "mlflow.db"
_QUIET = ("alembic", "mlflow.store.db.utils", "mlflow.store.tracking.sqlalchemy_store", "mlflow.tracking.fluent")
_SERVERS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}


def default_tracking_uri(output_dir: str | Path) -> str:
    """``MLFLOW_TRACKING_URI`` if it is set, else the SQLite database in the output directory."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(output_dir).expanduser().resolve() / DATABASE}"


def open_store(uri: str, *, must_exist: bool = False) -> "MlflowClient":
    """A client for the store at ``uri``, which is known to answer when this returns.

    ``must_exist`` refuses to create a SQLite database that is not there: a reader of runs has nothing to read in a new one.

    Raises
    ------
    ValueError: not a tracking URI, not an MLflow database, or one of another MLflow version.
    OSError: the database cannot be created or written (PermissionError, NotADirectoryError, ...), does not exist (FileNotFoundError), or the
        server does not answer within a few seconds (ConnectionError).
    """
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    scheme = urlsplit(uri).scheme.partition("+")[0]
    if scheme == "sqlite":
        return _open_sqlite(uri, must_exist)
    if scheme in _SERVERS:
        _check_reachable(uri, scheme)
    elif scheme == "file" or (scheme == "" and uri != "databricks"):
        raise ValueError(
            f"tracking URI {uri!r} is a folder, and MLflow no longer keeps runs in plain files: "
            f"use a database such as sqlite:///{Path(uri.removeprefix('file:')) / DATABASE}, or a server's http:// address"
        )
    return _connect(uri)


def sqlite_path(uri: str) -> Path | None:
    """The file behind a ``sqlite:///`` URI; None for any other URI and for one in memory."""
    if urlsplit(uri).scheme.partition("+")[0] != "sqlite":
        return None
    path = unquote(uri.partition("://")[2].partition("?")[0]).removeprefix("/")
    return Path(path) if path and path != ":memory:" else None


def experiment_id(client: "MlflowClient", uri: str, name: str) -> str:
    """The id of the experiment called ``name``, created if there is none; processes may race for it.

    Artifacts of a SQLite store go to ``artifacts/`` beside the database rather than to wherever the first run happened to be started.
    Raises ValueError for a name that MLflow refuses or an experiment that was deleted.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        database = sqlite_path(uri)
        location = (database.resolve().parent / "artifacts").as_uri() if database is not None else None
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException as error:
            found = client.get_experiment_by_name(name)  # another process was faster
            if found is None:
                raise ValueError(f"tracking.experiment={name!r}: {error.message}") from error
    if found.lifecycle_stage == "deleted":
        raise ValueError(f"tracking.experiment={name!r} was deleted in {uri}: restore it there, or choose another name")
    return str(found.experiment_id)


def _open_sqlite(uri: str, must_exist: bool) -> "MlflowClient":
    path = sqlite_path(uri)
    if path is None:
        raise ValueError(f"tracking URI {uri!r} names no file: expected sqlite:///PATH")
    if must_exist and not path.exists():
        raise FileNotFoundError(
            f"no MLflow database at {path}: no run has been logged there yet. Run `resbench fit` first, or give --tracking-uri"
        )
    _check_writable(path)

    from filelock import FileLock

    with FileLock(path.with_name(path.name + ".lock")):
        _check_version(path, uri)
        if not path.exists():
            _create(path)
        return _connect(uri)


def _create(path: Path) -> None:
    """Create the database by copying an empty one; where that fails it is left to MLflow, which is slower and has its own words for what is wrong."""
    from resbench.harness import new_store

    with suppress(Exception):
        new_store.create(path, _revisions()[0])


def _check_writable(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "a file is in the way" if isinstance(error, FileExistsError | NotADirectoryError) else error.strerror
        raise type(error)(
            f"cannot create the directory {path.parent} for the MLflow database: {reason}. Choose another --output_dir or --tracking.uri"
        ) from error
    for place, what in ((path.parent, "directory"), (path, "MLflow database")):
        if place.exists() and not os.access(place, os.W_OK):
            raise PermissionError(f"the {what} {place} is not writable. Choose another --output_dir or --tracking.uri")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory, expected an MLflow database. Choose another --tracking.uri")


def _check_version(path: Path, uri: str) -> None:
    """Compare the schema's revision with the installed MLflow's, before MLflow sees the file: it would migrate an older one unasked."""
    if not path.exists() or path.stat().st_size == 0:
        return
    try:
        # Not read-only: a process killed while it wrote leaves a journal, and SQLite undoes that write only for a reader who may write.
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=60)) as database:
            tables = {name for (name,) in database.execute("select name from sqlite_master where type = 'table'")}
            rows = (
                database.execute("select version_num from alembic_version").fetchall()
                if "alembic_version" in tables
                else []
            )
    except sqlite3.DatabaseError as error:
        raise ValueError(
            f"{path} is not an MLflow database: {error}. Move it away, or choose another --tracking.uri"
        ) from error
    if not tables:
        return
    if not rows:
        raise ValueError(f"{path} is a database, but not MLflow's. Choose another --tracking.uri")
    import mlflow

    found = rows[0][0]
    known = _revisions()
    if found == known[0]:
        return
    if found in known:
        raise ValueError(
            f"the MLflow database {path} was written by an older MLflow (schema {found}; {mlflow.__version__} needs {known[0]}).\n"
            f"Back the file up, then upgrade it with `mlflow db upgrade {uri}`, or choose another --tracking.uri."
        )
    raise ValueError(
        f"the MLflow database {path} was written by another version of MLflow (its schema {found} is unknown to {mlflow.__version__}).\n"
        f"Install the MLflow that wrote it, or choose another --tracking.uri."
    )


@functools.cache
def _revisions() -> list[str]:
    """Schema revisions the installed MLflow knows, newest first: dozens of files to read."""
    import mlflow
    from alembic.script import ScriptDirectory

    folder = Path(mlflow.__file__).parent / "store" / "db_migrations"
    return [script.revision for script in ScriptDirectory(str(folder)).walk_revisions()]


def _check_reachable(uri: str, scheme: str) -> None:
    parts = urlsplit(uri)
    host, port = parts.hostname, parts.port or _SERVERS[scheme]
    try:
        with socket.create_connection((host or "localhost", port), timeout=CONNECT_TIMEOUT_S):
            pass
    except OSError as error:
        raise ConnectionError(
            f"the tracking server {parts.scheme}://{host}:{port} does not answer: {error}. Start it, or choose another --tracking.uri "
            "(or MLFLOW_TRACKING_URI)"
        ) from error


def _connect(uri: str) -> "MlflowClient":
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        with brief_requests(CONNECT_TIMEOUT_S):
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
    except MlflowException as error:
        if "out-of-date database schema" in str(error):
            raise ValueError(
                f"the MLflow database {uri} was written by another version of MLflow: {error.message}"
            ) from error
        raise ConnectionError(f"the tracking store {uri} does not answer: {error.message}") from error
    return client


@contextmanager
def brief_requests(timeout_s: float = REQUEST_TIMEOUT_S) -> Iterator[None]:
    """Let MLflow's requests fail within seconds, where it would go on for minutes: whether a store answers must be known soon, and a run has a
    patience of its own. What the user's environment says has precedence.
    """
    patience = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(int(timeout_s))}
    ours = {name: value for name, value in patience.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


@contextmanager
def no_repeats() -> Iterator[None]:
    """Let MLflow send each request once: for one that creates something, which a server may have done although its answer got lost."""
    before = os.environ.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]
        else:
            os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = before
