"""What tests of sweeps share: a sweep of stand-in runs, and reading its results back from MLflow."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Trial processes import the stand-ins by name and inherit this path.
sys.path.insert(0, str(Path(__file__).parent))

import known_schema  # noqa: F401  (used as it is imported)
from postgres_server import Postgres, postgres  # found through the path above
from sweep_stand_ins import SWEEP

from resbench.sweeps import pool

pool.PRELOADED = (*pool.PRELOADED, "known_schema")  # in the processes of trials too


@pytest.fixture(scope="session")
def database() -> Iterator[Postgres]:
    with postgres() as running:
        yield running


@pytest.fixture(autouse=True)
def figures_of_searches(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn only in tests marked ``figures``: they take longer than a sweep of stand-ins."""
    if request.node.get_closest_marker("figures") is None:
        for name in ("session", "worker"):
            monkeypatch.setattr(f"resbench.sweeps.{name}.log_search_figures", lambda *_: None)


@pytest.fixture
def sweep_file(tmp_path: Path) -> Callable[..., Path]:
    """Write a sweep of stand-in runs: 5 cells x 2 seeds."""

    def write(more: str = "", stand_in: str = "") -> Path:
        path = tmp_path / "sweep.yaml"
        path.write_text(SWEEP.format(more=more, model=f", stand_in: {stand_in}" if stand_in else ""))
        return path

    return write


@pytest.fixture
def output_dir(tmp_path: Path, empty_store: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(empty_store.read_bytes())
    return folder


@pytest.fixture
def runs_of(output_dir: Path) -> Callable[[], list[Any]]:
    """Every child run in the store of `output_dir`."""

    def read() -> list[Any]:
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{output_dir / 'mlflow.db'}")
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        return [run for run in client.search_runs(experiments) if "trial_key" in run.data.tags]

    return read
