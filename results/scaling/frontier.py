"""Power laws L = A C^-a along the frontier of what runs cost, and how many times more resnet must spend for the same loss.

The frontier of a scheme is its cells that no other of its cells beats at no higher cost. The multiplier at a loss L is
C_resnet(L) / C_scheme(L), and holds only for losses both frontiers reached. Intervals come from resampling seeds within each
cell, the same seeds for both schemes, since they share initial weights and data order; because a cell has few seeds,
deviations are widened by sqrt(n / (n - 1)) and the spread by Student's t on the seeds' degrees of freedom. They tell the noise of
seeds, not whether a power law is the right form: `misfit` is for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from resbench.results.scaling.points import Array, Point

FEWEST = 3
"""Points a frontier needs: two fix a line and leave nothing to doubt it by."""

LEAST_SPAN = 1.5
"""Dearest over cheapest cost of a frontier: over less, the exponent is that of whatever else changed."""


@dataclass(frozen=True)
class PowerLaw:
    """L = A C^-a between the costs `low` and `high`; `misfit` is the largest |ln measured - ln fitted| of a point on the frontier."""

    A: float
    a: float
    interval: tuple[float, float] | None
    low: float
    high: float
    misfit: float
    points: int

    def loss(self, cost: Array | float) -> Array:
        """nats/token."""
        return np.asarray(self.A * np.power(cost, -self.a))

    def cost(self, loss: float) -> float:
        """The cost at which the law has this loss."""
        return float((self.A / loss) ** (1 / self.a))


@dataclass(frozen=True)
class Multiplier:
    """How many times the scheme's cost the reference spends for a loss. Above 1 the scheme saves.

    `best` and `worst` are the losses (nats/token) that bound the range in which both laws were measured, `at_best` and `at_worst` the
    multipliers there, `value` that in the middle of the range (of ln loss), with its interval.
    """

    value: float
    interval: tuple[float, float] | None
    at_best: float
    at_worst: float
    best: float
    worst: float


def frontier(cells: Sequence[Point]) -> list[Point]:
    """The cells that no other cell beats at no higher cost, from cheap to dear; those of unknown cost are left out."""
    known = sorted((cell for cell in cells if np.isfinite(cell.mean[0])), key=lambda cell: cell.mean)
    kept: list[Point] = []
    for cell in known:
        if not kept or cell.mean[1] < kept[-1].mean[1]:
            kept.append(cell)
    return kept


def power_law(cells: Sequence[Point], resamples: int = 1000, seed: int = 0) -> PowerLaw | str:
    """The law along the frontier of these cells, or why there is none."""
    front = frontier(cells)
    if len(front) < FEWEST:
        return f"{len(front)} point(s) on the frontier of cost and loss; a power law needs {FEWEST} or more"
    if reason := _hardly_varies([front]):
        return reason
    cost, loss = np.array([point.mean for point in front]).T
    slope, level = np.polyfit(cost, loss, 1)
    if slope >= 0:
        return "loss does not fall with cost"
    draws = _draws([front], resamples, seed)
    slopes = None if draws is None else np.array([_line(draws[0][i])[0] for i in range(resamples)])
    return PowerLaw(
        float(np.exp(level)),
        float(-slope),
        None if slopes is None else _interval(-slope, -slopes, _freedom([front])),
        float(np.exp(cost.min())),
        float(np.exp(cost.max())),
        float(np.abs(loss - (level + slope * cost)).max()),
        len(front),
    )


def multiplier(
    scheme: Sequence[Point], reference: Sequence[Point], resamples: int = 1000, seed: int = 0
) -> Multiplier | str:
    """The multiplier of a scheme over the reference, or why there is none."""
    fronts = [frontier(scheme), frontier(reference)]
    short = [len(front) for front in fronts if len(front) < FEWEST]
    if short:
        return f"{short[0]} point(s) on a frontier of cost and loss; a multiplier needs {FEWEST} or more on both"
    if reason := _hardly_varies(fronts):
        return reason
    means = [np.array([point.mean for point in front]) for front in fronts]
    best = max(float(mean[:, 1].min()) for mean in means)
    worst = min(float(mean[:, 1].max()) for mean in means)
    if best >= worst:
        return "the schemes reached no loss in common"
    lines = [_line(mean) for mean in means]
    if any(slope >= 0 for slope, _ in lines):
        return "loss does not fall with cost"
    middle = (best + worst) / 2
    value = _log_ratio(lines, middle)
    draws = _draws(fronts, resamples, seed)
    interval = None
    if draws is not None:
        samples = np.array([_log_ratio([_line(draw[i]) for draw in draws], middle) for i in range(resamples)])
        low, high = _interval(value, samples, _freedom(fronts))
        interval = float(np.exp(low)), float(np.exp(high))
    return Multiplier(
        float(np.exp(value)),
        interval,
        float(np.exp(_log_ratio(lines, best))),
        float(np.exp(_log_ratio(lines, worst))),
        float(np.exp(best)),
        float(np.exp(worst)),
    )


def _hardly_varies(fronts: Sequence[Sequence[Point]]) -> str:
    """Why there is no law of a cost that stays about the same while the loss falls, as the memory of one size does with its budget."""
    span = min(float(np.exp(front[-1].mean[0] - front[0].mean[0])) for front in fronts)
    return (
        ""
        if span >= LEAST_SPAN
        else f"the cost varies by a factor of {span:.3g} only along the frontier; a power law needs {LEAST_SPAN:g}"
    )


def _line(means: Array) -> tuple[float, float]:
    """Slope and level of ln loss on ln cost by least squares."""
    x, y = means[:, 0], means[:, 1]
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    return slope, float(y.mean() - slope * x.mean())


def _log_ratio(lines: Sequence[tuple[float, float]], log_loss: float) -> float:
    """ln(C_reference / C_scheme) at a loss; lines of (scheme, reference)."""
    own, other = ((log_loss - level) / slope for slope, level in lines)
    return other - own


def _draws(fronts: Sequence[Sequence[Point]], resamples: int, seed: int) -> list[Array] | None:
    """Means (ln cost, ln loss) of resampled seeds, [resamples, points, 2] for each front; None where a cell has one seed.

    The draw of a cell's seeds depends on its size, budget and seeds alone, so that the same cell of two schemes is drawn alike.
    """
    if any(len(point.log_loss) < 2 for front in fronts for point in front):
        return None
    drawn: dict[tuple[str, float, tuple[int, ...]], NDArray[np.int64]] = {}
    generator = np.random.default_rng(seed)
    found = []
    for front in fronts:
        columns = []
        for point in front:
            seeds = tuple(sorted(point.log_loss))
            key = (point.size, point.tokens, seeds)
            if key not in drawn:
                drawn[key] = generator.integers(len(seeds), size=(resamples, len(seeds)))
            values = np.array([(point.log_cost[s], point.log_loss[s]) for s in seeds])
            mean = values.mean(axis=0)
            widened = np.sqrt(len(seeds) / (len(seeds) - 1))
            columns.append(mean + widened * (values[drawn[key]].mean(axis=1) - mean))
        found.append(np.stack(columns, axis=1))
    return found


def _freedom(fronts: Sequence[Sequence[Point]]) -> int:
    """Degrees of freedom of the seeds: those of the cells of the front that has fewer."""
    return min(sum(len(point.log_loss) - 1 for point in front) for front in fronts)


def _interval(value: float, samples: Array, freedom: int, confidence: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the samples, widened about the value by Student's t over the normal's."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    wider = float(stats.t.ppf(1 - tail, freedom) / stats.norm.ppf(1 - tail))
    return float(value + wider * (low - value)), float(value + wider * (high - value))
