"""A search trial trained with several seeds, one after the other, in one process.

Each seed is a training run with an MLflow run of its own, below the trial's. The trial's run holds what the search sees: the mean of the final
losses so far, and the largest value over seeds of each metric that the search bounds. After each seed the sweep is told that seed's loss and may give
the trial up. A seed that diverges or runs out of memory ends the trial: its hyper-parameters are not stable.

A trial that was interrupted goes on with the seed it was in, from that run's last checkpoint; seeds that have a result are not trained again.
"""

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from resbench.harness import names
from resbench.harness.store import brief_requests, open_store
from resbench.sweeps.spec import Search
from resbench.sweeps.target import Target, load
from resbench.sweeps.yamlfile import dump

if TYPE_CHECKING:
    from resbench.harness.fit import RunResult

TRIAL_TAG = "resbench.trial_run"
_PARENT_TAG, _NAME_TAG = "mlflow.parentRunId", "mlflow.runName"


@dataclass(frozen=True)
class _Order:
    """``bounded``: metrics of which the trial's run gets the largest value."""

    target: Target
    seeds: Sequence[int]
    bounded: Sequence[str]


def wrap(target: Target, search: Search) -> Target:
    """``target`` repeated with each of the trial's seeds."""
    order = _Order(target, search.trial_seeds, sorted(search.constraints))
    return Target("resbench.sweeps.over_seeds:fit", json.dumps(asdict(order)))


def fit(
    argv: list[str],
    *,
    tags: dict[str, str] | None = None,
    run_id: str | None = None,
    on_validation: Callable[[int, float], None] | None = None,
) -> "RunResult":
    """`resbench.harness.fit.fit` for each seed.

    argv: the order as JSON, ``--config`` and a configuration file. on_validation: called with (place of the seed, its final loss).
    """
    from resbench.harness.fit import Pruned

    assert run_id is not None
    given = json.loads(argv[0])
    order = _Order(Target(**given["target"]), given["seeds"], given["bounded"])
    file = Path(argv[2])
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    train = load(order.target)
    with brief_requests():
        client = open_store(config["tracking"]["uri"])
        losses: list[float] = []
        tokens = 0
        for place, seed in enumerate(order.seeds):
            own = file.with_name(f"{file.stem}-seed={seed}.yaml")
            own.write_text(dump({**config, "seed_everything": seed}), encoding="utf-8")
            child = _child(client, run_id, seed, tags or {})
            if child.data.tags.get(names.TAG_OUTCOME) not in ("complete", "diverged", "oom"):
                train(["--config", str(own)], run_id=child.info.run_id, tags=_tags(run_id, seed, tags or {}))
                child = client.get_run(child.info.run_id)
            outcome: Any = child.data.tags[names.TAG_OUTCOME]
            tokens += int(child.data.metrics.get(names.PROGRESS_TOKENS, 0))
            _note_largest(client, run_id, child, order.bounded, tokens)
            if outcome != "complete":
                return _end(client, run_id, outcome, None, tokens, f"with seed {seed}")
            losses.append(child.data.metrics[names.VAL_LOSS])
            mean = statistics.fmean(losses)
            client.log_metric(run_id, names.VAL_LOSS, mean, step=tokens)
            client.log_metric(run_id, names.PROGRESS_TOKENS, tokens, step=tokens)
            try:
                if on_validation is not None:
                    on_validation(place, losses[-1])
            except Pruned:
                return _end(client, run_id, "pruned", mean, tokens, f"given up after {place + 1} seeds")
        return _end(client, run_id, "complete", statistics.fmean(losses), tokens, "")


def _child(client: MlflowClient, trial: str, seed: int, tags: dict[str, str]) -> Run:
    """The MLflow run of one seed, created if there is none."""
    experiment = client.get_run(trial).info.experiment_id
    query = f"tags.`{TRIAL_TAG}` = '{trial}' and tags.{names.TAG_SEED} = '{seed}'"
    found = client.search_runs([experiment], query)
    return found[0] if found else client.create_run(experiment, tags=_tags(trial, seed, tags))


def _tags(trial: str, seed: int, tags: dict[str, str]) -> dict[str, str]:
    """Neither the study nor the key of the trial: whoever counts a sweep's runs counts the trial once."""
    title = f"{tags.get(_NAME_TAG, 'trial')}, seed {seed}"
    return {TRIAL_TAG: trial, _PARENT_TAG: trial, _NAME_TAG: title, names.TAG_SEED: str(seed)}


def _note_largest(client: MlflowClient, trial: str, child: Run, metrics: Sequence[str], tokens: int) -> None:
    earlier = client.get_run(trial).data.metrics
    for metric in metrics:
        value = child.data.metrics.get(metric)
        if value is not None:
            client.log_metric(trial, metric, max(value, earlier.get(metric, value)), step=tokens)


def _end(
    client: MlflowClient, run_id: str, outcome: names.Outcome, loss: float | None, tokens: int, why: str
) -> "RunResult":
    from resbench.harness.fit import RunResult

    client.set_tag(run_id, names.TAG_OUTCOME, outcome)
    if why:
        client.set_tag(run_id, names.TAG_REASON, why)
    client.set_terminated(run_id, "KILLED" if outcome == "pruned" else "FINISHED")
    return RunResult(run_id, outcome, loss, tokens)
