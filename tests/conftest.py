"""What every test stands on: no GPU work without a GPU, no caches outside the test's own folders, no telemetry."""

import gc
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

# Before anything imports these libraries: they read their environment once.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # eight processes beside each server, for what no test does
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("OMP_NUM_THREADS", "1")
for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID", "RESBENCH_DEBUG"):
    os.environ.pop(name, None)


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As a shell starts what it puts in the background; processes of tests would inherit it, and some are sent Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Collecting tests imports every library there is. The garbage collector need not look at all that, neither now nor in each test.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # or libraries complain when the interpreter takes them down


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Files with slow tests first, then those with most tests: the last to finish is then a short one, whoever runs it.
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (-slow[item.path], -tests[item.path], item.path))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Token caches go to a folder of this session."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESBENCH_CACHE", str(cache))
        yield cache


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one folder that all workers of a session share: what takes long to make is made by the first of them, under a lock."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def empty_store(common: Path) -> Path:
    """An MLflow database without runs, for whoever wants one to copy it: creating one takes seconds."""
    path = common / "empty-store" / "mlflow.db"
    with FileLock(common / "empty-store.lock"):
        if not path.exists():
            from resbench.harness.store import open_store

            open_store(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="session", autouse=True)
def hasty_databases() -> None:
    """SQLite does not wait for the disk: a test may kill processes, but it does not pull the machine's plug. MLflow knows its schema."""
    if "mlflow" in sys.modules:  # of a test that was collected
        import known_schema  # noqa: F401  (used as it is imported)
    from sqlalchemy import Engine, event

    @event.listens_for(Engine, "connect")
    def hurry(connection: Any, record: object) -> None:
        if type(connection).__module__.startswith("sqlite3"):
            connection.execute("PRAGMA synchronous = OFF")


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths lead into a folder of this test, not into the repository."""
    monkeypatch.chdir(tmp_path)
