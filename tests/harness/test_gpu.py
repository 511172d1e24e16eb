"""On a GPU: bf16, its own measures, and resuming in the middle of a reading."""

from collections.abc import Callable
from pathlib import Path

import pytest
from harness_support import history, run_of

from resbench.harness import names
from resbench.harness.fit import fit

Argv = Callable[..., list[str]]
GPU = ("--trainer.accelerator=gpu", "--trainer.deterministic=true", "--model.scheme=mhc")


@pytest.fixture(autouse=True)
def _deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.mark.gpu
def test_bf16_memory_and_hardware(argv: Argv, output_dir: Path) -> None:
    result = fit(argv(*GPU))
    assert result.outcome == "complete"
    run = run_of(output_dir, result.run_id)
    assert run.data.params["trainer.precision"] == "bf16-mixed"
    assert run.data.tags["hardware"] != ""
    assert 0 < run.data.metrics[names.PEAK_GIB] < 4  # allocated on the device, not the process's
    if names.MFU in run.data.metrics:
        assert 0 < run.data.metrics[names.MFU] < 1


@pytest.mark.gpu
def test_resuming_on_the_device(argv: Argv, output_dir: Path) -> None:
    arguments = argv(*GPU, "--every.validation=640", "--every.checkpoint=384")

    def stop(tokens: int, loss: float) -> None:
        if tokens >= 15 * 128:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        fit(arguments, on_validation=stop)
    run_id = next(output_dir.glob("*/step-*.ckpt")).parent.name
    resumed, whole = fit(arguments, run_id=run_id), fit(arguments)
    assert resumed.val_loss == whole.val_loss
    assert history(output_dir, run_id, names.TRAIN_LOSS) == history(output_dir, whole.run_id, names.TRAIN_LOSS)
