"""When two losses of the same configuration and seed agree.

A rerun has the same initial weights and the same data in the same order. What is left is rounding: another GPU, another number of threads or
another version of torch adds numbers in another order, the difference grows through training, and at worst the rerun is as good as another
draw of everything that seeds decide. So a single loss may differ by as much as two seeds of a cell do,

    TOLERATED_SD x sqrt(2) x sd,        sd: pooled over the submission's cells, between seeds, but at most `MOST_SD`

and at least by `HARDWARE`, a shift that arithmetic alone may cause in every run. On a CPU, resnet of size 400k after 200,000 bytes of Python source
ends at 1.9730 with one thread and with two, at 1.9727 in bfloat16 autocast, and at 1.9937 with another seed (mhc: 1.9746,
1.9746, 1.9744 and 1.9922): `HARDWARE` is ten times what the
coarsest change of arithmetic did there, and a seventh of what another seed does. On H200s 55 runs of 21 cells and seeds (1m, 21M bytes, four
schemes, results/published/h200-2026) that should be alike differ by a standard deviation of 0.006, a thirteenth of what another seed does, and by
0.025 at most. Between kinds of GPUs it has not been measured.

A cap on the spread is needed because it comes from the file itself: whoever forges losses could spread them out to widen the tolerance.

A forger who shifts every loss by less than that is met by the mean: differences of honest reruns scatter about zero, so their mean, by its 95 %
t interval, must not lie beyond `HARDWARE` as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from resbench.results.statistics import Estimate, mean_interval
from resbench.results.submission.schema import SubmittedRun

TOLERATED_SD = 3.0
"""Standard deviations: one honest rerun in 370 is further away."""

MOST_SD = 0.01
"""nats/token; between seeds of a well-trained model it is rarely more. Where it was 0.07 (the study above), reruns of a seed agreed to 0.025."""

HARDWARE = 0.003
"""nats/token."""


@dataclass(frozen=True)
class Tolerance:
    """Largest differences that count as agreement, nats/token: of one run, and of the mean (to its interval's nearer end)."""

    run: float
    mean: float
    seed_sd: float | None
    """Pooled over cells, as the submission has it; None where no cell has two seeds."""


def tolerance(runs: Iterable[SubmittedRun]) -> Tolerance:
    """The tolerance for a submission, from the spread between its seeds."""
    cells: dict[tuple[str, str, int], list[float]] = {}
    for run in runs:
        if run.outcome == "complete" and run.val_loss is not None:
            cells.setdefault((run.cell, run.data_fingerprint, run.budget_tokens), []).append(run.val_loss)
    squares, freedom = 0.0, 0
    for losses in cells.values():
        mean = sum(losses) / len(losses)
        squares += sum((loss - mean) ** 2 for loss in losses)
        freedom += len(losses) - 1
    sd = math.sqrt(squares / freedom) if freedom else None
    spread = MOST_SD if sd is None else min(sd, MOST_SD)
    return Tolerance(max(HARDWARE, TOLERATED_SD * math.sqrt(2) * spread), HARDWARE, sd)


def shifted(differences: Sequence[float], allowed: Tolerance) -> tuple[Estimate, bool]:
    """The mean difference with its interval, and whether that interval lies beyond the tolerance on one side."""
    mean = mean_interval(differences)
    if mean.low is None or mean.high is None:
        return mean, False
    return mean, mean.low > allowed.mean or mean.high < -allowed.mean
