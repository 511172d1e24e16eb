"""Stores of simulated runs and leaderboards built from them, made once for all workers of a session."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import simulated
from filelock import FileLock
from mlflow import MlflowClient
from simulated import ESCAPES, MARKUP, SCRIPT, Store

from resbench.harness.store import open_store
from resbench.results import browser, publish
from resbench.results.figures.drawing import too_little
from resbench.results.leaderboard import Leaderboard, make_leaderboard
from resbench.results.runs import load_runs

Files = dict[str, str | bytes]


@pytest.fixture(scope="session")
def new_store(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Store:
    """An MLflow store with nothing in it; tests write to experiments of their own."""
    path = shutil.copy(empty_store, tmp_path_factory.mktemp("store"))
    uri = f"sqlite:///{path}"
    return Store(uri, open_store(uri))


@pytest.fixture(scope="session")
def store(common: Path, empty_store: Path) -> Store:
    """A store with three studies, only to be read.

    `demo`: four schemes x two sizes x seeds 0, 1, 2, all complete; then, at 400k, seed 3 with resnet complete, mhc diverged and hc
    failed, and one run of a search. `hostile`: schemes with names that would like to be code. `single`: one seed.
    """
    path = common / "studies" / "mlflow.db"
    with FileLock(common / "studies.lock"):
        if not path.exists():
            path.parent.mkdir()
            unfinished = shutil.copy(empty_store, path.with_name("unfinished.db"))
            _simulate(open_store(f"sqlite:///{unfinished}"), (path.parent / "artifacts").as_uri())
            unfinished.rename(path)
    uri = f"sqlite:///{path}"
    return Store(uri, open_store(uri))


def _simulate(client: MlflowClient, artifacts: str) -> None:
    demo = simulated.simulate_sweep(client, "demo", artifacts=artifacts)
    for scheme, outcome in ((simulated.RESNET, "complete"), (simulated.MHC, "diverged"), (simulated.HC, "failed")):
        simulated.simulate_run(client, demo, scheme, size="400k", seed=3, outcome=outcome)
    simulated.simulate_run(client, demo, simulated.HC, size="100k", seed=1000, phase="search")
    hostile = [
        simulated.RESNET,
        simulated.Scheme(SCRIPT, gain=1.2),
        simulated.Scheme("mhc", label=MARKUP, gain=1.0),
        simulated.Scheme("_hidden"),
        simulated.Scheme(ESCAPES),
    ]
    simulated.simulate_sweep(client, "hostile", hostile, ["100k"], [0, 1], artifacts=artifacts)
    simulated.simulate_sweep(client, "single", simulated.DEMO[:2], ["100k"], [0], artifacts=artifacts)


@pytest.fixture(scope="session")
def demo_runs(store: Store) -> pd.DataFrame:
    return load_runs(store.uri, "demo")


@pytest.fixture(scope="session")
def demo(demo_runs: pd.DataFrame) -> Leaderboard:
    return make_leaderboard(demo_runs, "demo")


@pytest.fixture(scope="session")
def demo_files(common: Path, demo: Leaderboard, store: Store) -> Files:
    """The site of `demo`, built once."""
    return _built(common / "demo-files", lambda: publish.files_of(demo, store.uri))


@pytest.fixture(scope="session")
def hostile_files(common: Path, store: Store) -> Files:
    """The site of `hostile`, built once."""
    runs = load_runs(store.uri, "hostile")
    return _built(common / "hostile-files", lambda: publish.files_of(make_leaderboard(runs, "hostile"), store.uri))


def _built(path: Path, build: Callable[[], Files]) -> Files:
    with FileLock(f"{path}.lock"):
        if not path.exists():
            path.write_bytes(pickle.dumps(build()))
        files: Files = pickle.loads(path.read_bytes())
    return files


@pytest.fixture(scope="session")
def needs_browser() -> None:
    """Skips, saying why, where no browser can be driven; fails instead where RESBENCH_REQUIRE_BROWSER is set."""
    reason = browser.missing()
    if reason and os.environ.get("RESBENCH_REQUIRE_BROWSER"):
        pytest.fail(f"RESBENCH_REQUIRE_BROWSER is set, but {reason}")
    if reason:
        pytest.skip(reason)


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaderboards without figures, which take most of a build's time, for tests of everything else."""
    monkeypatch.setattr("resbench.results.publish.draw_study", lambda *_: [])
    monkeypatch.setattr(
        "resbench.results.site.build.scheme_figure",
        lambda scheme, name, *_: too_little(name, scheme, "Not drawn in this test.", pd.DataFrame()),
    )
