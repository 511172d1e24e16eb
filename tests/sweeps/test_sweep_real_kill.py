"""Real training killed in the middle of a run: the run goes on from its checkpoint and ends at the very loss of an undisturbed one."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from resbench.harness.checkpoint_io import checkpoints
from resbench.sweeps.cli import main

SWEEP = """
name: real
base:
  model: {learning_rate: 3e-3}
  data: {class_path: python-source, init_args: {context_length: 32, batch_size: 2, val_sequences: 2}}
  budget: {tokens: 6400}                            # 100 steps
  every: {validation: 1280, checkpoint: 320, gain_sequences: 1}
factors:
  size: [100k]
  scheme: [resnet, mhc]
seeds: [3]
workers: 2
"""


RESBENCH = "import sys; from resbench.harness.cli import program; sys.exit(program())"


def losses(output_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """The validation curve of each run, by cell; every run is there once."""
    client = MlflowClient(f"sqlite:///{output_dir / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("real")
    assert experiment is not None
    runs = [run for run in client.search_runs([experiment.experiment_id]) if "trial_key" in run.data.tags]
    assert len({run.data.tags["cell"] for run in runs}) == len(runs)
    assert {run.data.tags["outcome"] for run in runs} == {"complete"}
    return {
        run.data.tags["cell"]: sorted(
            {(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "val/loss")}
        )
        for run in runs
    }


@pytest.mark.slow
def test_a_run_killed_in_the_middle_ends_at_the_same_loss(tmp_path: Path, empty_store: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP)
    folders = [tmp_path / "undisturbed", tmp_path / "killed"]
    for folder in folders:
        folder.mkdir()
        shutil.copy(empty_store, folder / "mlflow.db")
    assert main(["run", str(file), "--output-dir", str(folders[0])]) == 0

    command = [sys.executable, "-c", RESBENCH, "sweep", "run", str(file), "--output-dir", str(folders[1])]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    # Once both runs have two checkpoints and more behind them.
    while process.poll() is None:
        steps = [
            int(found[-1].stem.partition("-")[2])
            for folder in folders[1].iterdir()
            if folder.is_dir() and (found := checkpoints(folder))
        ]
        if len(steps) == 2 and min(steps) >= 10:
            break
        time.sleep(0.02)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode == 0
    expected, found = losses(folders[0]), losses(folders[1])
    assert expected.keys() == found.keys() == {"size=100k,scheme=resnet", "size=100k,scheme=mhc"}
    assert found == expected  # on a CPU to the last bit, at every validation
