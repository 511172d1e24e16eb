"""Killed at any moment and started again, a sweep ends with the same runs and the same losses as an undisturbed one: none lost, none twice."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import sweep_stand_ins
from mlflow import MlflowClient

SCRIPT = Path(sweep_stand_ins.__file__)
STAND_IN = "{seconds: 0.4}"
SEARCH = """
search:
  trials: 2
  seed: 77
  space: {model.learning_rate: {low: 1e-4, high: 1.0, log: true}}
  sampler: {name: tpe, args: {n_startup_trials: 1}}
exclude: [{scheme.n_streams: 4}]
"""
KILLS = 2
# Cells without n_streams=4: resnet, hc and mhc; each with 2 trials and 2 seeds.
PLANNED = 3 * (2 + 2)


def start(file: Path, output_dir: Path) -> subprocess.Popen[bytes]:
    """A sweep in a process group of its own."""
    log = (output_dir / "sweep.log").open("ab")
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(file), str(output_dir)], stdout=log, stderr=log, start_new_session=True
    )


def runs(output_dir: Path) -> list[Any]:
    client = MlflowClient(f"sqlite:///{output_dir / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return [run for run in client.search_runs(experiments) if "trial_key" in run.data.tags]


def results(output_dir: Path) -> dict[str, float]:
    """Loss by planned run; every planned run has exactly one MLflow run, ended well, with one value per token count."""
    found = runs(output_dir)
    assert len({run.data.tags["trial_key"] for run in found}) == len(found)
    assert {run.info.status for run in found} == {"FINISHED"}
    assert {run.data.tags["outcome"] for run in found} == {"complete"}
    client = MlflowClient(f"sqlite:///{output_dir / 'mlflow.db'}")
    for run in found:
        points = {(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "val/loss")}
        assert len(points) == sweep_stand_ins.VALIDATIONS
    return {run.data.tags["trial_key"]: run.data.metrics["val/loss"] for run in found}


def trial_processes(process: subprocess.Popen[bytes], output_dir: Path) -> list[psutil.Process]:
    """Trial processes of a sweep: those of its descendants that hold its trials.lock open."""
    path = str(output_dir / "sweeps" / "stand-in" / "trials.lock")
    found = []
    with suppress(psutil.Error):
        for descendant in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.Error):
                if any(file.path == path for file in descendant.open_files()):
                    found.append(descendant)
    return found


def kill_group(process: subprocess.Popen[bytes], _: Path) -> None:
    os.killpg(process.pid, signal.SIGKILL)


def kill_parent_only(process: subprocess.Popen[bytes], output_dir: Path) -> None:
    trials = trial_processes(process, output_dir)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 5
    while any(alive(trial) for trial in trials):
        assert time.monotonic() < deadline, "a trial outlived its sweep"
        time.sleep(0.05)


def alive(process: psutil.Process) -> bool:
    # An orphan stays a zombie for good where process 1 does not collect its children, as in many containers.
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill_a_child(process: subprocess.Popen[bytes], output_dir: Path) -> None:
    trials = trial_processes(process, output_dir)
    if trials:
        trials[0].kill()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> dict[str, float]:
    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copy(empty_store, folder / "mlflow.db")
    file = folder / "sweep.yaml"
    file.write_text(sweep_stand_ins.SWEEP.format(more=SEARCH, model=""))
    sweep_stand_ins.run(file, folder, workers=1)
    found = results(folder)
    assert len(found) == PLANNED
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kill", [kill_group, kill_parent_only, kill_a_child])
def test_killed_at_random_moments(
    kill: Callable[[subprocess.Popen[bytes], Path], None],
    sweep_file: Callable[..., Path],
    output_dir: Path,
    undisturbed: dict[str, float],
) -> None:
    file = sweep_file(SEARCH, stand_in=STAND_IN)
    dice = random.Random(kill.__name__)
    for attempt in range(40):
        process = start(file, output_dir)
        if attempt < KILLS:
            wait_for_trials_or_end(process, output_dir)
            time.sleep(dice.uniform(0.0, 1.0))
            kill(process, output_dir)
        if process.wait(timeout=120) == 0:
            break
        assert process.returncode < 0, (output_dir / "sweep.log").read_text()  # killed, but not failed
    assert process.returncode == 0, (output_dir / "sweep.log").read_text()
    assert attempt > 0 or kill is kill_a_child
    # The stand-in's loss depends on its configuration, hence on the search's draws and its winner: equal losses mean equal searches.
    found = results(output_dir)
    assert found.keys() == undisturbed.keys()
    assert found == pytest.approx(undisturbed, rel=1e-12)


def wait_for_trials_or_end(process: subprocess.Popen[bytes], output_dir: Path) -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None and not trial_processes(process, output_dir) and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.mark.slow
def test_killed_before_the_first_run(
    sweep_file: Callable[..., Path], output_dir: Path, undisturbed: dict[str, float]
) -> None:
    """The moments between starting, taking the lock, creating the experiment, the parent run and the record of the plan."""
    file = sweep_file(SEARCH)
    dice = random.Random(5)
    for _ in range(3):
        process = start(file, output_dir)
        time.sleep(dice.uniform(0.5, 3.0))
        kill_group(process, output_dir)
        process.wait()
    process = start(file, output_dir)
    assert process.wait(timeout=120) == 0, (output_dir / "sweep.log").read_text()
    assert results(output_dir) == pytest.approx(undisturbed, rel=1e-12)


@pytest.mark.slow
def test_a_second_sweep_of_the_same_name_is_refused_while_one_runs(
    sweep_file: Callable[..., Path], output_dir: Path
) -> None:
    file = sweep_file(stand_in="{seconds: 3.0}")
    first = start(file, output_dir)
    try:
        wait_for_trials_or_end(first, output_dir)
        with pytest.raises(ValueError, match=f"already being run by process {first.pid}"):
            sweep_stand_ins.run(file, output_dir)
    finally:
        kill_group(first, output_dir)
        first.wait()
