"""A search trial over several seeds: their mean counts, a seed is trained once, and an unstable seed ends the trial."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sweep_stand_ins
import yaml
from mlflow import MlflowClient

from resbench.harness.fit import Pruned
from resbench.sweeps import over_seeds
from resbench.sweeps.spec import Search
from resbench.sweeps.target import Target

Sweep = Callable[..., Path]
SEEDS = [70, 71, 72]


@pytest.fixture
def trial(output_dir: Path, tmp_path: Path) -> Any:
    """Call the trial's function as a trial process does, on one MLflow run; returns the result and the client."""
    uri = f"sqlite:///{output_dir / 'mlflow.db'}"
    client = MlflowClient(uri)
    run_id = client.create_run(client.create_experiment("s"), tags={"trial_key": "s/cell/search/trial=0"}).info.run_id
    space = {"model.learning_rate": {"low": 1e-3, "high": 1e-1}}
    given = Search.model_validate({"trials": 1, "seed": 70, "seeds_per_trial": 3, "space": space})
    bounded = given.model_copy(update={"constraints": {"mem/peak_gib": 9.0}})

    def run(on_validation: Any = None, **model: Any) -> Any:
        file = tmp_path / "trial.yaml"
        config = {
            "model": {"learning_rate": 0.01, "scheme": "mhc", **model},
            "budget": {"tokens": 400},
            "output_dir": str(output_dir),
            "tracking": {"uri": uri},
            "seed_everything": 70,
        }
        file.write_text(yaml.safe_dump(config))
        argv = over_seeds.wrap(Target("sweep_stand_ins:train"), bounded).arguments(("--config", str(file)))
        result = over_seeds.fit(
            list(argv), run_id=run_id, tags={"mlflow.runName": "trial 0"}, on_validation=on_validation
        )
        return result, client.get_run(run_id), children(client, run_id)

    return run


def children(client: MlflowClient, run_id: str) -> list[Any]:
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return client.search_runs(experiments, f"tags.`{over_seeds.TRIAL_TAG}` = '{run_id}'", order_by=["tags.seed"])


def test_the_mean_over_seeds_counts(trial: Any) -> None:
    told: list[tuple[int, float]] = []
    result, run, seeds = trial(lambda place, loss: told.append((place, loss)), stand_in={"peak_gib": 2.0})
    assert [child.data.tags["seed"] for child in seeds] == ["70", "71", "72"]
    losses = [child.data.metrics["val/loss"] for child in seeds]
    assert len(set(losses)) == 3
    assert told == [(0, losses[0]), (1, losses[1]), (2, losses[2])]
    assert run.data.metrics["val/loss"] == result.val_loss == pytest.approx(sum(losses) / 3)
    assert run.data.tags["outcome"] == result.outcome == "complete"
    assert run.data.metrics["progress/tokens"] == result.tokens == 3 * 400
    peaks = [child.data.metrics["mem/peak_gib"] for child in seeds]
    assert run.data.metrics["mem/peak_gib"] == max(peaks) > min(peaks)
    assert not any("trial_key" in child.data.tags or "study" in child.data.tags for child in seeds)


def test_a_trial_given_up_trains_no_further_seed_and_one_taken_up_again_none_twice(trial: Any) -> None:
    def stop(place: int, loss: float) -> None:
        if place == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trial(stop)

    def give_up(place: int, loss: float) -> None:
        told.append(place)
        if place == 1:
            raise Pruned("worse seed by seed")

    told: list[int] = []
    result, run, seeds = trial(give_up)
    assert told == [0, 1]  # the search hears of both seeds again, and knows them already
    assert (result.outcome, run.data.tags["outcome"], run.info.status) == ("pruned", "pruned", "KILLED")
    assert [child.data.tags["outcome"] for child in seeds] == ["complete", "complete"]
    assert result.val_loss == pytest.approx(sum(child.data.metrics["val/loss"] for child in seeds) / 2)


def test_a_seed_that_diverges_ends_the_trial(trial: Any) -> None:
    result, run, seeds = trial(stand_in={"diverges": True})
    assert (result.outcome, run.data.tags["outcome"], run.data.tags["resbench.reason"]) == (
        "diverged",
        "diverged",
        "with seed 70",
    )
    assert len(seeds) == 1


@pytest.mark.figures
def test_a_sweep_with_several_seeds_per_trial(
    sweep_file: Sweep, output_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two trials of five seeds: the pruner sees seeds as its steps, the books see two trials, and the search's figures are kept."""
    file = sweep_file(
        "exclude: [{scheme: [hc, mhc]}]\nsearch: {trials: 2, seed: 77, sampler: random, pruner: wilcoxon, seeds_per_trial: 5,"
        " space: {model.learning_rate: {low: 1e-4, high: 1.0, log: true}}}"
    )
    summary = sweep_stand_ins.run(file, output_dir, workers=1)  # the second trial begins when the first has ended
    assert summary.complete
    client = MlflowClient(f"sqlite:///{output_dir / 'mlflow.db'}")
    (experiment,) = [e.experiment_id for e in client.search_experiments() if e.name == "stand-in"]
    trials = client.search_runs([experiment], "tags.phase = 'search'", order_by=["tags.trial_key"])
    assert len(trials) == 2
    trained = [len(children(client, run.info.run_id)) for run in trials]
    pruned = [run.data.tags["outcome"] == "pruned" for run in trials]
    assert trained == [4 if given_up else 5 for given_up in pruned]
    record = json.loads(Path(client.download_artifacts(parent(client, experiment), "sweep/plan.json")).read_text())
    assert record["search"]["seeds_per_trial"] == 5
    # 2 trials of 5 seeds and 2 final runs of 400 tokens.
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        "4 runs = 1 cell x (2 search trials with seeds 77 to 81 each + 2 seeds at the best found); 4.8k tokens"
        in printed
    )
    folder = "search/scheme=resnet"
    assert {file.path for file in client.list_artifacts(parent(client, experiment), folder)} == {
        f"{folder}/{name}.png" for name in ("history", "slice", "intermediate")
    }


def parent(client: MlflowClient, experiment: str) -> str:
    (run,) = client.search_runs([experiment], "tags.`resbench.kind` = 'sweep'")
    return str(run.info.run_id)
