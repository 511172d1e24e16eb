"""Opening a store: every way it fails is one sentence, in seconds, and nothing of the user's is changed."""

import multiprocessing
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from open_at_once import open_at_once

from resbench.harness import new_store
from resbench.harness.store import default_tracking_uri, experiment_id, open_store, sqlite_path


def revision(database: Path, value: str | None = None) -> str:
    """The schema revision of a database, after setting it if one is given."""
    with sqlite3.connect(database) as connection:
        if value is not None:
            connection.execute("update alembic_version set version_num = ?", (value,))
        return str(connection.execute("select version_num from alembic_version").fetchone()[0])


def test_the_default_is_a_database_in_the_output_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert default_tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    assert sqlite_path(default_tracking_uri(tmp_path)) == tmp_path / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somewhere:1")
    assert default_tracking_uri(tmp_path) == "http://somewhere:1"


def test_artifacts_live_beside_the_database(output_dir: Path) -> None:
    uri = default_tracking_uri(output_dir)
    client = open_store(uri)
    created = experiment_id(client, uri, "first")
    assert experiment_id(client, uri, "first") == created
    assert client.get_experiment(created).artifact_location == (output_dir / "artifacts").as_uri()
    client.delete_experiment(created)
    with pytest.raises(ValueError, match="was deleted"):
        experiment_id(client, uri, "first")


@pytest.mark.parametrize(
    ("written", "advice"),
    [("ffffffffffff", "Install the MLflow that wrote it"), ("451aebb31d03", "mlflow db upgrade")],
    ids=["newer", "older"],
)
def test_a_database_of_another_version_is_refused_and_left_alone(output_dir: Path, written: str, advice: str) -> None:
    database = output_dir / "mlflow.db"
    revision(database, written)
    content = database.read_bytes()
    with pytest.raises(ValueError, match=advice) as error:
        open_store(default_tracking_uri(output_dir))
    assert str(database) in str(error.value)
    assert written in str(error.value)
    assert database.read_bytes() == content


def test_what_is_no_mlflow_database(tmp_path: Path) -> None:
    text = tmp_path / "notes.db"
    text.write_text("not a database at all, but long enough to be taken for one" * 20)
    with pytest.raises(ValueError, match="not an MLflow database"):
        open_store(f"sqlite:///{text}")
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("create table mine (x)")
    with pytest.raises(ValueError, match="not MLflow's"):
        open_store(f"sqlite:///{other}")
    with pytest.raises(ValueError, match="sqlite:///"):
        open_store(str(tmp_path / "mlruns"))
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(IsADirectoryError):
        open_store(f"sqlite:///{tmp_path}/folder.db")


def test_a_reader_does_not_create_a_database(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no run has been logged"):
        open_store(f"sqlite:///{tmp_path}/mlflow.db", must_exist=True)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="a file is in the way"):
        open_store(f"sqlite:///{tmp_path}/file/runs/mlflow.db")


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_an_unreachable_server_fails_in_seconds(scheme: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        start = time.monotonic()
        with pytest.raises(ConnectionError, match=f"127.0.0.1:{port} does not answer"):
            open_store(f"{scheme}://127.0.0.1:{port}")
        assert time.monotonic() - start < 10


@pytest.mark.slow
def test_processes_may_create_the_database_at_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(3), context.Queue()
    uri = default_tracking_uri(tmp_path / "new")
    workers = [context.Process(target=open_at_once, args=(uri, barrier, answers)) for _ in range(3)]
    for worker in workers:
        worker.start()
    found = {answers.get(timeout=120) for _ in workers}
    for worker in workers:
        worker.join(60)
    assert len(found) == 1
    assert next(iter(found)).isdigit()
    assert "alembic" not in capfd.readouterr().err.lower()


def content(database: Path) -> dict[str, object]:
    """Everything in a database but its experiments: MLflow's default one names the working directory and the time."""
    with closing(sqlite3.connect(database)) as connection:
        parts = connection.execute("select name, type, sql from sqlite_master").fetchall()
        # Migrations write a table's constraints in any order.
        schema = {name: sorted(line.strip(" \t,") for line in (sql or "").splitlines()) for name, _, sql in parts}
        tables = [name for name, kind, _ in parts if kind == "table" and name != "experiments"]
        rows = {table: connection.execute(f"select * from {table}").fetchall() for table in tables}
        return {"schema": schema, "rows": rows}


def test_a_new_database_is_the_one_mlflow_would_have_made(tmp_path: Path) -> None:
    made, copied = tmp_path / "made.db", tmp_path / "copied.db"
    SqlAlchemyStore(f"sqlite:///{made}", str(tmp_path)).engine.dispose()
    client = open_store(f"sqlite:///{copied}")
    assert content(copied) == content(made)
    (default,) = client.search_experiments()
    assert (default.experiment_id, default.artifact_location) == ("0", f"{Path.cwd()}/mlruns/0")


def test_a_new_database_is_a_copy_of_the_one_that_is_kept(own_cache: Path, tmp_path: Path) -> None:
    open_store(f"sqlite:///{tmp_path}/first.db")
    (kept,) = (own_cache / "mlflow").iterdir()
    before = kept.read_bytes()
    with closing(sqlite3.connect(kept)) as connection:
        connection.execute("pragma user_version = 7")
    open_store(f"sqlite:///{tmp_path}/second.db")
    with closing(sqlite3.connect(tmp_path / "second.db")) as connection:
        assert connection.execute("pragma user_version").fetchone() == (7,)
    kept.write_bytes(before)
    assert {path.name for path in tmp_path.iterdir()} == {"first.db", "first.db.lock", "second.db", "second.db.lock"}


@pytest.mark.parametrize("damage", ["cut short", "of another version"])
def test_a_kept_database_that_is_no_good_is_made_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, empty_store: Path, damage: str
) -> None:
    monkeypatch.setenv("RESBENCH_CACHE", str(tmp_path / "cache"))
    kept = tmp_path / "cache" / "mlflow" / f"{mlflow.__version__}-{revision(empty_store)}.db"
    kept.parent.mkdir(parents=True)
    if damage == "cut short":
        kept.write_bytes(empty_store.read_bytes()[:50_000])
    else:
        shutil.copy(empty_store, kept)
        revision(kept, "451aebb31d03")
    client = open_store(f"sqlite:///{tmp_path}/mlflow.db")
    assert len(client.search_experiments()) == 1
    assert revision(kept) == revision(empty_store)


def test_a_cache_that_cannot_be_written_does_no_harm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in the way")
    monkeypatch.setenv("RESBENCH_CACHE", str(tmp_path / "cache"))
    client = open_store(f"sqlite:///{tmp_path}/mlflow.db")
    assert len(client.search_experiments()) == 1


def test_a_file_that_appears_meanwhile_is_left_alone(tmp_path: Path, empty_store: Path) -> None:
    theirs = tmp_path / "mlflow.db"
    theirs.write_text("another program's")
    with pytest.raises(FileExistsError):
        new_store.create(theirs, revision(empty_store))
    assert theirs.read_text() == "another program's"
    assert list(tmp_path.iterdir()) == [theirs]


def test_an_empty_file_becomes_a_database(tmp_path: Path, empty_store: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.touch()
    open_store(f"sqlite:///{path}")
    assert revision(path) == revision(empty_store)
    copied = tmp_path / "copy.db"
    shutil.copy(path, copied)
    open_store(f"sqlite:///{copied}")


KILLED_WRITER = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("pragma cache_size = 1")  # so that pages reach the file, and their old content the journal, before the end
database.execute("begin")
database.executemany("insert into tags(key, value, run_uuid) values (?, ?, ?)", ((str(i), "x" * 500, sys.argv[2]) for i in range(2000)))
os._exit(9)
"""


def test_a_writer_killed_in_mid_write_does_not_lock_readers_out(output_dir: Path) -> None:
    uri = default_tracking_uri(output_dir)
    client = open_store(uri)
    run_id = client.create_run(experiment_id(client, uri, "x")).info.run_id
    tags = client.get_run(run_id).data.tags
    database = output_dir / "mlflow.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("pragma journal_mode = delete")
    killed = subprocess.run([sys.executable, "-c", KILLED_WRITER, str(database), run_id], check=False)
    assert killed.returncode == 9
    journal = output_dir / "mlflow.db-journal"
    assert journal.stat().st_size > 0
    assert open_store(uri).get_run(run_id).data.tags == tags
    assert not journal.exists()
