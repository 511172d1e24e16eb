"""What more streams and more Sinkhorn iterations do to the loss, and which size is best at a fixed compute.

The effect is the slope of the loss on log2 of the factor, taken seed by seed and averaged with a t interval: nats/token for each
doubling. It supposes nothing but that seeds are exchangeable; whether a straight line is right shows in the levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from resbench.results.cells import GROUP, UNSEEDED
from resbench.results.scaling.points import Point
from resbench.results.statistics import Comparison, Estimate, holm, mean_interval, paired_difference

FACTORS = {"n_streams": "sinkhorn_iterations", "sinkhorn_iterations": "n_streams"}
"""Factor -> the other one, which is held fixed."""

FEWEST_SIZES = 3
"""Sizes at one compute that a parabola needs."""

SAME_COMPUTE = 0.1
"""Neighbouring runs whose ln FLOPs differ by less are at the same compute."""


@dataclass(frozen=True)
class Level:
    """One value of the factor: its loss, and the paired difference to the smallest value, Holm-corrected over the values."""

    value: int
    loss: Estimate
    comparison: Comparison | None
    p_holm: float | None


@dataclass(frozen=True)
class Effect:
    """Slope of the loss on log2(factor), nats/token a doubling, over the seeds that have every level."""

    factor: str
    scheme: str
    where: str
    slope: Estimate
    p: float | None
    levels: list[Level]


@dataclass(frozen=True)
class IsoFlop:
    """Loss over size at one compute: ln loss by (parameters, loss), and the minimum of its parabola in ln N, if it has one inside."""

    label: str
    flops: float
    sizes: list[tuple[float, float]]
    coefficients: tuple[float, float, float]
    best_params: float | None
    interval: tuple[float, float] | None
    best_loss: float | None


def effects(runs: pd.DataFrame) -> list[Effect]:
    """The effect of each factor wherever one scheme was trained with two values of it or more, all else equal."""
    found = []
    for factor, other in FACTORS.items():
        of_factor = runs[runs[factor].notna()]
        for keys, members in of_factor.groupby([*GROUP, "scheme", other], dropna=False, sort=False):
            cells = members.groupby(factor)["cell"].nunique()
            if len(cells) < 2 or cells.max() > 1:
                continue  # one value, or variants of the scheme that the factor does not tell apart
            values: dict[str, Any] = dict(zip([*GROUP, "scheme", other], keys, strict=True))
            varies = runs.loc[runs["scheme"] == values["scheme"], other].nunique() > 1
            where = ", ".join(
                [
                    str(values["size"]),
                    *([str(values["setting"])] if values["setting"] else []),
                    f"{int(values['budget_tokens']):,} tokens",
                ]
                + ([f"{other} {int(values[other])}"] if varies and pd.notna(values[other]) else [])
            )
            found.append(_effect(members, factor, str(values["scheme"]), where))
    return found


def _effect(runs: pd.DataFrame, factor: str, scheme: str, where: str) -> Effect:
    losses: dict[int, dict[int, float]] = {}
    for value, seed, loss in zip(runs[factor], runs["seed"].fillna(UNSEEDED), runs["val_loss"], strict=True):
        losses.setdefault(int(value), {})[int(seed)] = float(loss)
    values = sorted(losses)
    common = sorted(set.intersection(*(set(by_seed) for by_seed in losses.values())))
    x = np.log2(np.array(values, dtype=np.float64))
    slopes = {seed: float(np.polyfit(x, [losses[value][seed] for value in values], 1)[0]) for seed in common}
    tested = paired_difference(slopes, dict.fromkeys(common, 0.0))
    comparisons = [paired_difference(losses[value], losses[values[0]]) for value in values[1:]]
    corrected = holm([comparison.p for comparison in comparisons])
    levels = [Level(values[0], mean_interval(list(losses[values[0]].values())), None, None)]
    levels += [
        Level(value, mean_interval(list(losses[value].values())), comparison, p)
        for value, comparison, p in zip(values[1:], comparisons, corrected, strict=True)
    ]
    return Effect(factor, scheme, where, tested.difference, tested.p, levels)


def iso_flops(label: str, cells: Sequence[Point], resamples: int = 500, seed: int = 0) -> list[IsoFlop]:
    """The IsoFLOP curves in a scheme's cells (their cost in FLOPs): every group of cells at one compute with three sizes or more."""
    known = sorted((cell for cell in cells if math.isfinite(cell.mean[0])), key=lambda cell: cell.mean[0])
    groups: list[list[Point]] = []
    for cell in known:
        if groups and cell.mean[0] - groups[-1][-1].mean[0] < SAME_COMPUTE:
            groups[-1].append(cell)
        else:
            groups.append([cell])
    return [
        _iso_flop(label, group, resamples, seed)
        for group in groups
        if len({cell.size for cell in group}) >= FEWEST_SIZES
    ]


def _iso_flop(label: str, cells: Sequence[Point], resamples: int, seed: int) -> IsoFlop:
    x = np.log([cell.params for cell in cells])
    y = np.array([cell.mean[1] for cell in cells])
    parabola = np.polyfit(x, y, 2)
    vertex = _vertex(parabola, x)
    interval = None
    if vertex is not None and all(len(cell.log_loss) > 1 for cell in cells):
        generator = np.random.default_rng(seed)
        samples = []
        for _ in range(resamples):
            drawn = []
            for cell, mean in zip(cells, y, strict=True):
                own = np.array(list(cell.log_loss.values()))
                widened = math.sqrt(len(own) / (len(own) - 1))
                drawn.append(mean + widened * (own[generator.integers(len(own), size=len(own))].mean() - mean))
            found = _vertex(np.polyfit(x, drawn, 2), x)
            samples.append(math.nan if found is None else found)
        # Resamples without a minimum inside say the minimum may be anywhere: then there is no interval.
        if np.isfinite(samples).all():
            low, high = np.exp(np.quantile(samples, [0.025, 0.975]))
            interval = float(low), float(high)
    return IsoFlop(
        label,
        float(np.exp(np.mean([cell.mean[0] for cell in cells]))),
        sorted((cell.params, math.exp(cell.mean[1])) for cell in cells),
        (float(parabola[0]), float(parabola[1]), float(parabola[2])),
        None if vertex is None else math.exp(vertex),
        interval,
        None if vertex is None else float(np.exp(np.polyval(parabola, vertex))),
    )


def _vertex(parabola: np.ndarray, x: np.ndarray) -> float | None:
    """Where the parabola is lowest, if that is within the sizes measured."""
    if parabola[0] <= 0:
        return None
    lowest = float(-parabola[1] / (2 * parabola[0]))
    return lowest if x.min() <= lowest <= x.max() else None
