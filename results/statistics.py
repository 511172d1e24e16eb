"""The statistics a comparison of schemes rests on, as pure functions of numbers.

Three ideas: a mean is given with its Student t interval, a scheme is compared with another one by the *paired* difference
over the seeds both finished (same seed, same initial branch weights, same data order), and every family of comparisons
is corrected with Holm's step-down procedure. One observation has no interval: it is None here, never zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import integrate, optimize, special, stats

CONFIDENCE = 0.95
"""Coverage of every interval this package prints."""

POWER = 0.8
"""Chance of detection at which the minimum detectable effect is stated."""

MARGIN = 0.01
"""Nats/token within which two schemes count as equal, unless told otherwise: half of the smallest effect the mHC paper claims (0.021)."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its t interval.

    `low` and `high` are None with fewer than two observations, `mean` too with none; `sd` is the sample standard
    deviation (n - 1). All in the unit of the observations.
    """

    mean: float | None
    low: float | None
    high: float | None
    sd: float | None
    n: int

    @property
    def half_width(self) -> float | None:
        """Half of the interval's length: what is printed behind a plus-minus sign."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


@dataclass(frozen=True)
class Comparison:
    """A difference of two means, `a - b`, with what is known about it.

    `p` is two-sided, for "the true difference is zero", before any correction. `detectable` is the smallest true
    difference that a test at the 5 % level on this many observations with this spread finds four times out of five.
    `equivalence` is a test of the opposite claim, "no difference".
    """

    difference: Estimate
    p: float | None
    detectable: float | None
    equivalence: Equivalence | None = None


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests (TOST) of "the true difference lies within plus or minus `margin`".

    `p` is the larger of the two one-sided p-values, before any correction. `within` is the smallest margin at which
    the same numbers would pass at the 5 % level: the end farther from zero of the 90 % t interval of the difference.
    Source: Schuirmann 1987, J. Pharmacokinet. Biopharm. 15(6).
    """

    margin: float
    p: float
    within: float


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """Mean and two-sided t interval of independent observations; non-finite ones are refused with a ValueError."""
    observed = np.asarray(values, dtype=np.float64)
    if not np.isfinite(observed).all():
        raise ValueError(
            f"cannot average {list(values)}: every observation must be finite (leave diverged runs out and count them)"
        )
    n = int(observed.size)
    if n == 0:
        return Estimate(None, None, None, None, 0)
    mean = float(observed.mean())
    if n == 1:
        return Estimate(mean, None, None, None, 1)
    sd = float(observed.std(ddof=1))
    half = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * sd / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, sd, n)


FEWEST_GROUPS = 3
"""Groups from which a mean over groups has an interval that takes them for a sample: two leave one degree of freedom."""


def group_means(groups: Sequence[Sequence[float]]) -> list[float]:
    """The observations to average over several groups: one of each group, or every single one where there are fewer than `FEWEST_GROUPS`.

    Seeds of one group share its size and its budget, and with these whatever makes the difference larger or smaller there. Taken for independent they
    give too narrow an interval where groups differ; means of groups do not, whatever the number of seeds in each. An empty group counts for nothing.
    """
    some = [group for group in groups if len(group)]
    if len(some) < FEWEST_GROUPS:
        return [value for group in some for value in group]
    return [float(np.mean(group)) for group in some]


def differences(a: Mapping[int, float], b: Mapping[int, float]) -> dict[int, float]:
    """`a - b` for each seed that both have, in the order of `a`."""
    return {seed: a[seed] - b[seed] for seed in a if seed in b}


def paired_difference(
    a: Mapping[int, float], b: Mapping[int, float], confidence: float = CONFIDENCE, margin: float = MARGIN
) -> Comparison:
    """`a - b` over the seeds that both have; a seed that only one of them finished makes no pair.

    Args:
        a: observation by seed, of the scheme in question.
        b: observation by seed, of the scheme it is compared with.
        confidence: coverage of the interval.
        margin: largest difference that counts as none, in the unit of the observations.
    """
    estimate = mean_interval(list(differences(a, b).values()), confidence)
    if estimate.mean is None or estimate.sd is None:
        return Comparison(estimate, None, None)
    return Comparison(
        estimate,
        _two_sided_p(estimate.mean, estimate.sd / math.sqrt(estimate.n), estimate.n - 1),
        detectable_difference(estimate.sd, estimate.n),
        equivalence(estimate.mean, estimate.sd, estimate.n, margin),
    )


def equivalence(mean: float, sd: float, n: int, margin: float, alpha: float = 1 - CONFIDENCE) -> Equivalence:
    """Whether the true mean behind `n` observations lies within plus or minus `margin`, by two one-sided t tests.

    Raises ValueError for fewer than two observations or a margin that is not a positive number.
    """
    if n < 2:
        raise ValueError(f"an equivalence test needs two observations or more, not {n}")
    if not 0 < margin < math.inf:
        raise ValueError(f"margin: {margin} is not a positive finite difference; give the largest that counts as none")
    error = sd / math.sqrt(n)
    if error == 0:
        return Equivalence(margin, 0.0 if abs(mean) < margin else 1.0, abs(mean))
    # The test against the nearer limit has the larger p.
    p = float(stats.t.sf((margin - abs(mean)) / error, n - 1))
    return Equivalence(margin, p, abs(mean) + float(stats.t.ppf(1 - alpha, n - 1)) * error)


def unpaired_p(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Welch's two-sided p for equal means, or None when either side has fewer than two observations."""
    left, right = mean_interval(a), mean_interval(b)
    if left.mean is None or right.mean is None or left.sd is None or right.sd is None:
        return None
    left_part, right_part = left.sd**2 / left.n, right.sd**2 / right.n
    variance = left_part + right_part
    if variance == 0:
        return _two_sided_p(left.mean - right.mean, 0.0, 1)
    freedom = variance**2 / (left_part**2 / (left.n - 1) + right_part**2 / (right.n - 1))
    return _two_sided_p(left.mean - right.mean, math.sqrt(variance), freedom)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm-adjusted p-values in the order given; None (no test was possible) stays None and is not counted.

    The i-th smallest of m is multiplied by m - i + 1, and none may fall below a smaller one's. (statsmodels has this too, at the price
    of an import of a second and a garbage collection at every call.)
    """
    smallest_first = sorted((p, position) for position, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for passed, (p, position) in enumerate(smallest_first):
        highest = max(highest, min(1.0, p * (len(smallest_first) - passed)))
        adjusted[position] = highest
    return adjusted


def detectable_difference(sd: float, n: int, *, alpha: float = 1 - CONFIDENCE, power: float = POWER) -> float | None:
    """Smallest true mean that a two-sided t test of `n` observations of spread `sd` detects with probability `power`.

    In the unit of `sd`. None with fewer than two observations.
    """
    return None if n < 2 else _detectable_noncentrality(n, alpha, power) * sd / math.sqrt(n)


@lru_cache(maxsize=256)
def _detectable_noncentrality(n: int, alpha: float, power: float) -> float:
    """Noncentrality at which the t test on `n` observations reaches `power`.

    scipy's non-central t loses its digits at the small n of a sweep; averaging the normal tails over the distribution
    of the sample deviation is the same quantity and stays exact.
    """
    freedom = n - 1
    critical = float(stats.t.ppf(1 - alpha / 2, freedom))
    spread = stats.chi(freedom, scale=1 / math.sqrt(freedom))

    def missing_power(noncentrality: float) -> float:
        def rejected(deviation: float) -> float:
            threshold = critical * deviation
            tails = special.ndtr(noncentrality - threshold) + special.ndtr(-noncentrality - threshold)
            return float(tails * spread.pdf(deviation))

        return float(integrate.quad(rejected, 0, spread.ppf(1 - 1e-12), limit=200)[0]) - power

    return float(optimize.brentq(missing_power, 0.0, 3 * critical + 10))


def _two_sided_p(difference: float, standard_error: float, freedom: float) -> float:
    """Student's p; without any spread, equal means are certain (1) and unequal ones impossible (0)."""
    if standard_error == 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * stats.t.sf(abs(difference) / standard_error, freedom))
