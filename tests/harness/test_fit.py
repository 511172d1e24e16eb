"""One run for real: it learns, everything it promises is in MLflow, and the ways it can end early are results."""

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from harness_support import Argv, artifact, client_of, history, run_of

from resbench.harness import names
from resbench.harness.config import parse
from resbench.harness.fit import Pruned, fit

METRICS = {
    "train/loss",
    "val/loss",
    "val/bits_per_byte",
    "perf/tokens_per_s",
    "perf/step_ms",
    "mem/peak_gib",
    "stability/grad_norm",
    "stability/gain_forward",
    "stability/gain_backward",
    "stability/row_error",
    "stability/column_error",
    "stability/loss_spikes",
    "progress/tokens",
    "progress/flops",
    "progress/wall_s",
    "progress/step",
}
PARAMS = {
    "params_total",
    "params_connection",
    "params_branches",
    "flops_per_token",
    "data_unigram_bits_per_byte",
    "depth",
    "width",
    "budget.tokens",
    "model.learning_rate",
    "model.scheme.class_path",
    "data.init_args.context_length",
    "trainer.gradient_clip_val",
}
TAGS = {
    "scheme",
    "seed",
    "config_hash",
    "data_fingerprint",
    "hardware",
    "torch",
    "task",
    "outcome",
    "resbench_version",
}


@pytest.mark.parametrize("scheme", ["resnet", "mhc"])
def test_it_learns_and_says_so_in_mlflow(argv: Argv, output_dir: Path, scheme: str) -> None:
    result = fit(
        argv(f"--model.scheme={scheme}", "--model.learning_rate=0.01"),
        tags={"study": "s", "cell": "c", "phase": "final"},
    )
    assert result.outcome == "complete"
    assert result.tokens == 5120
    run = run_of(output_dir, result.run_id)
    assert run.info.status == "FINISHED"
    assert set(run.data.metrics) >= METRICS
    assert set(run.data.params) >= PARAMS
    assert TAGS | {"study", "cell", "phase"} <= set(run.data.tags)

    losses = history(output_dir, result.run_id, names.VAL_LOSS)
    assert [tokens for tokens, _ in losses] == list(range(0, 5121, 512))  # before the first step, then ten in a run
    assert losses[-1][1] < losses[0][1] - 1.0
    assert result.val_loss == losses[-1][1]
    assert result.bits_per_byte == run.data.metrics["val/bits_per_byte"]
    train = history(output_dir, result.run_id, names.TRAIN_LOSS)
    assert [tokens for tokens, _ in train] == [1280, 2560, 3840, 5120]  # every ten steps of 128 tokens

    # Two warm-up steps of forty, eight of decay: at step 40 an eighth of the peak is left.
    rates = history(output_dir, result.run_id, names.LEARNING_RATE)
    assert rates == [(1280, 0.01), (2560, 0.01), (3840, 0.01), (5120, pytest.approx(0.01 / 8))]

    metrics, params, tags = run.data.metrics, run.data.params, run.data.tags
    assert metrics["progress/tokens"] == 5120
    assert metrics["progress/step"] == 40
    assert metrics["progress/flops"] == 5120 * int(params["flops_per_token"])
    assert int(params["params_branches"]) + int(params["params_connection"]) == int(params["params_total"])
    assert metrics["perf/tokens_per_s"] == pytest.approx(128 / (metrics["perf/step_ms"] / 1e3), rel=3)
    assert tags["scheme"] == scheme
    assert tags["outcome"] == "complete"
    assert ("n_streams" in tags) == (scheme == "mhc")
    assert "size" not in tags  # the fixture gives depth and width itself
    assert names.MFU not in metrics  # no peak is known of a CPU
    # Doubly stochastic mixing, or none: nothing is amplified.
    assert metrics["stability/gain_forward"] == pytest.approx(1.0, abs=0.01)
    assert metrics["stability/gain_backward"] == pytest.approx(1.0, abs=0.01)

    profile = json.loads(artifact(output_dir, result.run_id, "stability/profile.json"))
    assert profile["sublayer"] == [0, 1]
    assert profile == json.loads(artifact(output_dir, result.run_id, "stability/profile_5120.json"))
    assert profile["composite_forward"][-1] == metrics["stability/gain_forward"]
    inputs = run.inputs.dataset_inputs
    assert inputs[0].dataset.name == "python-source"


def test_the_logged_configuration_repeats_the_run(argv: Argv, output_dir: Path, tmp_path: Path) -> None:
    first = fit(argv("--model.scheme=hc", "--seed_everything=7", "--budget.tokens=640"))
    config = tmp_path / "again.yaml"
    config.write_text(artifact(output_dir, first.run_id, "config.yaml"))
    assert yaml.safe_load(config.read_text())["seed_everything"] == 7
    second = fit([f"--config={config}"])
    assert second.val_loss == first.val_loss
    runs = [run_of(output_dir, run_id).data.tags for run_id in (first.run_id, second.run_id)]
    assert runs[0]["config_hash"] == runs[1]["config_hash"]
    other_seed = fit([f"--config={config}", "--seed_everything=8"])
    tags = run_of(output_dir, other_seed.run_id).data.tags
    assert tags["config_hash"] == runs[0]["config_hash"]
    assert tags["data_fingerprint"] == runs[0]["data_fingerprint"]
    assert other_seed.val_loss != first.val_loss


def test_accumulating_gradients_is_a_larger_batch(argv: Argv, output_dir: Path) -> None:
    whole = fit(argv("--data.batch_size=8", "--budget.tokens=2560"))
    parts = fit(argv("--data.batch_size=4", "--trainer.accumulate_grad_batches=2", "--budget.tokens=2560"))
    assert parts.tokens == whole.tokens == 2560
    assert parts.val_loss == pytest.approx(whole.val_loss, rel=1e-4)
    losses = [history(output_dir, run.run_id, names.TRAIN_LOSS) for run in (whole, parts)]
    assert [tokens for tokens, _ in losses[0]] == [tokens for tokens, _ in losses[1]]
    assert losses[1][0][1] == pytest.approx(losses[0][0][1], rel=1e-4)


def test_an_absurd_learning_rate_diverges_and_is_a_result(argv: Argv, output_dir: Path) -> None:
    result = fit(argv("--model.learning_rate=1e4", "--trainer.gradient_clip_val=null", "--every.validation=5120"))
    assert result.outcome == "diverged"
    run = run_of(output_dir, result.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["outcome"] == "diverged"
    at = int(run.data.tags["diverged_at_tokens"])
    assert at == result.tokens
    assert at % 128 == 0
    assert 0 < at <= 5120
    loss, norm = (history(output_dir, result.run_id, metric)[-1] for metric in (names.TRAIN_LOSS, names.GRAD_NORM))
    assert loss[0] == norm[0] == at
    assert not (
        loss[1] <= 4 * math.log(257) and math.isfinite(norm[1]) and norm[1] < 1e308
    )  # MLflow keeps infinity as its largest number


def test_a_loss_bound_of_ones_own(argv: Argv) -> None:
    result = fit(argv("--model.loss_bound=1.0"))
    assert result.outcome == "diverged"
    assert result.tokens == 0  # the untrained model's validation loss is already above it
    assert "validation loss" in result.reason


def test_pruning_from_outside(argv: Argv, output_dir: Path) -> None:
    seen: list[tuple[int, float]] = []

    def on_validation(tokens: int, loss: float) -> None:
        seen.append((tokens, loss))
        if tokens >= 1024:
            raise Pruned("not worth it")

    result = fit(argv(), on_validation=on_validation)
    assert [tokens for tokens, _ in seen] == [512, 1024]
    assert result.outcome == "pruned"
    assert result.tokens == 1024
    assert result.val_loss == seen[-1][1]
    run = run_of(output_dir, result.run_id)
    assert run.info.status == "KILLED"
    assert run.data.tags["outcome"] == "pruned"
    assert [point for point in history(output_dir, result.run_id, names.VAL_LOSS) if point[0]] == seen


def test_running_out_of_memory_is_a_result(argv: Argv, output_dir: Path) -> None:
    result = fit(argv("--model.scheme=harness_support.Hungry"))
    assert result.outcome == "oom"
    assert result.tokens == 2 * 128
    run = run_of(output_dir, result.run_id)
    assert run.data.tags["outcome"] == "oom"
    assert run.info.status == "FINISHED"


def test_a_bug_is_raised_and_the_run_marked_failed(argv: Argv, output_dir: Path) -> None:
    with pytest.raises(RuntimeError, match="shape mismatch in my scheme"):
        fit(argv("--model.scheme=harness_support.Buggy", "--every.gain_sequences=0"))
    client = client_of(output_dir)
    experiment = client.get_experiment_by_name("resbench")
    run = client.search_runs([experiment.experiment_id])[0]
    assert run.info.status == "FAILED"
    assert run.data.tags["outcome"] == "failed"
    assert "shape mismatch in my scheme" in run.data.tags["error"]


def test_a_bad_configuration_leaves_no_run_behind(argv: Argv, output_dir: Path, corpus: Path) -> None:
    for bad in (["--model.backbone.width=33"], [f"--data.root={corpus}/nowhere"], ["--data.context_length=1000000"]):
        with pytest.raises((ValueError, OSError)):
            fit(argv(*bad))
    assert client_of(output_dir).get_experiment_by_name("resbench") is None


def test_unwritable_output(argv: Argv, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="a file is in the way"):
        fit(argv(f"--output_dir={tmp_path}/file"))


def test_seeds_pair_schemes(argv: Argv) -> None:
    """The branches of two schemes start equal, so that paired runs differ by the scheme alone."""
    networks = []
    for scheme in ("resnet", "mhc"):
        cli = parse(argv(f"--model.scheme={scheme}", "--seed_everything=3"))
        torch.rand(17)  # whatever drew random numbers before
        networks.append(dict(cli.model.build(257, 32).named_parameters()))
    shared = [name for name in networks[0] if name in networks[1] and not name.startswith("scheme.")]
    assert len(shared) > 5
    for name in shared:
        assert torch.equal(networks[0][name], networks[1][name]), name


def test_weight_decay_spares_norms_embeddings_and_static_connections(argv: Argv) -> None:
    cli = parse(argv("--model.scheme=mhc"))
    network = cli.model.build(257, 32)
    decayed = {id(p) for p in cli.model.parameter_groups()[0]["params"]}
    by_name = {name: id(p) in decayed for name, p in network.named_parameters()}
    assert by_name["branches.0.inner.qkv.weight"]
    assert by_name["head.weight"]
    assert not by_name["embedding.weight"]
    assert not any(decays for name, decays in by_name.items() if name.endswith(("bias.0", "alpha.0")) or "norm" in name)
    assert len(by_name) == sum(len(group["params"]) for group in cli.model.parameter_groups())


def test_compiling_changes_nothing_but_speed(argv: Argv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        torch, "compile", lambda network, **how: torch._dynamo.optimize("eager", nopython=True)(network)
    )
    plain = fit(argv("--budget.tokens=640"))
    compiled = fit(argv("--budget.tokens=640", "--model.compile=true"))
    assert compiled.val_loss == pytest.approx(plain.val_loss, rel=1e-5)
