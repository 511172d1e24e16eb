"""Simulated sweeps: real MLflow runs with the names that training logs, and numbers whose truth is known."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

BUDGET = 100_000
VALIDATIONS = 10
PARAMS = {"100k": 103_000, "400k": 412_000, "1m": 1_050_000, "3m": 3_100_000}
DEPTH = {"100k": 4, "400k": 6, "1m": 8, "3m": 12}
START = 1_700_000_000_000
UNIGRAM = 4.61

SCRIPT = "<script>alert(1)</script>"
MARKUP = 'a | b `c` *d* "e" $\\frac{ & <img src=x onerror=alert(2)>'
ESCAPES = "m²\x1b[31m\u202egnp"
"""Names that would like to be code: in HTML, in everything else, and in a terminal (red from here on, and backwards)."""


@dataclass(frozen=True)
class Store:
    """A tracking URI and a client for it."""

    uri: str
    client: MlflowClient


@dataclass(frozen=True)
class Scheme:
    """What a simulated scheme does: its true difference in loss to resnet, throughput relative to it, gain per sublayer."""

    name: str
    label: str | None = None
    effect: float = 0.0
    speed: float = 1.0
    gain: float | None = None
    n_streams: int | None = None
    iterations: int | None = None
    fields: dict[str, str] = field(default_factory=dict)


RESNET = Scheme("resnet", gain=1.0)
HC = Scheme("hc", effect=-0.012, speed=0.81, gain=1.09, n_streams=4)
MHC = Scheme("mhc", effect=-0.030, speed=0.72, gain=1.004, n_streams=4, iterations=20)
IDENTITY = Scheme("identity-hc", effect=-0.028, speed=0.86, gain=1.0, n_streams=4)
DEMO = (RESNET, HC, MHC, IDENTITY)


def simulate_run(
    client: MlflowClient,
    experiment: str,
    scheme: Scheme,
    *,
    size: str = "100k",
    seed: int = 0,
    study: str | None = "demo",
    phase: str = "final",
    outcome: str = "complete",
    setting: str = "",
    start: int = START,
    noise: float = 0.002,
    tags: dict[str, str] | None = None,
) -> str:
    """One finished run (or one cut short, for the other outcomes); its id. The seed's own luck is shared by all schemes."""
    shared, own = random.Random(f"{size} {seed}"), random.Random(f"{scheme} {size} {seed} {setting}")
    parts = [
        f"scheme={scheme.label or scheme.name}",
        f"size={size}",
        *(f"scheme.{k}={v}" for k, v in scheme.fields.items()),
    ]
    cell = ",".join([*parts, setting] if setting else parts)
    connection = connection_params(scheme, size)
    run_tags = {
        "scheme": scheme.name,
        "size": size,
        "seed": str(seed),
        "cell": cell,
        "phase": phase,
        "task": "python-source",
        "outcome": outcome,
        "hardware": "simulated CPU",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "dirty": "false",
        "config_hash": hashlib.sha256(cell.encode()).hexdigest(),
        "data_fingerprint": "d" * 64,
        "torch": "2.13.0",
        "resbench_version": "0.1.0",
        "trial_key": f"{cell},seed={seed}",
    }
    if study:
        run_tags["study"] = study
    if scheme.n_streams:
        run_tags["n_streams"] = str(scheme.n_streams)
    if scheme.iterations:
        run_tags["sinkhorn_iterations"] = str(scheme.iterations)
    if outcome == "diverged":
        run_tags["diverged_at_tokens"] = str(BUDGET // 2)
    if outcome == "failed":
        run_tags["error"] = "RuntimeError: simulated"
    run = client.create_run(experiment, start_time=start, tags=run_tags | (tags or {}), run_name=f"{cell} seed={seed}")
    params = {
        "params_total": PARAMS[size] + connection,
        "params_connection": connection,
        "params_branches": PARAMS[size],
        "flops_per_token": 6 * (PARAMS[size] + connection),
        "data_unigram_bits_per_byte": UNIGRAM,
        "depth": DEPTH[size],
        "width": 48,
        "budget.tokens": BUDGET,
        "model.learning_rate": 0.003,
    }
    metrics = list(_history(scheme, size, outcome, shared.gauss(0, 0.02), own, noise, start))
    client.log_batch(run.info.run_id, metrics=metrics, params=[Param(key, str(value)) for key, value in params.items()])
    if outcome == "complete" and scheme.gain is not None:
        client.log_text(
            run.info.run_id, json.dumps(_profile(scheme.gain, 2 * DEPTH[size], own)), "stability/profile.json"
        )
    if outcome != "running":
        status = {"failed": "FAILED", "pruned": "KILLED"}.get(outcome, "FINISHED")
        client.set_terminated(run.info.run_id, status, end_time=start + 60_000)
    return str(run.info.run_id)


def simulate_sweep(
    client: MlflowClient,
    name: str,
    schemes: Iterable[Scheme] = DEMO,
    sizes: Iterable[str] = ("100k", "400k"),
    seeds: Iterable[int] = (0, 1, 2),
    artifacts: str | None = None,
    setting: str = "",
) -> str:
    """A sweep as `resbench sweep run` leaves it: a parent run and a complete final run for every cell and seed."""
    known = client.get_experiment_by_name(name)
    experiment = known.experiment_id if known else client.create_experiment(name, artifact_location=artifacts)
    parent = client.create_run(experiment, run_name=name, tags={"resbench.kind": "sweep", "study": name})
    client.set_terminated(parent.info.run_id)
    child = {"mlflow.parentRunId": parent.info.run_id}
    for size in sizes:
        for scheme in schemes:
            for seed in seeds:
                simulate_run(client, experiment, scheme, size=size, seed=seed, study=name, setting=setting, tags=child)
    return str(experiment)


def connection_params(scheme: Scheme, size: str) -> int:
    """Parameters of a simulated scheme's residual connections."""
    return 0 if scheme.name == "resnet" else 24 * DEPTH[size] * 130


def true_loss(scheme: Scheme, size: str, tokens: int) -> float:
    """The loss a run would have without noise, nats/token: falling with tokens and size, plus the scheme's effect."""
    return (
        1.2
        + 4.3 * (1 + tokens / 4000) ** -0.45
        - 0.12 * math.log(PARAMS[size] / 1e5)
        + scheme.effect * min(1, tokens / (BUDGET / 2))
    )


def sinkhorn_error(iterations: int) -> float:
    """The column error that simulated mixing matrices are left with: a tenth of it goes with every five iterations."""
    return 0.3 * 10 ** (-iterations / 5)


def _history(
    scheme: Scheme, size: str, outcome: str, luck: float, own: random.Random, noise: float, start: int
) -> Iterable[Metric]:
    speed = 60_000 * scheme.speed / (PARAMS[size] / 1e5) ** 0.7 * math.exp(own.gauss(0, 0.02))
    last = VALIDATIONS if outcome == "complete" else VALIDATIONS // 2
    for position in range(1, last + 1):
        tokens = BUDGET * position // VALIDATIONS
        loss = true_loss(scheme, size, tokens) + luck + own.gauss(0, noise)
        if outcome == "diverged" and position == last:
            loss = math.nan
        values = {
            "train/loss": loss + own.gauss(0, 0.02),
            "val/loss": loss,
            "val/bits_per_byte": loss / math.log(2),
            "perf/tokens_per_s": speed,
            "perf/step_ms": 2048 / speed * 1e3,
            "mem/peak_gib": 0.4 + 4e-7 * PARAMS[size] * (1 + 0.1 * (scheme.n_streams or 0)) + own.gauss(0, 0.003),
            "stability/grad_norm": 0.8,
            "stability/gain_forward": (scheme.gain or 1.0) ** (2 * DEPTH[size]),
            "stability/gain_backward": (scheme.gain or 1.0) ** (2 * DEPTH[size]) * 1.1,
            "progress/tokens": tokens,
            "progress/flops": tokens * 6.0 * (PARAMS[size] + connection_params(scheme, size)),
            "progress/wall_s": tokens / speed,
        }
        if scheme.iterations:
            values |= {"stability/row_error": 0.0, "stability/column_error": sinkhorn_error(scheme.iterations)}
        for key, value in values.items():
            yield Metric(key, value, start + position * 1000, tokens)


def _profile(gain: float, sublayers: int, own: random.Random) -> dict[str, list[float]]:
    each = [gain * math.exp(own.gauss(0, 0.01 if gain != 1.0 else 0.0)) for _ in range(sublayers)]
    product = [math.prod(each[: i + 1]) for i in range(sublayers)]
    return {
        "sublayer": list(range(sublayers)),
        "gain_forward": each,
        "gain_backward": each,
        "composite_forward": product,
        "composite_backward": [value**1.1 for value in product],
        "row_error": [0.0] * sublayers,
        "column_error": [0.001] * sublayers,
    }
