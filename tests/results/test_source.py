"""Runs read from an exported file are the runs of the store it was exported from."""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import simulated
import yaml
from simulated import Store

from resbench.harness.runs.archive import Archive
from resbench.harness.runs.export import export_runs, is_place
from resbench.harness.runs.select import Selection, find
from resbench.harness.store import open_store
from resbench.results.curves import load_curves, load_profiles
from resbench.results.difficulty import load_accuracies
from resbench.results.figures.numbers import METRICS
from resbench.results.runs import load_runs
from resbench.results.source import open_source


@pytest.fixture
def own_store(tmp_path: Path, empty_store: Path) -> Store:
    uri = f"sqlite:///{shutil.copy(empty_store, tmp_path / 'own.db')}"
    return Store(uri, open_store(uri))


@pytest.fixture(scope="module")
def exported(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("exported") / "demo.zip"
    export_runs(store.client, find(store.client, Selection(studies=["demo"])), file, 1 << 20)
    return file


def test_a_file_gives_what_its_store_gives(exported: Path, store: Store, demo_runs: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(load_runs(exported), demo_runs)
    ids = demo_runs["run_id"].tolist()
    pd.testing.assert_frame_equal(load_curves(exported, ids, METRICS), load_curves(store.uri, ids, METRICS))
    pd.testing.assert_frame_equal(load_profiles(exported, ids), load_profiles(store.uri, ids))
    pd.testing.assert_frame_equal(load_accuracies(exported, ids), load_accuracies(store.uri, ids))


def test_several_files_are_read_as_one_and_a_run_in_two_of_them_once(
    exported: Path, store: Store, tmp_path: Path, demo_runs: pd.DataFrame
) -> None:
    single = tmp_path / "single.zip"
    export_runs(store.client, find(store.client, Selection(studies=["single", "demo"])), single, 1 << 20)
    both = load_runs(open_source([exported, single]))
    assert sorted(both["study"].unique()) == ["demo", "single"]
    assert len(both) == len(demo_runs) + 2


def test_a_run_that_two_files_tell_differently_is_refused(exported: Path, store: Store, tmp_path: Path) -> None:
    other = tmp_path / "other.zip"
    export_runs(store.client, find(store.client, Selection(studies=["demo"])), other, 0)  # without its profiles
    with pytest.raises(ValueError, match="not with the same content"):
        open_source([exported, other])


def test_the_last_value_of_a_metric_is_that_of_its_last_step(own_store: Store, tmp_path: Path) -> None:
    experiment = own_store.client.create_experiment("out-of-order")
    run_id = simulated.simulate_run(own_store.client, experiment, simulated.RESNET, study="out-of-order")
    own_store.client.log_metric(run_id, "val/loss", 9.0, timestamp=simulated.START + 10**6, step=1)
    file = tmp_path / "out.zip"
    export_runs(own_store.client, find(own_store.client, Selection(studies=["out-of-order"])), file, 0)
    assert load_runs(file)["val_loss"].item() == load_runs(own_store.uri, "out-of-order")["val_loss"].item() < 9


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ("/home/me/runs", True),
        ("C:\\runs", True),
        ("sqlite:////home/me/mlflow.db", True),
        ("http://127.0.0.1:5000", True),
        ("HuggingFaceFW/fineweb-edu", False),
        ("size=1m,scheme=mhc", False),
        ("a sentence about http://x that is none", False),
        (7, False),
    ],
)
def test_places_are_told_from_other_values(value: object, place: bool) -> None:
    assert is_place(value) is place


def test_a_placeless_file_holds_no_path_of_the_machine(own_store: Store, tmp_path: Path) -> None:
    artifacts = (tmp_path / "artifacts").as_uri()
    experiment = own_store.client.create_experiment("placeless", artifact_location=artifacts)
    run_id = simulated.simulate_run(
        own_store.client,
        experiment,
        simulated.MHC,
        study="placeless",
        tags={"resbench.checkpoint_dir": "/home/me/runs/1"},
    )
    own_store.client.log_param(run_id, "output_dir", "/home/me/runs")
    config = {"output_dir": "/home/me/runs", "tracking": {"uri": "sqlite:////home/me/mlflow.db", "weights": True}}
    own_store.client.log_text(run_id, yaml.safe_dump(config), "config.yaml")
    file = tmp_path / "placeless.zip"
    found = find(own_store.client, Selection(studies=["placeless"]))
    export_runs(own_store.client, found, file, 1 << 20, placeless=True)
    with zipfile.ZipFile(io.BytesIO(file.read_bytes())) as members:
        assert not [name for name in members.namelist() if b"/home/me" in members.read(name)]
    with Archive(file) as archive:
        kept = yaml.safe_load(dict(archive.artifacts(run_id))["config.yaml"])
    assert kept == {"tracking": {"weights": True}}
    assert load_runs(file)["cell"].item() == load_runs(own_store.uri, "placeless")["cell"].item()
