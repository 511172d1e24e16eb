"""A process that is killed or interrupted from outside loses nothing that its next start cannot make up."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from harness_support import client_of, history, run_of

from resbench.harness import names
from resbench.harness.checkpoint_io import checkpoints
from resbench.harness.fit import fit

Argv = Callable[..., list[str]]
LONG = (
    "--budget.tokens=128000",
    "--every.checkpoint=2560",
    "--every.validation=12800",
    "--trainer.log_every_n_steps=7",
)


def start(arguments: list[str], output_dir: Path, after_checkpoints: int) -> tuple[subprocess.Popen[str], str]:
    """`resbench fit` in a process of its own, in the midst of training; and its run's id."""
    command = [str(Path(sys.executable).parent / "resbench"), "fit", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        steps = [int(path.stem.removeprefix("step-")) for path in output_dir.glob("*/step-*.ckpt")]
        if steps and max(steps) >= 20 * after_checkpoints:
            return process, next(output_dir.glob("*/step-*.ckpt")).parent.name
        time.sleep(0.01)
    process.kill()
    raise AssertionError(f"no checkpoint appeared: {process.communicate()}")


@pytest.mark.slow
def test_after_sigkill_the_run_ends_as_if_undisturbed(argv: Argv, output_dir: Path) -> None:
    process, run_id = start(argv(*LONG), output_dir, after_checkpoints=5)
    process.kill()
    process.communicate()
    assert run_of(output_dir, run_id).info.status == "RUNNING"
    resumed = fit(argv(*LONG), run_id=run_id)
    whole = fit(argv(*LONG))
    assert resumed.outcome == whole.outcome == "complete"
    assert resumed.val_loss == whole.val_loss
    left, right = (
        torch.load(checkpoints(output_dir / run)[-1], weights_only=True)["state_dict"] for run in (run_id, whole.run_id)
    )
    assert all(torch.equal(left[name], right[name]) for name in right)
    for metric in (names.TRAIN_LOSS, names.GRAD_NORM, names.VAL_LOSS, names.PROGRESS_FLOPS, names.LOSS_SPIKES):
        assert history(output_dir, run_id, metric) == history(output_dir, whole.run_id, metric), metric


@pytest.mark.slow
def test_ctrl_c_ends_the_run_as_killed_and_says_how_to_go_on(argv: Argv, output_dir: Path) -> None:
    process, run_id = start(argv(*LONG), output_dir, after_checkpoints=2)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert f"--resume {run_id}" in error
    assert client_of(output_dir).get_run(run_id).info.status == "KILLED"
