"""A complete run leaves a model that loads without running anybody's code and scores what the run scored."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from harness_support import client_of, history, run_of

from resbench.harness import names
from resbench.harness.config import parse
from resbench.harness.fit import fit
from resbench.harness.logged_model import load

Argv = Callable[..., list[str]]


def test_the_model_of_a_run_loads_and_scores_the_same(argv: Argv, output_dir: Path, tmp_path: Path) -> None:
    arguments = argv("--model.scheme=mhc", "--model.scheme.n_streams=2", "--budget.tokens=640", "--seed_everything=5")
    result = fit(arguments)
    client = client_of(output_dir)
    run = run_of(output_dir, result.run_id)
    (output,) = run.outputs.model_outputs
    assert output.step == 640
    model = client.get_logged_model(output.model_id)
    assert model.name == "mhc-seed5"
    assert model.source_run_id == result.run_id
    assert model.params["model.scheme.init_args.n_streams"] == "2"
    assert {metric.key: metric.value for metric in model.metrics}[names.VAL_LOSS] == result.val_loss

    points = history(output_dir, result.run_id, names.VAL_LOSS)
    assert len(points) == len({tokens for tokens, _ in points})  # the model's is the run's last point, not one more

    folder = Path(model.artifact_location.removeprefix("file://"))
    network = load(folder)
    data = parse(arguments).datamodule
    data.prepare_data()
    data.setup("fit")
    total = count = 0.0
    with torch.no_grad():
        for batch in data.val_dataloader():
            total += network(batch["tokens"], targets=batch["targets"]).item() * batch["targets"].numel()
            count += batch["targets"].numel()
    assert total / count == pytest.approx(result.val_loss, rel=1e-6)

    (folder / "weights.pt").unlink()
    with pytest.raises(
        FileNotFoundError, match="weights.pt: not there; expected a folder with config.yaml and weights.pt"
    ):
        load(folder)


def test_a_store_without_room_for_models_does_not_fail_the_run(
    argv: Argv, output_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("mlflow.MlflowClient.log_model_artifacts", refuse)
    assert fit(argv("--budget.tokens=256")).outcome == "complete"
    assert "no space left on device" in caplog.text


def test_weights_can_stay_at_home_and_the_description_is_for_people(argv: Argv, output_dir: Path) -> None:
    result = fit(argv("--budget.tokens=256", "--tracking.weights=false", "--model.scheme=mhc"))
    run = run_of(output_dir, result.run_id)
    assert run.outputs is None or not run.outputs.model_outputs
    text = run.data.tags["mlflow.note.content"]
    assert text.startswith("**mhc** in transformer 1 layers of width 32, seed 0")
    for part in (
        "n_streams 4, sinkhorn_iterations 20",
        "256 tokens of python-source in 2 steps of 128",
        "peak learning rate 0.003",
    ):
        assert part in text
