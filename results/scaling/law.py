"""The law L(N, D) = E + A / N^alpha + B / D^beta, fitted as Hoffmann et al. 2022 (arXiv 2203.15556, section 3.3) do.

The objective is the Huber loss (delta 1e-3) between the logarithm of the measured loss and the log-sum-exp of the law's three
terms. Besiroglu et al. 2024 (arXiv 2404.10102) traced the published fit's errors to an optimizer that stopped early because
the objective was averaged; here it is summed and divided by delta^2, so that tolerances mean the same for any data.

One fit is L-BFGS from many starts. A bootstrap needs hundreds of fits close to a known one: those are Levenberg-Marquardt
with Huber weights, all resamples at once; both minimise the same function, and a test holds them to it.

Coverage of the 95 % percentile intervals, measured over 300 simulations of 60 runs (five sizes from 1M to 30M parameters, 5 to 40 tokens
per parameter, three seeds, noise of 0.3 %, 200 resamples): E 98.7 %, A 96.3 %, B, alpha and beta 97.0 %, the loss of a model twice
the largest 96.7 %. That is with seeds as the only noise and the law true.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

DELTA = 1e-3
"""Where the Huber loss turns from squared to absolute, in ln(loss)."""

STARTS = 12
"""Starts that are optimised: those of the grid with the lowest objective."""

FEWEST_POINTS = 6
"""Distinct (N, D): one more than the law has parameters."""

FEWEST_VALUES = 3
"""Distinct values of N and of D: a term A / N^alpha beside a constant needs three."""

MOST_COLLINEAR = 0.98
"""Largest squared correlation of ln N and ln D at which their terms can be told apart."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Law:
    """L(N, D) = E + A / N^alpha + B / D^beta; E in nats/token, N in parameters, D in tokens."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, params: Array | float, tokens: Array | float) -> Array:
        """The law's loss, nats/token."""
        return np.asarray(self.E + self.A / np.power(params, self.alpha) + self.B / np.power(tokens, self.beta))

    @property
    def exponent(self) -> float:
        """a in N_opt ~ C^a where C ~ N D: beta / (alpha + beta)."""
        return self.beta / (self.alpha + self.beta)


@dataclass(frozen=True)
class Fit:
    """A law with what is known about how it was found.

    `objective` is the summed Huber loss over delta^2; `agreeing` of `starts` optimised starts ended within 1e-4 of it (relative).
    `samples` are laws fitted to bootstrap resamples of the runs, one a row: E, A, B, alpha, beta.
    """

    law: Law
    objective: float
    starts: int
    agreeing: int
    residuals: Array
    samples: Array

    def interval(self, name: str, confidence: float = 0.95) -> tuple[float, float] | None:
        """Percentile interval of a parameter over the bootstrap; None without one."""
        if not len(self.samples):
            return None
        column = self.samples[:, ["E", "A", "B", "alpha", "beta"].index(name)]
        low, high = np.quantile(column, [(1 - confidence) / 2, (1 + confidence) / 2])
        return float(low), float(high)

    def prediction(self, params: float, tokens: float, confidence: float = 0.95) -> tuple[float, float] | None:
        """Percentile interval of the law's loss at a point: of the law, not of a single run."""
        if not len(self.samples):
            return None
        E, A, B, alpha, beta = self.samples.T
        losses = E + A / params**alpha + B / tokens**beta
        low, high = np.quantile(losses, [(1 - confidence) / 2, (1 + confidence) / 2])
        return float(low), float(high)


def why_not(params: Array, tokens: Array) -> str:
    """Why these sizes and budgets cannot identify the law, in a sentence; empty when they can."""
    points = {(float(n), float(d)) for n, d in zip(params, tokens, strict=True)}
    sizes, budgets = {n for n, _ in points}, {d for _, d in points}
    if min(len(sizes), len(budgets)) >= FEWEST_VALUES:
        log_n, log_d = np.log(np.array(sorted(points)).T)
        collinear = float(np.corrcoef(log_n, log_d)[0, 1] ** 2)
        if collinear > MOST_COLLINEAR:
            return (
                f"tokens grow in step with parameters (squared correlation of their logarithms {collinear:.3f}), so what size does and "
                "what data does cannot be told apart: train some sizes on shorter and longer budgets too"
            )
    if len(points) < FEWEST_POINTS or min(len(sizes), len(budgets)) < FEWEST_VALUES:
        return (
            f"{len(sizes)} sizes and {len(budgets)} token budgets in {len(points)} combinations: the law's five parameters need at least "
            f"{FEWEST_VALUES} of each in {FEWEST_POINTS} combinations"
        )
    return ""


def fit(params: Array, tokens: Array, losses: Array, *, resamples: int = 0, seed: int = 0) -> Fit:
    """Fit the law to one final loss per run, and to `resamples` bootstrap resamples of the runs.

    Args:
        params, tokens, losses: [runs]; parameters, training tokens, nats/token. All positive and finite.
        resamples: bootstrap resamples; those that cannot identify the law are drawn again.
        seed: of the resampling.

    Raises ValueError for numbers that are not positive and finite, and for a design that `why_not` refuses.
    """
    params, tokens, losses = (np.asarray(values, dtype=np.float64) for values in (params, tokens, losses))
    for name, values in (("params", params), ("tokens", tokens), ("losses", losses)):
        if not (np.isfinite(values) & (values > 0)).all():
            raise ValueError(f"{name}: {values[~(np.isfinite(values) & (values > 0))][:3]} must be positive and finite")
    if reason := why_not(params, tokens):
        raise ValueError(f"cannot fit L(N, D): {reason}")
    x, y, target = np.log(params), np.log(tokens), np.log(losses)
    centre = float(x.mean()), float(y.mean())
    x, y = x - centre[0], y - centre[1]
    grid = _grid(losses)
    scores = _objective(grid, x, y, target, np.ones((1, len(x))))
    best = [
        optimize.minimize(
            _value_and_gradient,
            grid[start],
            args=(x, y, target),
            jac=True,
            method="L-BFGS-B",
            options={"ftol": 1e-15, "gtol": 1e-9, "maxiter": 5000, "maxfun": 20000, "maxcor": 20},
        )
        for start in np.argsort(scores, kind="stable")[:STARTS]
    ]
    chosen = min(best, key=lambda found: float(found.fun))
    # The last digits of the minimum, where L-BFGS's line search runs out of precision.
    theta = _many(chosen.x[None], x, y, target, np.ones((1, len(x))))[0]
    objective = float(_objective(theta[None], x, y, target, np.ones((1, len(x))))[0])
    agreeing = sum(float(found.fun) <= objective * (1 + 1e-4) + 1e-9 for found in best)
    samples = np.empty((0, 5))
    if resamples:
        weights = _resampled(params, tokens, resamples, np.random.default_rng(seed))
        samples = _laws(_many(np.repeat(theta[None], resamples, axis=0), x, y, target, weights), centre)
    law = Law(*(float(value) for value in _laws(theta[None], centre)[0]))
    return Fit(law, objective, len(best), agreeing, target - np.log(law.loss(params, tokens)), samples)


def _grid(losses: Array) -> Array:
    """Starts [starts, 5] as (e, a, b, alpha, beta) about the centre of the data: floors, splits of the rest, and exponents."""
    typical, lowest = float(np.exp(np.log(losses).mean())), float(losses.min())
    starts = []
    for floor, share, alpha, beta in product(
        (0.1, 0.4, 0.65, 0.85, 0.95), (0.2, 0.5, 0.8), (0.1, 0.25, 0.4, 0.7, 1.2), (0.1, 0.25, 0.4, 0.7, 1.2)
    ):
        rest = max(typical - floor * lowest, 1e-9)
        starts.append((np.log(floor * lowest), np.log(share * rest), np.log((1 - share) * rest), alpha, beta))
    return np.array(starts)


def _terms(theta: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """ln of the law [fits, runs], and each term's share of it [3, fits, runs]."""
    e, a, b, alpha, beta = (theta[:, i, None] for i in range(5))
    terms = np.stack([np.broadcast_to(e, (len(theta), len(x))), a - alpha * x, b - beta * y])
    total = special.logsumexp(terms, axis=0)
    return total, np.exp(terms - total)


def _objective(theta: Array, x: Array, y: Array, target: Array, weights: Array) -> Array:
    residual = _terms(theta, x, y)[0] - target
    return np.asarray((weights * special.huber(DELTA, residual)).sum(axis=1) / DELTA**2)


def _value_and_gradient(theta: Array, x: Array, y: Array, target: Array) -> tuple[float, Array]:
    total, (p0, p1, p2) = _terms(theta[None], x, y)
    residual = (total - target)[0]
    slope = np.clip(residual, -DELTA, DELTA) / DELTA**2
    gradient = np.stack([p0[0], p1[0], p2[0], -p1[0] * x, -p2[0] * y]) @ slope
    return float(special.huber(DELTA, residual).sum() / DELTA**2), gradient


def _many(theta: Array, x: Array, y: Array, target: Array, weights: Array, steps: int = 200) -> Array:
    """The minimum near each start: theta [fits, 5], weights [fits, runs]. Levenberg-Marquardt; a step that does not help is not taken."""
    theta = theta.copy()
    damping = np.full(len(theta), 1e-3)
    value = _objective(theta, x, y, target, weights)
    active = np.ones(len(theta), dtype=bool)
    for _ in range(steps):
        index = np.flatnonzero(active)
        if not len(index):
            break
        total, (p0, p1, p2) = _terms(theta[index], x, y)
        residual = total - target
        jacobian = np.stack([p0, p1, p2, -p1 * x, -p2 * y], axis=1)  # [fits, 5, runs]
        scale = weights[index] / np.maximum(np.abs(residual), DELTA) / DELTA
        weighted = jacobian * scale[:, None, :]
        hessian = weighted @ jacobian.transpose(0, 2, 1)
        gradient = (weighted @ residual[..., None])[..., 0]
        diagonal = np.einsum("fii->fi", hessian) + 1e-12
        damped = hessian + (damping[index, None] * diagonal)[:, :, None] * np.eye(5)
        trial = theta[index] - np.linalg.solve(damped, gradient[..., None])[..., 0]
        trial[:, 3:] = np.clip(trial[:, 3:], -1.0, 5.0)
        after = _objective(trial, x, y, target, weights[index])
        better = after < value[index]
        gained = value[index] - after
        taken = index[better]
        theta[taken], damping[taken] = trial[better], np.maximum(damping[taken] / 5, 1e-12)
        damping[index[~better]] *= 8
        active[taken[gained[better] < 1e-9 * (1 + after[better])]] = False
        active[damping > 1e8] = False
        value[taken] = after[better]
    return theta


def _resampled(params: Array, tokens: Array, resamples: int, generator: np.random.Generator) -> Array:
    """How often each run is in each resample [resamples, runs]; a resample that cannot identify the law is drawn again."""
    runs, kept = len(params), []
    for _ in range(50 * resamples):
        counts = generator.multinomial(runs, np.full(runs, 1 / runs))
        if not why_not(params[counts > 0], tokens[counts > 0]):
            kept.append(counts)
            if len(kept) == resamples:
                return np.array(kept, dtype=np.float64)
    raise ValueError(
        f"cannot bootstrap L(N, D): fewer than {resamples} of {50 * resamples} resamples of the {runs} runs can identify "
        "the law; add sizes, budgets or seeds"
    )


def _laws(theta: Array, centre: tuple[float, float]) -> Array:
    """(e, a, b, alpha, beta) about the centre -> (E, A, B, alpha, beta) of N and D themselves."""
    e, a, b, alpha, beta = theta.T
    return np.stack([np.exp(e), np.exp(a + alpha * centre[0]), np.exp(b + beta * centre[1]), alpha, beta], axis=1)
