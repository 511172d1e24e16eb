"""What a study's runs say to each claim: paired by comparison group and seed, with an interval and a verdict.

Groups of a study (sizes, budgets, settings) count alike: the difference is the mean over the study's grid, and its interval that over groups, where
there are three or more, else over pairs. A difference is found at the 5 % level after Holm's correction over all claims and studies tested together,
and its absence by two one-sided tests, corrected likewise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from resbench.harness import names
from resbench.results.cells import GROUP, UNSEEDED, labelled
from resbench.results.claims.catalogue import CLAIMS, Claim, Variant
from resbench.results.ranking import SIGNIFICANCE
from resbench.results.runs import ranked_runs
from resbench.results.statistics import Comparison, Estimate, group_means, holm, paired_difference

Verdict = Literal["agrees", "disagrees", "undecided", "not tested"]

GAINS = (names.GAIN_FORWARD, names.GAIN_BACKWARD)


@dataclass(frozen=True)
class Evidence:
    """One claim in one study.

    pairs: 0 where runs are counted. estimate: with a 95 % t interval over groups or pairs, in nats for losses, a factor for gains (of logs, so its
    interval is not symmetric). p: of no difference (of too large a difference, where the claim is that there is none), Holm-corrected. text: the
    numbers in words.
    """

    claim: Claim
    study: str
    pairs: int
    groups: int
    estimate: Estimate | None
    p: float | None
    verdict: Verdict
    text: str


def evidence(runs: pd.DataFrame, gains: pd.DataFrame, claims: Sequence[Claim] = CLAIMS) -> list[Evidence]:
    """Every claim in every study that has both sides of it, and once as not tested if none has.

    ``runs``: a table of `load_runs`; ``gains``: of `load_curves` with `GAINS` for them. Final runs count, one for each planned run.
    """
    table = labelled(ranked_runs(runs))
    finite = gains[np.isfinite(gains["value"].astype("float64"))]
    table["peak_gain"] = table["run_id"].map(finite.groupby("run_id")["value"].max())
    found: list[Evidence] = []
    for claim in claims:
        of_claim = [
            one
            for study, own in table.groupby("study", sort=True)
            if (one := _test(claim, str(study), own)) is not None
        ]
        found += of_claim or [Evidence(claim, "", 0, 0, None, None, "not tested", "no study has both sides")]
    return _corrected(found)


def _test(claim: Claim, study: str, runs: pd.DataFrame) -> Evidence | None:
    if claim.kind == "gain at most":
        return _bounded(claim, study, claim.a.of(runs))
    assert claim.b is not None
    if claim.kind == "diverges more":
        return _diverges(claim, study, claim.a.of(runs), claim.b.of(runs))
    column = "peak_gain" if claim.kind == "gain above" else "val_loss"
    groups = pairs(runs, claim.a, claim.b, column)
    count = sum(map(len, groups))
    if not count:
        return None
    if claim.kind == "gain above":
        compared = _compared([[(_log(a), _log(b)) for a, b in group] for group in groups])
        peaks = [max(pair[side] for group in groups for pair in group) for side in (0, 1)]
        text = f"peaks up to {peaks[0]:.3g} and {peaks[1]:.3g}"
        return Evidence(claim, study, count, len(groups), _factor(compared.difference), compared.p, "undecided", text)
    compared = _compared(groups)
    p = compared.p
    if claim.kind == "equal":
        p = compared.equivalence.p if compared.equivalence else None
    below = sum(a < b for group in groups for a, b in group)
    text = f"below in {below} of {count}, {_reach(compared)}"
    return Evidence(claim, study, count, len(groups), compared.difference, p, "undecided", text)


Pair = tuple[float, float]


def pairs(runs: pd.DataFrame, a: Variant, b: Variant, column: str) -> list[list[Pair]]:
    """Values of both variants, group by group, seed by seed. A group with several cells of a variant has no pair, and is left out."""
    found = []
    for _, members in runs.groupby(GROUP, dropna=False, sort=False):
        sides = [_by_seed(variant.of(members), column) for variant in (a, b)]
        common = sorted(set(sides[0]) & set(sides[1]))
        if common:
            found.append([(sides[0][seed], sides[1][seed]) for seed in common])
    return found


def _compared(groups: Sequence[Sequence[Pair]]) -> Comparison:
    sides = [group_means([[pair[side] for pair in group] for group in groups]) for side in (0, 1)]
    return paired_difference(dict(enumerate(sides[0])), dict(enumerate(sides[1])))


def _by_seed(runs: pd.DataFrame, column: str) -> dict[int, float]:
    counted = runs[runs[column].notna()]
    if column == "val_loss":
        counted = counted[counted["outcome"] == "complete"]
    if counted["cell"].nunique() != 1:
        return {}
    seeds = counted["seed"].fillna(UNSEEDED)
    return {int(seed): float(value) for seed, value in zip(seeds, counted[column], strict=True)}


def _reach(compared: Comparison) -> str:
    if compared.detectable is None:
        return "one pair: no interval"
    return f"would have found {compared.detectable:.3f}"


def _log(value: float) -> float:
    return math.log(max(value, 1e-30))


def _factor(logs: Estimate) -> Estimate:
    def exponential(value: float | None) -> float | None:
        return None if value is None else math.exp(value)

    return replace(logs, mean=exponential(logs.mean), low=exponential(logs.low), high=exponential(logs.high))


def _bounded(claim: Claim, study: str, runs: pd.DataFrame) -> Evidence | None:
    peaks = runs["peak_gain"].dropna()
    if peaks.empty:
        return None
    assert claim.bound is not None
    groups = int(runs.loc[peaks.index].groupby(GROUP, dropna=False).ngroups)
    inside = float(peaks.max()) <= claim.bound
    text = f"at most {peaks.max():.3g} in {len(peaks)} runs"
    return Evidence(claim, study, 0, groups, None, None, "agrees" if inside else "disagrees", text)


def _diverges(claim: Claim, study: str, a: pd.DataFrame, b: pd.DataFrame) -> Evidence | None:
    a, b = _where_both(a, b)
    counts = [[int((side["outcome"] == name).sum()) for name in ("diverged", "complete")] for side in (a, b)]
    if not all(sum(side) for side in counts):
        return None
    p = float(stats.fisher_exact(counts, alternative="two-sided").pvalue)
    text = f"{counts[0][0]} of {sum(counts[0])} runs and {counts[1][0]} of {sum(counts[1])}"
    groups = int(pd.concat([a, b]).groupby(GROUP, dropna=False).ngroups)
    share = [diverged / (diverged + complete) for diverged, complete in counts]
    estimate = Estimate(share[0] - share[1], None, None, None, sum(map(sum, counts)))
    return Evidence(claim, study, 0, groups, estimate, p, "undecided", text)


def _where_both(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs of both sides in the groups that have both: deeper or hotter runs of one side alone would count as its weakness."""
    ended = pd.concat([a.assign(side=0), b.assign(side=1)])
    ended = ended[ended["outcome"].isin(["diverged", "complete"])]
    ended = ended[ended.groupby(GROUP, dropna=False)["side"].transform("nunique") == 2]
    return ended[ended["side"] == 0], ended[ended["side"] == 1]


def _corrected(found: Iterable[Evidence]) -> list[Evidence]:
    rows = list(found)
    for absence in (False, True):
        places = [
            place
            for place, row in enumerate(rows)
            if (row.claim.kind == "equal") == absence and row.estimate is not None
        ]
        for place, p in zip(places, holm([rows[place].p for place in places]), strict=True):
            rows[place] = replace(rows[place], p=p, verdict=_verdict(rows[place], p))
    return rows


def _verdict(row: Evidence, p: float | None) -> Verdict:
    assert row.estimate is not None
    if p is None or row.estimate.mean is None:
        return "undecided"
    if row.claim.kind == "equal":
        if p < SIGNIFICANCE:
            return "agrees"
        low, high = row.estimate.low, row.estimate.high
        apart = low is not None and high is not None and not low <= 0 <= high
        return "disagrees" if apart else "undecided"
    if p >= SIGNIFICANCE:
        return "undecided"
    neutral = 1.0 if row.claim.kind == "gain above" else 0.0
    wanted = row.estimate.mean < neutral if row.claim.kind == "below" else row.estimate.mean > neutral
    return "agrees" if wanted else "disagrees"
