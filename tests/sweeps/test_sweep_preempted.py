"""A worker that is asked to leave saves what it trains and gives it back; another one goes on from there. With real training."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from test_sweep_real_kill import RESBENCH

from resbench.harness.checkpoint_io import checkpoints
from resbench.sweeps.cli import main
from resbench.sweeps.database import open_shared, storage_url
from resbench.sweeps.queue import RunQueue

TOKENS_A_STEP = 64
STEPS = 1200  # so many that the first worker is asked long before it is done
SWEEP = f"""
name: preempted
base:
  model: {{learning_rate: 3e-3}}
  data: {{class_path: python-source, init_args: {{context_length: 32, batch_size: 2, val_sequences: 2}}}}
  budget: {{tokens: {STEPS * TOKENS_A_STEP}}}
  every: {{validation: 1000000, checkpoint: 1000000, gain_sequences: 1}}     # none before the end
  trainer: {{log_every_n_steps: 1}}
factors:
  size: [100k]
  scheme: [resnet]
seeds: [3]
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sigterm_to_all_processes_of_a_worker(output_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP)
    storage = f"sqlite:///{tmp_path / 'shared.db'}"
    arguments = ["worker", str(file), "--storage", storage, "--output-dir", str(output_dir)]
    command = [sys.executable, "-c", RESBENCH, "sweep", *arguments]
    worker = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, text=True)
    client = MlflowClient(f"sqlite:///{output_dir / 'mlflow.db'}")
    deadline = time.monotonic() + 300
    while not (found := runs(client)) or found[0].data.metrics.get("progress/tokens", 0) < 20 * TOKENS_A_STEP:
        assert worker.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(worker.pid, signal.SIGTERM)  # as a scheduler does: the worker, its fork server and its trial at once
    said, _ = worker.communicate(timeout=200)
    assert worker.returncode == 130, said
    assert "stopping: 1 under way save a checkpoint first" in said
    (run,) = runs(client)
    assert run.info.status == "KILLED"
    (saved,) = checkpoints(output_dir / run.info.run_id)
    step = int(saved.stem.partition("-")[2])
    assert 20 <= step < STEPS
    queue = RunQueue.existing(open_shared(storage_url(storage)), "preempted")
    (attempt,) = queue.latest().values()
    assert (attempt.abandoned, attempt.gave_back) == (True, True)

    assert main(arguments) == 0
    (run,) = runs(client)
    assert run.data.tags["outcome"] == "complete"
    logged = [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")]
    assert logged == [TOKENS_A_STEP * number for number in range(1, STEPS + 1)]
    # Where a process took its first step it cannot say how long a step takes: at the beginning, and right after the checkpoint.
    timed = {point.step for point in client.get_metric_history(run.info.run_id, "perf/step_ms")}
    assert set(logged) - timed == {TOKENS_A_STEP, TOKENS_A_STEP * (step + 1)}


def runs(client: MlflowClient) -> list[Any]:
    experiment = client.get_experiment_by_name("preempted")
    if experiment is None:
        return []
    return [run for run in client.search_runs([experiment.experiment_id]) if "trial_key" in run.data.tags]
