"""How runs end that do not end well: what diverged and where, what ran out of memory and with how much, as results that a sweep goes on from."""

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from harness_support import Argv, artifact, history, run_of

from resbench.harness import names
from resbench.harness.checkpoint_io import checkpoints
from resbench.harness.fit import fit

DEEP = (
    "--model.backbone.depth=3",
    "--every.validation=5120",
    "--every.checkpoint=384",
)  # six sublayers; saved every 3 steps


def finite(path: Path) -> bool:
    return all(bool(t.isfinite().all()) for t in torch.load(path, weights_only=True)["state_dict"].values())


@pytest.mark.parametrize(("scheme", "place"), [("BreaksForward", "output"), ("BreaksBackward", "gradient")])
def test_the_sublayer_that_broke_is_named(argv: Argv, output_dir: Path, scheme: str, place: str) -> None:
    """Sublayer 3 breaks at step 14; losses are read at steps 10 and 20, checkpoints due at 15 and 18 must not push out those before."""
    result = fit(argv(f"--model.scheme=harness_support.{scheme}", *DEEP))
    assert (result.outcome, result.tokens) == ("diverged", 14 * 128)
    run = run_of(output_dir, result.run_id)
    tags = run.data.tags
    assert run.info.status == "FINISHED"
    assert tags[names.TAG_DIVERGED_AT_TOKENS] == str(14 * 128)
    assert f"{place}" in tags[names.TAG_DIVERGED_IN]
    assert "sublayer 3 (SwiGLU) is the first that is not finite" in tags[names.TAG_DIVERGED_IN]
    assert tags[names.TAG_DIVERGED_IN] in result.reason
    good = Path(tags[names.TAG_LAST_GOOD_CHECKPOINT])
    assert [path.name for path in checkpoints(good.parent)] == ["step-00000009.ckpt", "step-00000012.ckpt"]
    assert good.name == "step-00000012.ckpt"
    assert finite(good)
    found = json.loads(artifact(output_dir, result.run_id, "stability/divergence.json"))
    assert (found["step"], found["offending_sublayer"], found["weights_nonfinite"]) == (14, 3, [])
    assert found["last_good_checkpoint"] == str(good)
    assert found["kind"] == ["Attention", "SwiGLU"] * 3
    counts = found[f"nonfinite_{place}"]
    assert counts[3] > 0
    # Forward, what comes after is infected and what came before is not; backward, the other way round.
    before, after = (counts[:3], counts[4:]) if place == "output" else (counts[4:], counts[:3])
    assert before == [0] * len(before)
    assert all(count > 0 for count in after)
    assert all(value > 0 for value in found["state_max"][:4])
    assert "<svg" in artifact(output_dir, result.run_id, "stability/divergence.svg")


def test_a_loss_above_its_bound_shows_the_largest_sublayer(argv: Argv, output_dir: Path) -> None:
    result = fit(argv("--model.learning_rate=10.0", "--trainer.gradient_clip_val=null", *DEEP))
    assert result.outcome == "diverged"
    found = json.loads(artifact(output_dir, result.run_id, "stability/divergence.json"))
    assert found["tokens"] == result.tokens == found["step"] * 128
    largest = max(range(6), key=lambda i: found["output_max"][i])
    assert found["offending_sublayer"] == largest
    assert f"the largest output is that of sublayer {largest}" in found["verdict"]
    loss = history(output_dir, result.run_id, names.TRAIN_LOSS)[-1]
    assert loss[0] == result.tokens
    assert loss[1] > 4 * math.log(257) or not math.isfinite(loss[1])
    assert history(output_dir, result.run_id, names.GAIN_FORWARD)[-1][0] == result.tokens  # how far gains had come


def test_exhausted_memory_leaves_the_peak_and_the_configuration(argv: Argv, output_dir: Path) -> None:
    """A real allocation that the machine refuses: a pebibyte."""
    result = fit(argv("--model.scheme=harness_support.AsksForTooMuch"))
    assert (result.outcome, result.tokens) == ("oom", 2 * 128)
    run = run_of(output_dir, result.run_id)
    assert run.info.status == "FINISHED"
    assert "allocate" in run.data.tags[names.TAG_REASON]
    # This process has torch and MLflow loaded: its resident set is well above 100 MiB, and below what the machine has.
    assert 0.1 < run.data.metrics[names.PEAK_GIB] < 1000
    assert history(output_dir, result.run_id, names.PEAK_GIB)[-1][0] == 2 * 128
    config = yaml.safe_load(artifact(output_dir, result.run_id, "config.yaml"))
    assert config["model"]["scheme"]["class_path"] == "harness_support.AsksForTooMuch"
    assert run.data.params["model.scheme.class_path"] == "harness_support.AsksForTooMuch"


@pytest.mark.gpu
def test_a_gpu_that_is_really_full(argv: Argv, output_dir: Path) -> None:
    arguments = argv("--trainer.accelerator=gpu", "--model.scheme=harness_support.FillsTheGpu", "--model.compile=false")
    result = fit(arguments)
    assert (result.outcome, result.tokens) == ("oom", 2 * 128)
    run = run_of(output_dir, result.run_id)
    assert run.data.tags[names.TAG_REASON].startswith("CUDA out of memory")
    total = torch.cuda.get_device_properties(0).total_memory / 2**30
    assert 0.5 * total < run.data.metrics[names.PEAK_GIB] <= total
    torch.cuda.empty_cache()
    assert fit(argv("--trainer.accelerator=gpu", "--budget.tokens=256")).outcome == "complete"  # nothing holds on to it
