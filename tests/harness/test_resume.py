"""A run that stops anywhere goes on as if it had not: same weights bit for bit, same metrics, each logged once."""

import math
from pathlib import Path

import pytest
import torch
from harness_support import Argv, history, run_of

from resbench.harness import names
from resbench.harness.checkpoint_io import checkpoints
from resbench.harness.fit import fit

STEPWISE = (names.TRAIN_LOSS, names.GRAD_NORM, names.LOSS_SPIKES, names.LEARNING_RATE, names.PROGRESS_STEP)
VALIDATED = (names.VAL_LOSS, names.GAIN_FORWARD, names.COLUMN_ERROR)


class PulledPlug(Exception):
    """Power cut."""


def interrupted(argv: list[str], at_tokens: int, run_id: str | None = None, tags: dict[str, str] | None = None) -> None:
    """Train until the validation at so many tokens, which comes just before the checkpoint of the same step."""

    def on_validation(tokens: int, loss: float) -> None:
        if tokens >= at_tokens:
            raise PulledPlug

    with pytest.raises(PulledPlug):
        fit(argv, run_id=run_id, tags=tags, on_validation=on_validation)


def only_run(output_dir: Path) -> str:
    return next(path.parent.name for path in output_dir.glob("*/step-*.ckpt"))


def weights(output_dir: Path, run_id: str) -> dict[str, torch.Tensor]:
    state = torch.load(checkpoints(output_dir / run_id)[-1], weights_only=True)
    assert state["global_step"] == 40
    found: dict[str, torch.Tensor] = state["state_dict"]
    for index, moments in state["optimizer_states"][0]["state"].items():
        found |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
    return found


@pytest.mark.parametrize("scheme", ["mhc", "harness_support.Noisy"])
def test_resuming_is_bitwise(argv: Argv, output_dir: Path, scheme: str) -> None:
    arguments = argv(f"--model.scheme={scheme}", "--every.validation=640", "--every.checkpoint=384")
    # Checkpoints every 3 steps, validations every 5, readings every 10: stopped at step 15, on from 12, in mid-reading.
    interrupted(arguments, at_tokens=15 * 128, tags={"gpu_share": "3"})
    run_id = only_run(output_dir)
    assert run_of(output_dir, run_id).info.status == "FAILED"
    resumed = fit(arguments, run_id=run_id, tags={"gpu_share": "1"})
    assert resumed.run_id == run_id
    assert resumed.outcome == "complete"
    whole = fit(arguments)
    assert resumed.val_loss == whole.val_loss

    left, right = weights(output_dir, run_id), weights(output_dir, whole.run_id)
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name
    for metric in (*STEPWISE, *VALIDATED):
        points = history(output_dir, run_id, metric)
        assert points == history(output_dir, whole.run_id, metric), metric
        assert len({tokens for tokens, _ in points}) == len(points), f"{metric} was logged twice"
    tags = run_of(output_dir, run_id).data.tags
    assert tags["outcome"] == "complete"
    assert "error" not in tags or tags["error"] == ""
    assert tags["gpu_share"] == "3", "a part of its time was in company"


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    argv: Argv, output_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = argv("--every.validation=1280", "--every.checkpoint=384")
    interrupted(arguments, at_tokens=10 * 128)
    run_id = only_run(output_dir)
    older, newest = checkpoints(output_dir / run_id)
    assert (older.name, newest.name) == ("step-00000006.ckpt", "step-00000009.ckpt")
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    resumed = fit(arguments, run_id=run_id)
    assert "step-00000009.ckpt is damaged" in caplog.text
    assert resumed.val_loss == fit(arguments).val_loss


def test_a_run_stopped_before_its_first_checkpoint_starts_again_without_doubling(argv: Argv, output_dir: Path) -> None:
    arguments = argv("--every.validation=1280", "--every.checkpoint=5120")
    failed: list[str] = []

    def stop(tokens: int, loss: float) -> None:
        failed.append("x")
        raise PulledPlug

    with pytest.raises(PulledPlug):
        fit(arguments, on_validation=stop)
    assert not list(output_dir.glob("*/step-*.ckpt"))
    from harness_support import client_of

    client = client_of(output_dir)
    experiment = client.get_experiment_by_name("resbench")
    run_id = client.search_runs([experiment.experiment_id])[0].info.run_id
    fit(arguments, run_id=run_id)
    for metric in (names.VAL_LOSS, names.TRAIN_LOSS):
        steps = [tokens for tokens, _ in history(output_dir, run_id, metric)]
        assert len(steps) == len(set(steps))
    assert run_of(output_dir, run_id).data.tags["outcome"] == "complete"


def test_a_finished_run_taken_up_again_keeps_its_result(argv: Argv, output_dir: Path) -> None:
    first = fit(argv())
    again = fit(argv(f"--resume={first.run_id}"))
    assert (again.run_id, again.outcome, again.val_loss, again.tokens) == (
        first.run_id,
        "complete",
        first.val_loss,
        5120,
    )
    assert again.bits_per_byte == first.bits_per_byte
    assert len(history(output_dir, first.run_id, names.VAL_LOSS)) == 11


def test_another_configuration_is_refused(argv: Argv) -> None:
    first = fit(argv("--budget.tokens=640"))
    with pytest.raises(ValueError, match="another configuration"):
        fit(argv("--budget.tokens=640", "--model.learning_rate=0.5", f"--resume={first.run_id}"))


def test_a_run_that_does_not_exist(argv: Argv) -> None:
    with pytest.raises(ValueError, match="nosuchrun"):
        fit(argv("--resume=nosuchrun"))


def test_two_checkpoints_are_kept_and_none_when_switched_off(argv: Argv, output_dir: Path) -> None:
    kept = fit(argv())
    assert [path.name for path in checkpoints(output_dir / kept.run_id)] == ["step-00000036.ckpt", "step-00000040.ckpt"]
    without = fit(argv("--every.checkpoint=0", "--budget.tokens=640"))
    assert without.outcome == "complete"
    assert math.isfinite(without.val_loss or math.nan)
    assert not (output_dir / without.run_id).exists() or not checkpoints(output_dir / without.run_id)
