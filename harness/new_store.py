"""A new SQLite store as a copy of an empty one: MLflow takes most of a second for all its migrations, a copy a few milliseconds.

The empty one is made by MLflow itself, the first time, and kept in resbench's cache under the versions of MLflow and of its schema.
"""

import os
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from resbench.tasks.cache import default_cache_dir

MEMORY = Path("/dev/shm")
"""Where a database is made soonest: every migration waits for the disk, and what is made is not needed there."""


def create(path: Path, revision: str) -> None:
    """Put an empty MLflow database at ``path``, whole or not at all. ``revision``: newest schema of the installed MLflow.

    Raises FileExistsError, and leaves alone what is there, if there is anything; other OSErrors where files cannot be written or linked; and
    whatever MLflow raises. The caller holds the lock of ``path``.
    """
    import mlflow

    empty = default_cache_dir() / "mlflow" / f"{mlflow.__version__}-{revision}.db"
    if not _is_whole(empty, revision):
        _make(empty)
    copy = path.with_name(path.name + ".new")
    try:
        shutil.copyfile(empty, copy)
        os.link(copy, path)  # unlike renaming, it never replaces a file
    finally:
        copy.unlink(missing_ok=True)


def _is_whole(database: Path, revision: str) -> bool:
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            found = connection.execute("select version_num from alembic_version").fetchall()
            return found == [(revision,)] and connection.execute("pragma quick_check").fetchall() == [("ok",)]
    except sqlite3.Error:
        return False


def _make(empty: Path) -> None:
    """Let MLflow make a database, and keep it. Of processes that do so at once, each replaces the other's file by an equal one."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    empty.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as workshop,
        tempfile.TemporaryDirectory(dir=empty.parent) as beside,
    ):
        made, copy = Path(workshop) / empty.name, Path(beside) / empty.name
        SqlAlchemyStore(f"sqlite:///{made}", workshop).engine.dispose()
        with closing(sqlite3.connect(made)) as connection, connection:
            # The default experiment names the folder it was made in. MLflow adds another when it opens a database without any.
            connection.execute("delete from experiments")
        shutil.copyfile(made, copy)
        copy.replace(empty)
