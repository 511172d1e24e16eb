"""Means, intervals and comparisons against numbers worked out by hand and against what they promise over many samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from resbench.results.statistics import (
    Estimate,
    detectable_difference,
    equivalence,
    group_means,
    holm,
    mean_interval,
    paired_difference,
    unpaired_p,
)

# Two-sided 95 % points of Student's t, from a printed table.
T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262}


def test_the_interval_of_three_numbers() -> None:
    """1, 2, 4: mean 7/3, sample variance ((4/3)^2 + (1/3)^2 + (5/3)^2) / 2 = 7/3."""
    estimate = mean_interval([1.0, 2.0, 4.0])
    half = T95[2] * math.sqrt(7 / 3 / 3)
    assert estimate.n == 3
    assert estimate.mean == pytest.approx(7 / 3)
    assert estimate.sd == pytest.approx(math.sqrt(7 / 3))
    assert estimate.half_width == pytest.approx(half, rel=1e-3)
    assert estimate.low == pytest.approx(7 / 3 - half, rel=1e-3)
    assert estimate.high == pytest.approx(7 / 3 + half, rel=1e-3)


def test_one_number_has_a_mean_and_no_interval_and_none_have_nothing() -> None:
    one, none = mean_interval([2.5]), mean_interval([])
    assert (one.mean, one.low, one.high, one.half_width, one.sd, one.n) == (2.5, None, None, None, None, 1)
    assert (none.mean, none.half_width, none.n) == (None, None, 0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_refused_rather_than_averaged(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        mean_interval([1.0, bad])


def test_the_paired_difference_uses_common_seeds_only() -> None:
    """Seeds 0, 1, 2 are common: differences -1, -2, -3, mean -2, sd 1, t = -2 sqrt 3 on 2 degrees of freedom."""
    a = {0: 1.0, 1: 2.0, 2: 3.0, 7: 100.0}
    b = {2: 6.0, 1: 4.0, 0: 2.0, 8: -100.0}
    comparison = paired_difference(a, b)
    assert comparison.difference.n == 3
    assert comparison.difference.mean == pytest.approx(-2)
    assert comparison.difference.half_width == pytest.approx(T95[2] / math.sqrt(3), rel=1e-3)
    # With two degrees of freedom the distribution function is closed: p = 1 - t / sqrt(t^2 + 2), t^2 = 12.
    assert comparison.p == pytest.approx(1 - math.sqrt(12 / 14))


def test_a_shared_offset_of_seeds_cancels_in_pairs_and_not_without() -> None:
    luck = [0.3, -0.5, 0.1, 0.4]
    a = {seed: 2.0 + shift - 0.02 + 0.001 * (-1) ** seed for seed, shift in enumerate(luck)}
    b = {seed: 2.0 + shift for seed, shift in enumerate(luck)}
    paired, unpaired = paired_difference(a, b).p, unpaired_p(list(a.values()), list(b.values()))
    assert paired is not None
    assert unpaired is not None
    assert paired < 0.001
    assert unpaired > 0.9


def test_one_pair_gives_a_difference_and_nothing_to_believe_it_by() -> None:
    comparison = paired_difference({0: 1.0, 1: 5.0}, {0: 3.0})
    assert comparison.difference.mean == -2
    assert (comparison.difference.low, comparison.p, comparison.detectable) == (None, None, None)
    assert paired_difference({0: 1.0}, {1: 1.0}).difference.mean is None


def test_differences_without_spread() -> None:
    assert paired_difference({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}).p == 1.0
    assert paired_difference({0: 1.0, 1: 2.0}, {0: 1.5, 1: 2.5}).p == 0.0
    assert unpaired_p([1.0, 1.0], [1.0, 1.0]) == 1.0


def test_welch_agrees_with_scipy() -> None:
    a, b = [1.0, 1.4, 0.9, 1.2], [2.0, 1.1, 1.9]
    assert unpaired_p(a, b) == pytest.approx(float(stats.ttest_ind(a, b, equal_var=False).pvalue))
    assert unpaired_p([1.0], b) is None


def test_holm_by_hand() -> None:
    """Sorted .01, .02, .03, .04 times 4, 3, 2, 1 gives .04, .06, .06, .04; never below an earlier one: .04, .06, .06, .06."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])


def test_holm_agrees_with_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests

    p_values = np.random.default_rng(1).uniform(0, 0.4, 12).tolist()
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1].tolist())


def test_holm_leaves_comparisons_without_a_test_out_of_the_family() -> None:
    assert holm([None, 0.02, None]) == [None, pytest.approx(0.02), None]
    assert holm([None, None]) == [None, None]
    assert holm([]) == []


def test_the_detectable_difference_of_five_pairs_of_spread_a_hundredth() -> None:
    """Five pairs with sd .010 are commonly said to reveal differences of .014 to .020."""
    assert 0.014 < (detectable_difference(0.010, 5) or 0) < 0.020
    assert detectable_difference(0.010, 1) is None
    assert detectable_difference(0.0, 4) == 0.0


@pytest.mark.parametrize("n", [4, 5, 10, 30])
def test_the_detectable_difference_agrees_with_statsmodels(n: int) -> None:
    from statsmodels.stats.power import TTestPower

    expected = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8)
    assert detectable_difference(2.0, n) == pytest.approx(2 * expected, rel=1e-5)


@pytest.mark.parametrize("n", [2, 3, 6])
def test_the_detectable_difference_is_detected_four_times_out_of_five(n: int) -> None:
    generator = np.random.default_rng(n)
    effect = detectable_difference(1.0, n)
    assert effect is not None
    samples = generator.normal(effect, 1.0, (20_000, n))
    found = stats.ttest_1samp(samples, 0.0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.015)  # five standard errors of 20 000 draws: 0.014


@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_interval_covers_the_truth_as_often_as_it_says(n: int) -> None:
    generator = np.random.default_rng(100 + n)
    trials = 4000
    covered = 0
    for sample in generator.normal(3.0, 0.2, (trials, n)):
        estimate = mean_interval(sample.tolist())
        assert estimate.low is not None
        assert estimate.high is not None
        covered += estimate.low <= 3.0 <= estimate.high
    assert covered / trials == pytest.approx(0.95, abs=0.0175)  # five standard errors


def test_groups_that_differ_are_a_sample_of_groups() -> None:
    """Ten groups whose true differences scatter by 0.02 about zero, seeds by 0.005: intervals over groups cover zero in 95 % of studies,
    whether each has one seed or five; those over pairs do so far less often with five."""
    generator = np.random.default_rng(5)
    studies = 2000
    truth = generator.normal(0, 0.02, (studies, 10, 1))
    pairs = truth + generator.normal(0, 0.005, (studies, 10, 5))

    def coverage(estimates: list[Estimate]) -> float:
        return float(np.mean([(e.low or 0.0) <= 0 <= (e.high or 0.0) for e in estimates]))

    for seeds in (1, 5):
        of_groups = [mean_interval(group_means(study[:, :seeds].tolist())) for study in pairs]
        assert coverage(of_groups) == pytest.approx(0.95, abs=0.02)
    assert coverage([mean_interval(study.ravel().tolist()) for study in pairs]) < 0.75


def test_few_groups_leave_every_observation() -> None:
    assert group_means([[1.0, 3.0], [], [5.0]]) == [1.0, 3.0, 5.0]
    assert group_means([[1.0, 3.0], [], [5.0], [7.0]]) == [2.0, 5.0, 7.0]


def test_holm_keeps_the_chance_of_any_false_finding_at_its_level() -> None:
    """Three schemes without any effect, five seeds each: at least one difference is found in at most 5 % of studies."""
    generator = np.random.default_rng(7)
    studies, found = 1500, 0
    for _ in range(studies):
        reference = dict(enumerate(generator.normal(2.0, 0.01, 5)))
        others = [dict(enumerate(np.array(list(reference.values())) + generator.normal(0, 0.01, 5))) for _ in range(3)]
        found += any(
            p is not None and p < 0.05 for p in holm([paired_difference(other, reference).p for other in others])
        )
    assert found / studies < 0.05 + 3 * math.sqrt(0.05 * 0.95 / studies)


def test_equivalence_by_hand() -> None:
    """Differences 1, 2, 3 against a margin of 5: mean 2, error 1/sqrt 3, t = (5 - 2) sqrt 3 = 5.196 on 2 degrees of freedom."""
    found = paired_difference({0: 1.0, 1: 2.0, 2: 3.0}, {0: 0.0, 1: 0.0, 2: 0.0}, margin=5.0).equivalence
    assert found is not None
    # One-sided with two degrees of freedom: (1 - t / sqrt(t^2 + 2)) / 2, t^2 = 27.
    assert found.p == pytest.approx((1 - math.sqrt(27 / 29)) / 2)
    assert found.within == pytest.approx(2 + 2.920 / math.sqrt(3), rel=1e-3)  # 95 % one-sided point of t on 2: 2.920


def test_equivalence_agrees_with_statsmodels() -> None:
    from statsmodels.stats.weightstats import DescrStatsW

    differences = [0.002, -0.004, 0.006, 0.001, -0.001]
    expected = DescrStatsW(differences).ttost_mean(-0.01, 0.01)[0]
    assert equivalence(float(np.mean(differences)), float(np.std(differences, ddof=1)), 5, 0.01).p == pytest.approx(
        expected
    )


def test_the_margin_at_which_equivalence_just_passes_has_a_p_of_five_per_cent() -> None:
    within = equivalence(-0.003, 0.004, 6, 0.01).within
    assert equivalence(-0.003, 0.004, 6, within).p == pytest.approx(0.05)


def test_equivalence_is_claimed_for_a_difference_as_large_as_the_margin_in_one_of_twenty_studies_at_most() -> None:
    generator = np.random.default_rng(11)
    studies = 4000
    samples = generator.normal(0.01, 0.004, (studies, 5))
    claimed = sum(equivalence(float(row.mean()), float(row.std(ddof=1)), 5, 0.01).p < 0.05 for row in samples)
    assert claimed / studies == pytest.approx(0.05, abs=0.0175)  # five standard errors


def test_equivalence_without_spread_or_with_nonsense() -> None:
    assert (equivalence(0.001, 0.0, 3, 0.01).p, equivalence(0.02, 0.0, 3, 0.01).p) == (0.0, 1.0)
    with pytest.raises(ValueError, match="two observations"):
        equivalence(0.0, 0.1, 1, 0.01)
    with pytest.raises(ValueError, match="margin: -1"):
        equivalence(0.0, 0.1, 3, -1.0)
    assert paired_difference({0: 1.0}, {0: 2.0}).equivalence is None
