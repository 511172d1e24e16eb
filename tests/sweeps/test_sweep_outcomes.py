"""Real training that diverges, or runs out of memory, is a result of a sweep and stops nothing."""

import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from resbench.harness import names
from resbench.sweeps.cli import main

# Trial processes import the schemes that misbehave by name and inherit this path.
sys.path.insert(0, str(Path(__file__).parents[1] / "harness"))

SWEEP = """
name: hard-times
base:
  model: {backbone: {depth: 1, width: 32, n_heads: 2}}
  data: {class_path: python-source, init_args: {context_length: 32, batch_size: 2, val_sequences: 2}}
  budget: {tokens: 1600}                            # 25 steps
  every: {validation: 1600, checkpoint: 640, gain_sequences: 0}
factors:
  scheme:
    - {class_path: harness_support.BreaksOnStep14, label: breaks}
    - {class_path: harness_support.AsksForTooMuch, label: asks}
    - resnet
seeds: [3]
workers: 1
"""


@pytest.mark.slow
def test_neither_divergence_nor_exhausted_memory_stops_a_sweep(
    tmp_path: Path, output_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP)
    assert main(["run", str(file), "--output-dir", str(output_dir)]) == 0
    client = MlflowClient(f"sqlite:///{output_dir / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("hard-times")
    assert experiment is not None
    runs = [run for run in client.search_runs([experiment.experiment_id]) if "trial_key" in run.data.tags]
    outcomes = {run.data.params["model.scheme.class_path"].rpartition(".")[2]: run for run in runs}
    assert {name: run.data.tags["outcome"] for name, run in outcomes.items()} == {
        "BreaksOnStep14": "diverged",
        "AsksForTooMuch": "oom",
        "ResNet": "complete",
    }
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert "is the first that is not finite" in outcomes["BreaksOnStep14"].data.tags[names.TAG_DIVERGED_IN]
    assert outcomes["AsksForTooMuch"].data.metrics[names.PEAK_GIB] > 0.1
    printed = capsys.readouterr().out
    assert "3 of 3 runs have a result (1 complete, 1 diverged, 1 oom)" in printed
    assert "diverged" in printed
    assert main(["run", str(file), "--output-dir", str(output_dir)]) == 0  # and none of them is tried again
    assert len([r for r in client.search_runs([experiment.experiment_id]) if "trial_key" in r.data.tags]) == 3
