"""A process that is killed or interrupted from outside loses nothing that its next start cannot make up."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from harness_support import MEASURED, client_of, history, run_of

from resbench.harness import holding, names
from resbench.harness.checkpoint_io import checkpoints
from resbench.harness.fit import fit

Argv = Callable[..., list[str]]
LONG = (
    "--budget.tokens=76800",
    "--every.checkpoint=2560",
    "--every.validation=7680",
    "--trainer.log_every_n_steps=7",
)


def start(arguments: list[str], output_dir: Path, after_checkpoints: int) -> tuple[subprocess.Popen[str], str]:
    """`resbench fit` in a process of its own, in the midst of training; and its run's id."""
    command = [str(Path(sys.executable).parent / "resbench"), "fit", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        steps = [int(path.stem.removeprefix("step-")) for path in output_dir.glob("*/step-*.ckpt")]
        if steps and max(steps) >= 20 * after_checkpoints:
            return process, next(output_dir.glob("*/step-*.ckpt")).parent.name
        time.sleep(0.01)
    process.kill()
    raise AssertionError(f"no checkpoint appeared: {process.communicate()}")


def deterministic(output_dir: Path, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """Every metric that does not measure time or memory."""
    metrics = run_of(output_dir, run_id).data.metrics
    return {name: history(output_dir, run_id, name) for name in metrics if not name.startswith(MEASURED)}


def final_state(output_dir: Path, run_id: str) -> dict[str, Any]:
    """Everything in the last checkpoint but how long the run took and what waited for MLflow."""
    saved: dict[str, Any] = torch.load(checkpoints(output_dir / run_id)[-1], weights_only=True)
    del saved["callbacks"]["StepMetrics"]["seconds"]
    del saved["callbacks"]["Checkpoint"]
    return saved


def same(left: Any, right: Any) -> bool:
    """Equal to the last bit, tensors included."""
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    return bool(left == right)


@pytest.mark.slow
def test_killed_at_a_random_step_then_preempted_the_run_ends_as_if_undisturbed(argv: Argv, output_dir: Path) -> None:
    """A scheme that draws random numbers as it trains; weights, moments, schedule, data order, generators and metrics, to the last bit."""
    arguments = argv(*LONG, "--model.scheme=harness_support.Noisy")
    process, run_id = start(arguments, output_dir, after_checkpoints=2)
    time.sleep(random.uniform(0.0, 0.3))  # anywhere between two checkpoints, or in the midst of writing one
    process.kill()
    process.communicate()
    assert run_of(output_dir, run_id).info.status == "RUNNING"
    killed_from = checkpoints(output_dir / run_id)[-1]

    step = int(killed_from.stem.removeprefix("step-"))
    process, same_run = start([*arguments, "--resume=auto"], output_dir, after_checkpoints=step // 20 + 3)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert same_run == run_id
    assert process.returncode == 75, error
    assert "Traceback" not in error
    assert f"--resume {run_id}" in error
    assert run_of(output_dir, run_id).info.status == "KILLED"
    saved = checkpoints(output_dir / run_id)[-1]
    assert str(saved) in " ".join(error.split())  # of the very step it stopped at
    at = int(saved.stem.removeprefix("step-")) * 128
    assert f"after {at:,} tokens" in error

    resumed = fit([*arguments, "--resume=auto"])
    assert resumed.run_id == run_id
    whole = fit(arguments)
    assert resumed.outcome == whole.outcome == "complete"
    assert same(final_state(output_dir, run_id), final_state(output_dir, whole.run_id))
    left, right = deterministic(output_dir, run_id), deterministic(output_dir, whole.run_id)
    assert left.keys() == right.keys()
    for metric, points in right.items():
        assert left[metric] == points, (metric, killed_from.name, saved.name)
    # What measures time has other values, but the same points, each once.
    for metric in (names.TOKENS_PER_S, names.PEAK_GIB, names.PROGRESS_WALL_S):
        steps = [tokens for tokens, _ in history(output_dir, run_id, metric)]
        assert len(steps) == len(set(steps)), metric
        assert set(steps) <= {tokens for tokens, _ in right[names.TRAIN_LOSS]}, metric


@pytest.mark.slow
def test_ctrl_c_ends_the_run_as_killed_and_says_how_to_go_on(argv: Argv, output_dir: Path) -> None:
    process, run_id = start(argv(*LONG), output_dir, after_checkpoints=2)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert f"--resume {run_id}" in error
    assert client_of(output_dir).get_run(run_id).info.status == "KILLED"


def test_a_run_is_trained_by_one_process_at_a_time(
    argv: Argv, output_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "PATIENCE_S", 0.1)
    first = fit(argv("--budget.tokens=256"))
    with (
        holding.held(output_dir, first.run_id),
        pytest.raises(ValueError, match=f"the run {first.run_id} is being trained by another process"),
    ):
        fit(argv("--budget.tokens=256", f"--resume={first.run_id}"))


def test_resume_auto_starts_anew_where_nothing_is_unfinished(argv: Argv) -> None:
    first = fit(argv("--budget.tokens=256", "--resume=auto"))
    assert fit(argv("--budget.tokens=256", "--resume=auto")).run_id != first.run_id
