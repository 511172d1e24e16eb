"""The table of runs: every run once, typed and documented columns, whatever state its runs are in."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import simulated
from mlflow.entities import Metric
from simulated import Store

from resbench.results.curves import load_curves, load_profiles
from resbench.results.runs import COLUMNS, load_runs, ranked_runs


@pytest.fixture
def experiment(new_store: Store, request: pytest.FixtureRequest) -> Iterator[str]:
    """An experiment of the test's own, called after the test, deleted afterwards."""
    identity = new_store.client.create_experiment(request.node.name)
    yield identity
    new_store.client.delete_experiment(identity)


def test_every_run_of_the_study_is_a_row_and_the_sweep_s_parent_is_not(demo_runs: pd.DataFrame) -> None:
    # 4 schemes x 2 sizes x 3 seeds, three more at seed 3, one of the search.
    assert len(demo_runs) == 24 + 3 + 1
    assert demo_runs["run_id"].is_unique
    assert demo_runs["outcome"].value_counts().to_dict() == {"complete": 26, "diverged": 1, "failed": 1}
    assert set(demo_runs["study"]) == {"demo"}


def test_columns_have_the_documented_names_types_and_units(demo_runs: pd.DataFrame) -> None:
    assert list(demo_runs.columns) == [column.name for column in COLUMNS]
    assert {column.name: str(demo_runs[column.name].dtype) for column in COLUMNS} == {
        column.name: column.dtype for column in COLUMNS
    }
    assert all(column.meaning for column in COLUMNS)
    assert {column.name: column.unit for column in COLUMNS}["val_loss"] == "nats/token"


def test_values_are_those_that_were_logged(store: Store, demo_runs: pd.DataFrame) -> None:
    row = demo_runs[(demo_runs["scheme"] == "mhc") & (demo_runs["size"] == "400k") & (demo_runs["seed"] == 1)].iloc[0]
    logged = store.client.get_run(row["run_id"])
    assert row["val_loss"] == logged.data.metrics["val/loss"]
    assert row["val_loss"] == pytest.approx(simulated.true_loss(simulated.MHC, "400k", simulated.BUDGET), abs=0.1)
    assert row["bits_per_byte"] == pytest.approx(row["val_loss"] / math.log(2))
    assert row["unigram_bits_per_byte"] == simulated.UNIGRAM
    assert (row["n_streams"], row["sinkhorn_iterations"], row["budget_tokens"]) == (4, 20, simulated.BUDGET)
    assert row["params_connection"] == row["params_total"] - simulated.PARAMS["400k"]
    assert row["started"] == pd.Timestamp(simulated.START, unit="ms", tz="UTC")
    assert row["dirty"] is False or not row["dirty"]


def test_what_a_run_does_not_have_is_missing(demo_runs: pd.DataFrame) -> None:
    resnet = demo_runs[demo_runs["scheme"] == "resnet"]
    assert resnet["n_streams"].isna().all()
    assert resnet["sinkhorn_iterations"].isna().all()
    assert demo_runs["mfu"].isna().all()


def test_an_empty_table_has_every_column_too(new_store: Store) -> None:
    empty = load_runs(new_store.uri, "no such study")
    assert len(empty) == 0
    assert list(empty.columns) == [column.name for column in COLUMNS]
    assert ranked_runs(empty).empty


def test_a_store_that_is_not_there_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"mlflow\.db"):
        load_runs(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert not list(tmp_path.glob("*.db"))


def test_a_diverged_run_has_a_row_without_a_loss(demo_runs: pd.DataFrame) -> None:
    diverged = demo_runs[demo_runs["outcome"] == "diverged"].iloc[0]
    assert math.isnan(diverged["val_loss"])
    assert diverged["diverged_at_tokens"] == simulated.BUDGET // 2


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_missing_however_the_store_writes_it(
    new_store: Store, experiment: str, loss: float
) -> None:
    """A database has no infinity: MLflow keeps the largest finite number in its place."""
    run = new_store.client.create_run(experiment, tags={"scheme": "mhc", "outcome": "complete"})
    new_store.client.log_metric(run.info.run_id, "val/loss", loss)
    row = load_runs(new_store.uri).iloc[0]
    assert math.isnan(row["val_loss"])
    assert row["outcome"] == "failed"


def test_a_run_that_calls_itself_complete_without_a_loss_has_failed(new_store: Store, experiment: str) -> None:
    run = new_store.client.create_run(
        experiment, tags={"scheme": "mhc", "phase": "final", "outcome": "complete", "seed": "0"}
    )
    new_store.client.set_terminated(run.info.run_id)
    assert load_runs(new_store.uri)["outcome"].tolist() == ["failed"]


@pytest.mark.parametrize(("status", "outcome"), [("FAILED", "failed"), ("KILLED", "failed"), (None, "running")])
def test_a_run_left_running_by_a_killed_process_is_what_mlflow_says(
    new_store: Store, experiment: str, status: str | None, outcome: str
) -> None:
    run = new_store.client.create_run(experiment, tags={"scheme": "mhc", "phase": "final", "outcome": "running"})
    if status:
        new_store.client.set_terminated(run.info.run_id, status)
    assert load_runs(new_store.uri)["outcome"].tolist() == [outcome]


def test_nonsense_where_a_number_belongs_is_missing_rather_than_fatal(new_store: Store, experiment: str) -> None:
    tags = {"scheme": "x", "seed": "zero", "n_streams": "4.0", "dirty": "True", "diverged_at_tokens": "inf"}
    new_store.client.create_run(experiment, tags=tags)
    row = load_runs(new_store.uri).iloc[0]
    assert pd.isna(row["seed"])
    assert row["n_streams"] == 4
    assert row["dirty"]
    assert pd.isna(row["diverged_at_tokens"])


def test_a_run_outside_any_sweep_belongs_to_its_experiment_and_gets_a_cell(new_store: Store, experiment: str) -> None:
    tags = {"scheme": "mhc", "size": "1m", "n_streams": "4", "sinkhorn_iterations": "20"}
    new_store.client.create_run(experiment, tags=tags)
    row = load_runs(new_store.uri).iloc[0]
    assert row["study"] == new_store.client.get_experiment(experiment).name
    assert row["cell"] == "scheme=mhc,size=1m,scheme.n_streams=4,scheme.sinkhorn_iterations=20"


def test_deleted_runs_do_not_count(new_store: Store, experiment: str) -> None:
    kept = simulated.simulate_run(new_store.client, experiment, simulated.RESNET)
    gone = simulated.simulate_run(new_store.client, experiment, simulated.RESNET, seed=1)
    new_store.client.delete_run(gone)
    assert load_runs(new_store.uri)["run_id"].tolist() == [kept]


def test_only_final_runs_are_ranked_and_a_planned_run_counts_once(new_store: Store, experiment: str) -> None:
    """Attempts at one planned run: complete, then diverged (newer: it counts), then failed (no result: it does not)."""

    def attempt(outcome: str, minute: int, phase: str = "final", seed: int = 0) -> str:
        start = simulated.START + 60_000 * minute
        return simulated.simulate_run(
            new_store.client, experiment, simulated.HC, outcome=outcome, start=start, phase=phase, seed=seed
        )

    attempt("complete", 0)
    newest_result = attempt("diverged", 1)
    attempt("failed", 2)
    attempt("complete", 3, phase="search")
    attempt("failed", 0, seed=1)
    newest_failure = attempt("failed", 1, seed=1)
    ranked = ranked_runs(load_runs(new_store.uri)).set_index("seed")
    assert ranked["run_id"].to_dict() == {0: newest_result, 1: newest_failure}
    assert ranked["attempts"].to_dict() == {0: 3, 1: 2}


def test_curves_have_every_point_once_and_keep_a_loss_that_became_nan(store: Store, demo_runs: pd.DataFrame) -> None:
    ids = demo_runs["run_id"].tolist()
    curves = load_curves(store.uri, ids, ["val/loss", "progress/wall_s", "no/such_metric"])
    assert set(curves["metric"]) == {"val/loss", "progress/wall_s"}
    per_run = curves[curves["metric"] == "val/loss"].groupby("run_id")["tokens"].agg(["count", "max"])
    complete = demo_runs.loc[demo_runs["outcome"] == "complete", "run_id"]
    assert (per_run.loc[complete, "count"] == simulated.VALIDATIONS).all()
    assert (per_run.loc[complete, "max"] == simulated.BUDGET).all()
    assert (curves.groupby(["run_id", "metric"])["tokens"].diff().dropna() > 0).all()
    diverged = curves[curves["run_id"] == demo_runs.loc[demo_runs["outcome"] == "diverged", "run_id"].iloc[0]]
    assert diverged.loc[diverged["metric"] == "val/loss", "value"].isna().sum() == 1


def test_a_point_logged_twice_counts_by_its_later_value(new_store: Store, experiment: str) -> None:
    """A run that resumes from a checkpoint measures again what it had measured after it."""
    run = new_store.client.create_run(experiment, tags={"scheme": "mhc"}).info.run_id
    new_store.client.log_batch(
        run, [Metric("val/loss", 3.0, 1000, 10), Metric("val/loss", 2.0, 2000, 10), Metric("val/loss", 1.5, 3000, 20)]
    )
    curves = load_curves(new_store.uri, [run], ["val/loss"])
    assert curves[["tokens", "value"]].to_numpy().tolist() == [[10, 2.0], [20, 1.5]]


def test_profiles_are_read_and_broken_ones_left_out(
    store: Store, new_store: Store, demo_runs: pd.DataFrame, tmp_path: Path
) -> None:
    complete = demo_runs[(demo_runs["outcome"] == "complete") & (demo_runs["phase"] == "final")]
    profiles = load_profiles(store.uri, complete["run_id"].tolist())
    sublayers = (
        profiles.merge(complete[["run_id", "depth"]], on="run_id")
        .groupby("run_id")
        .agg(rows=("sublayer", "size"), depth=("depth", "first"))
    )
    assert (sublayers["rows"] == 2 * sublayers["depth"]).all()
    assert len(sublayers) == len(complete)

    experiment = new_store.client.create_experiment("profiles", artifact_location=(tmp_path / "artifacts").as_uri())
    broken = new_store.client.create_run(experiment, tags={"scheme": "x"}).info.run_id
    new_store.client.log_text(broken, '{"sublayer": [0, 1], "gain_forward": "high"}', "stability/profile.json")
    absent = new_store.client.create_run(experiment, tags={"scheme": "x"}).info.run_id
    assert load_profiles(new_store.uri, [broken, absent]).empty
    new_store.client.delete_experiment(experiment)


@pytest.mark.slow
def test_hundreds_of_runs_are_read_in_seconds(tmp_path: Path, empty_store: Path) -> None:
    from resbench.harness.store import open_store

    uri = f"sqlite:///{shutil.copy(empty_store, tmp_path)}"
    client = open_store(uri)
    experiment = client.create_experiment("many")
    # Without gain, so that making the store does not write a file per run: reading the table is what is timed.
    for seed in range(300):
        simulated.simulate_run(client, experiment, simulated.Scheme("mhc"), seed=seed, study="many")
    start = time.process_time()  # others may want the machine as well
    runs = load_runs(uri, "many")
    curves = load_curves(uri, runs["run_id"].tolist(), ["val/loss", "progress/wall_s"])
    assert len(runs) == 300
    assert len(curves) == 300 * 2 * simulated.VALIDATIONS
    assert time.process_time() - start < 10
