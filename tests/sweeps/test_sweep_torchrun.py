"""A trial on two devices: two processes under torchrun's agent, one run, and nothing of SLURM's counts."""

from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from resbench.harness.fit import Pruned
from resbench.sweeps import torchrun
from resbench.sweeps.grid import Cell, devices_of
from resbench.sweeps.target import Target


@pytest.mark.slow
def test_two_processes_train_one_run_and_the_sweep_gives_it_up(
    output_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within an allocation of seven tasks. The batch is two processes' of 2 x 32 tokens; given up at the second validation."""
    for name, value in {"NTASKS": 7, "NPROCS": 7, "PROCID": 3, "LOCALID": 3, "JOB_ID": 1, "JOB_NAME": "x"}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    config = {
        "model": {"scheme": "resnet", "backbone": {"class_path": "transformer", "init_args": {"size": "100k"}}},
        "data": {"class_path": "python-source", "init_args": {"context_length": 32, "batch_size": 2}},
        "budget": {"tokens": 128 * 12},
        "every": {"validation": 128 * 4},
        "trainer": {"devices": 2, "accelerator": "cpu", "enable_progress_bar": False},
        "output_dir": str(output_dir),
        "tracking": {"uri": f"sqlite:///{output_dir / 'mlflow.db'}"},
        "seed_everything": 1,
    }
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(config))
    told: list[int] = []

    def on_validation(tokens: int, loss: float) -> None:
        told.append(tokens)
        if len(told) == 2:
            raise Pruned("far enough")

    argv = torchrun.wrap(Target("resbench.harness.fit:fit"), 2).arguments(("--config", str(file)))
    result = torchrun.fit(list(argv), tags={"study": "s"}, on_validation=on_validation)
    assert (result.outcome, result.reason, result.tokens) == ("pruned", "far enough", 1024)
    assert told == [512, 1024]
    client = MlflowClient(config["tracking"]["uri"])  # type: ignore[index]
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert [run.info.run_id for run in runs] == [result.run_id]
    assert runs[0].data.tags["study"] == "s"
    assert runs[0].data.params["trainer.devices"] == "2"


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [({}, 1), ({"devices": "auto"}, 1), ({"devices": 4}, 4), ({"devices": "2", "num_nodes": 1}, 2)],
)
def test_how_many_devices_a_run_takes(trainer: dict[str, object], expected: int) -> None:
    assert devices_of(Cell("c", {}, {"trainer": trainer})) == expected


@pytest.mark.parametrize("trainer", [{"devices": [0, 1]}, {"devices": "0,1"}, {"devices": 0}, {"devices": -1}])
def test_which_devices_they_are_is_not_for_the_file_to_say(trainer: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="cell 'c': trainer.devices=.*expected how many"):
        devices_of(Cell("c", {}, {"trainer": trainer}))
