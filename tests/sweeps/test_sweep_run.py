"""Running a sweep: every planned run once, in MLflow, under its parent, whatever the runs themselves do."""

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sweep_stand_ins
from mlflow import MlflowClient

from resbench.sweeps.lock import hold_as_trial, sweep_lock

CELLS = [
    "scheme=resnet",
    "scheme=hc,scheme.n_streams=2",
    "scheme=hc,scheme.n_streams=4",
    "scheme=mhc,scheme.n_streams=2",
    "scheme=mhc,scheme.n_streams=4",
]
Sweep = Callable[..., Path]
Runs = Callable[[], list[Any]]

SEARCH = """
search:
  trials: 4
  seed: 77
  space: {model.learning_rate: {low: 1e-4, high: 1.0, log: true}}
  sampler: random
"""


def test_every_cell_and_seed_once_under_one_parent(sweep_file: Sweep, output_dir: Path, runs_of: Runs) -> None:
    summary = sweep_stand_ins.run(sweep_file(), output_dir)
    runs = runs_of()
    assert summary.complete
    assert summary.outcomes == {"complete": 10}
    assert sorted((run.data.tags["cell"], run.data.tags["seed"]) for run in runs) == sorted(
        (cell, seed) for cell in CELLS for seed in "01"
    )
    assert len({run.data.tags["trial_key"] for run in runs}) == 10
    assert {run.data.tags["phase"] for run in runs} == {"final"}
    assert {run.data.tags["study"] for run in runs} == {"stand-in"}
    (parent,) = {run.data.tags["mlflow.parentRunId"] for run in runs}
    client = MlflowClient(f"sqlite:///{output_dir / 'mlflow.db'}")
    sweep = client.get_run(parent)
    assert sweep.data.tags["resbench.kind"] == "sweep"
    assert sweep.info.status == "FINISHED"
    assert client.get_experiment(sweep.info.experiment_id).name == "stand-in"
    assert not Path("mlruns").exists()  # artifacts stay beside the database


def test_running_it_again_runs_nothing(
    sweep_file: Sweep, output_dir: Path, runs_of: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    file = sweep_file()
    sweep_stand_ins.run(file, output_dir)
    before = {run.info.run_id: run.info.end_time for run in runs_of()}
    capsys.readouterr()
    assert sweep_stand_ins.run(file, output_dir).complete
    assert {run.info.run_id: run.info.end_time for run in runs_of()} == before
    printed = capsys.readouterr().out
    assert "Going on: 10 of 10 runs" in printed
    assert "resbench leaderboard build --study stand-in" in printed
    assert "resbench ui" in printed


def test_search_first_then_the_winner_on_every_seed(sweep_file: Sweep, output_dir: Path, runs_of: Runs) -> None:
    assert sweep_stand_ins.run(sweep_file(SEARCH), output_dir).complete
    runs = runs_of()
    trials = [run for run in runs if run.data.tags["phase"] == "search"]
    finals = [run for run in runs if run.data.tags["phase"] == "final"]
    assert Counter(run.data.tags["cell"] for run in trials) == dict.fromkeys(CELLS, 4)  # equal budgets
    assert {run.data.tags["seed"] for run in trials} == {"77"}
    assert {run.data.tags["seed"] for run in finals} == {"0", "1"}
    for cell in CELLS:
        # The stand-in's loss is |log10 lr + 2| + 1 + noise below 0.01: the winner is the trial with the lowest.
        best = min(run.data.metrics["val/loss"] for run in trials if run.data.tags["cell"] == cell)
        for run in finals:
            if run.data.tags["cell"] == cell:
                assert run.data.metrics["val/loss"] == pytest.approx(best, abs=0.011)
    assert all(
        run.info.start_time
        >= max(trial.info.start_time for trial in trials if trial.data.tags["cell"] == run.data.tags["cell"])
        for run in finals
    )


def test_a_pruned_trial_is_killed_and_is_a_result(sweep_file: Sweep, output_dir: Path, runs_of: Runs) -> None:
    pruner = "  pruner: {name: threshold, args: {upper: 1.5}}\n"
    assert sweep_stand_ins.run(sweep_file(SEARCH + pruner), output_dir).complete
    pruned = [run for run in runs_of() if run.data.tags["outcome"] == "pruned"]
    assert pruned
    assert {run.info.status for run in pruned} == {"KILLED"}
    assert {run.data.tags["phase"] for run in pruned} == {"search"}
    assert all(run.data.metrics["progress/tokens"] < 400 for run in pruned)
    assert len(runs_of()) == 5 * (4 + 2)


def test_diverging_is_a_result_and_a_failure_is_not(
    sweep_file: Sweep, output_dir: Path, runs_of: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = """
overrides:
  - {when: {scheme: hc}, set: {model.stand_in: {raises: once}}}
  - {when: {scheme: mhc, scheme.n_streams: 2}, set: {model.stand_in: {diverges: true}}}
"""
    file = sweep_file(changes)
    summary = sweep_stand_ins.run(file, output_dir)
    assert not summary.complete
    assert summary.outcomes == {"complete": 4, "diverged": 2}
    assert len(summary.failures) == 4
    assert "no more chalk" in summary.failures["hc, n_streams 2, seed 0"]
    printed = capsys.readouterr().out
    assert "4 failed" in printed
    assert "tries the failed runs again" in printed
    failed = {run.data.tags["trial_key"]: run for run in runs_of() if run.data.tags["outcome"] == "failed"}
    assert {run.info.status for run in failed.values()} == {"FAILED"}
    assert all("no more chalk" in run.data.tags["error"] for run in failed.values())

    # The same command retries what failed, in place, and nothing else.
    assert sweep_stand_ins.run(file, output_dir).complete
    runs = {run.data.tags["trial_key"]: run for run in runs_of()}
    assert len(runs_of()) == len(runs) == 10
    for key, run in failed.items():
        assert runs[key].info.run_id == run.info.run_id
        assert runs[key].info.status == "FINISHED"
        assert "error" not in runs[key].data.tags


def test_a_failed_trial_holds_back_its_cell_so_that_budgets_stay_equal(
    sweep_file: Sweep, output_dir: Path, runs_of: Runs
) -> None:
    file = sweep_file(SEARCH + "overrides: [{when: {scheme: resnet}, set: {model.stand_in: {raises: once}}}]\n")
    summary = sweep_stand_ins.run(file, output_dir)
    assert "a trial of the cell's search failed" in summary.failures["scheme=resnet, final runs"]
    assert not [
        run for run in runs_of() if run.data.tags["cell"] == "scheme=resnet" and run.data.tags["phase"] == "final"
    ]
    sweep_stand_ins.run(file, output_dir)  # the trials succeed now, the final runs fail once
    assert sweep_stand_ins.run(file, output_dir).complete
    assert Counter(run.data.tags["cell"] for run in runs_of()) == dict.fromkeys(CELLS, 6)


def test_a_process_that_dies_is_tried_once_more_then_reported(sweep_file: Sweep, output_dir: Path) -> None:
    changes = """
overrides:
  - {when: {scheme: hc}, set: {model.stand_in: {dies: once}}}
  - {when: {scheme: resnet}, set: {model.stand_in: {dies: always}}}
"""
    summary = sweep_stand_ins.run(sweep_file(changes), output_dir)
    assert summary.outcomes == {"complete": 8}
    assert set(summary.failures) == {"resnet, seed 0", "resnet, seed 1"}
    assert "SIGKILL" in summary.failures["resnet, seed 0"]


def test_a_run_that_hangs_is_stopped_by_the_timeout(sweep_file: Sweep, output_dir: Path, runs_of: Runs) -> None:
    file = sweep_file("timeout: 5\noverrides: [{when: {scheme: resnet}, set: {model.stand_in: {hangs: true}}}]\n")
    summary = sweep_stand_ins.run(file, output_dir)
    assert summary.outcomes == {"complete": 8}
    assert "timeout: 5" in summary.failures["resnet, seed 0"]
    assert {run.info.status for run in runs_of() if run.data.tags["cell"] == "scheme=resnet"} == {"FAILED"}


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(
    sweep_file: Sweep, output_dir: Path, runs_of: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    file = sweep_file(stand_in="{seconds: 1.0}")

    def interrupt() -> None:
        while len(runs_of_safely()) < 3:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    def runs_of_safely() -> list[Any]:
        with contextlib.suppress(Exception):
            return runs_of()
        return []

    thread = threading.Thread(target=interrupt)
    thread.start()
    summary = sweep_stand_ins.run(file, output_dir)
    thread.join()
    assert summary.interrupted
    assert "Run the same command again" in capsys.readouterr().out
    assert {run.info.status for run in runs_of()} <= {"KILLED", "FINISHED"}
    assert "KILLED" in {run.info.status for run in runs_of()}
    assert sweep_stand_ins.run(file, output_dir).complete
    assert len(runs_of()) == len({run.data.tags["trial_key"] for run in runs_of()}) == 10
    assert {run.info.status for run in runs_of()} == {"FINISHED"}


def test_a_sweep_file_that_changed_is_refused_or_extended(sweep_file: Sweep, output_dir: Path, runs_of: Runs) -> None:
    file = sweep_file()
    sweep_stand_ins.run(file, output_dir)
    original = file.read_text()

    file.write_text(original.replace("learning_rate: 0.01", "learning_rate: 0.02"))
    with pytest.raises(ValueError, match=r"model.learning_rate: 0.01 is now 0.02[^$]*new `name`"):
        sweep_stand_ins.run(file, output_dir)
    with pytest.raises(ValueError, match="--extend can only add"):
        sweep_stand_ins.run(file, output_dir, extend=True)

    file.write_text(original.replace("[0, 1]", "[0]"))
    with pytest.raises(ValueError, match="seed 1 is gone"):
        sweep_stand_ins.run(file, output_dir)

    file.write_text(original.replace("[0, 1]", "[0, 1, 2]").replace("[2, 4]", "[2, 4, 8]"))
    with pytest.raises(ValueError, match=r"new cell scheme=hc,scheme.n_streams=8[^$]*new seed 2[^$]*Add --extend"):
        sweep_stand_ins.run(file, output_dir)
    before = {run.info.run_id for run in runs_of()}
    assert sweep_stand_ins.run(file, output_dir, extend=True).outcomes == {"complete": 7 * 3}
    assert before < {run.info.run_id for run in runs_of()}

    # A comment, a description or the number of workers decides no result.
    file.write_text("# a comment\ndescription: a sweep\nworkers: 1\n" + file.read_text())
    assert sweep_stand_ins.run(file, output_dir).complete


def test_a_lost_search_database_is_noticed(sweep_file: Sweep, output_dir: Path) -> None:
    file = sweep_file(SEARCH)
    sweep_stand_ins.run(file, output_dir)
    (output_dir / "optuna.db").unlink()
    with pytest.raises(
        ValueError, match="4 search trials of cell 'scheme=resnet', the Optuna database .*optuna.db only 0"
    ):
        sweep_stand_ins.run(file, output_dir)


def test_going_on_from_another_output_folder_is_refused(sweep_file: Sweep, output_dir: Path, tmp_path: Path) -> None:
    file = sweep_file()
    sweep_stand_ins.run(file, output_dir)
    other = tmp_path / "other"
    other.mkdir()
    (other / "mlflow.db").write_bytes((output_dir / "mlflow.db").read_bytes())
    with pytest.raises(ValueError, match=f"--output-dir {output_dir}"):
        sweep_stand_ins.run(file, other)


def test_only_one_sweep_of_a_name_at_once(tmp_path: Path) -> None:
    with (
        sweep_lock(tmp_path),
        pytest.raises(ValueError, match=f"already being run by process {os.getpid()}"),
        sweep_lock(tmp_path),
    ):
        pass
    with sweep_lock(tmp_path):
        pass


def test_a_sweep_waits_for_trials_of_a_killed_one(tmp_path: Path) -> None:
    trial = hold_as_trial(tmp_path)
    released = []

    def end() -> None:
        released.append(time.monotonic())
        trial.close()

    timer = threading.Timer(0.5, end)
    timer.start()
    with sweep_lock(tmp_path):
        assert released
        assert time.monotonic() >= released[0]
    timer.join()
