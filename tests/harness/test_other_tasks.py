"""Runs on tasks that are not text: what is logged, resumed and refused."""

from pathlib import Path

import pytest
from harness_support import history, run_of

from resbench.harness.cli import main
from resbench.harness.fit import fit

DATA = Path(__file__).parents[1] / "tasks" / "data"


def common(output_dir: Path) -> list[str]:
    return [f"--output_dir={output_dir}", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]


def digits(output_dir: Path, cache: Path) -> list[str]:
    return [
        *common(output_dir),
        "--data=images",
        f"--data.data_files={DATA / 'digits-train.parquet'}",
        f"--data.val_data_files={DATA / 'digits-test.parquet'}",
        "--data.image_size=8",
        "--data.mirror=false",
        "--data.batch_size=50",
        f"--data.cache_dir={cache}",
        "--model.learning_rate=0.01",
    ]


def test_a_convolutional_network_learns_digits(
    output_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two epochs of 800 scans: far above the tenth that guessing gets. One image counts as one token."""
    network = ["--model.backbone=preact-resnet", "--model.backbone.depth=14", "--model.backbone.width=8"]
    arguments = [*digits(output_dir, tmp_path / "cache"), *network, "--model.scheme=hc", "--budget.tokens=1600"]
    result = fit(arguments)
    assert result.outcome == "complete"
    assert result.tokens == 1600
    assert result.accuracy is not None
    assert result.accuracy > 0.4
    run = run_of(output_dir, result.run_id)
    assert run.data.metrics["val/accuracy"] == result.accuracy
    assert "val/bits_per_byte" not in run.data.metrics
    assert "stability/gain_forward" in run.data.metrics  # streams are mixed in three stages
    assert float(run.data.params["data_chance_accuracy"]) == result.chance_accuracy < 0.12
    accuracies = history(output_dir, result.run_id, "val/accuracy")
    assert accuracies[0][0] == 0
    assert accuracies[-1][0] == 1600


def test_a_recurring_letter_is_found(output_dir: Path) -> None:
    """One and two hops over three letters in short sequences: learned in seconds; accuracy is logged by hops."""
    shape = [
        "--model.backbone.size=null",
        "--model.backbone.depth=2",
        "--model.backbone.width=32",
        "--model.backbone.n_heads=2",
    ]
    task = [
        "--data=p-hop",
        "--data.hops=[1,2]",
        "--data.alphabet=3",
        "--data.context_length=16",
        "--data.val_sequences=64",
    ]
    result = fit([*common(output_dir), *shape, *task, "--budget.tokens=200000", "--model.learning_rate=0.01"])
    metrics = run_of(output_dir, result.run_id).data.metrics
    assert result.chance_accuracy is not None
    assert 0.5 < result.chance_accuracy < 0.7  # with three letters, one is the present one and hops avoid it
    assert metrics["val/accuracy/hops_1"] > 0.8
    assert {"val/accuracy", "val/accuracy/hops_1", "val/accuracy/hops_2"} <= metrics.keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data=p-hop", "--model.backbone=vit"], "model.backbone=vit: it takes images, and the task p-hop gives tokens"),
        (["--data=cifar10"], "it takes tokens and documents, and the task cifar10 gives images. Backbones for this task: preact-resnet, vit"),
    ],
)  # fmt: skip
def test_a_backbone_that_cannot_take_the_data_is_refused_with_those_that_can(
    output_dir: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        main(["fit", *common(output_dir), *arguments])
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_chosen_class_has_its_own_defaults_and_not_those_of_the_default_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--data=p-hop", "--model.backbone=transformer", "--print_config"])
    printed = capsys.readouterr().out
    assert "context_length: 128" in printed  # python-source has 256
    assert "val_sequences: 512" in printed
