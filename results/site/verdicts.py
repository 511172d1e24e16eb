"""What the comparisons with the reference say, in words: over all groups of a scheme together, and row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from resbench.results.cells import Cell
from resbench.results.columns import printable, quantity, signed
from resbench.results.ranking import REFERENCE, verdict
from resbench.results.statistics import FEWEST_GROUPS, differences, group_means, mean_interval

WORDS = {"better": "better", "worse": "worse", "equivalent": "equal", "undecided": "undecided", None: "no test"}


@dataclass(frozen=True)
class Verdict:
    """What the comparison at one place says: a word, and the numbers in a sentence."""

    where: str
    kind: str
    word: str
    sentence: str


def over_groups(cells: Sequence[Cell], everything: Sequence[Cell]) -> list[Verdict]:
    """For each label of a scheme that was compared in several groups: the mean of its differences, groups counting alike."""
    references = {cell.group: cell for cell in everything if cell.is_reference}
    found = []
    for label in dict.fromkeys(cell.label for cell in cells if not cell.is_reference):
        by_group = []
        for cell in cells:
            reference = references.get(cell.group)
            if cell.label == label and reference is not None:
                by_group.append(list(differences(cell.losses, reference.losses).values()))
        pairs = [difference for group in by_group for difference in group]
        groups = sum(map(bool, by_group))
        if groups < FEWEST_GROUPS:
            continue
        mean = mean_interval(group_means(by_group))
        assert mean.mean is not None
        assert mean.low is not None
        assert mean.high is not None
        below = sum(difference < 0 for difference in pairs)
        name = f"{label}, " if label != cells[0].scheme else ""
        found.append(
            Verdict(
                printable(f"{name}all {groups} groups"),
                "none",
                f"below in {below} of {len(pairs)} pairs",
                f"On average {signed(mean.mean)} nats/token to {REFERENCE}, 95 % interval {signed(mean.low)} to {signed(mean.high)} over groups, "
                "which count alike.",
            )
        )
    return found


def verdict_of(cell: Cell, margin: float) -> Verdict:
    """The comparison of one row with the reference, in a sentence with its interval and what it could have found."""
    group = cell.group
    parts = [
        cell.label if cell.label != cell.scheme else "",
        group.size,
        group.setting,
        f"{quantity(group.tokens)} tokens",
    ]
    where = printable(", ".join(part for part in parts if part))
    found = verdict(cell)
    if cell.is_reference:
        return Verdict(where, "reference", "reference", f"Loss {_loss(cell)}. The others are compared with it.")
    comparison = cell.comparison
    mean = None if comparison is None else comparison.difference.mean
    if comparison is None or mean is None:
        reason = (
            f"no {REFERENCE} in its comparison group" if comparison is None else f"no seed in common with {REFERENCE}"
        )
        return Verdict(where, "none", WORDS[None], f"Loss {_loss(cell)}; {reason}.")
    difference = comparison.difference
    if difference.low is None or difference.high is None or cell.holm_p is None:
        return Verdict(where, "none", WORDS[None], f"{signed(mean)} nats/token on one pair: no interval, no test.")
    sentence = (
        f"{signed(mean)} nats/token to {REFERENCE}, 95 % interval {signed(difference.low)} to {signed(difference.high)}, "
        f"{difference.n} pairs, p {'< 0.001' if cell.holm_p < 0.001 else f'= {cell.holm_p:.3f}'} after Holm's correction."
    )
    if comparison.detectable is not None:
        sentence += f" So many pairs with this spread reveal a difference of {comparison.detectable:.4f} four times out of five."
    if comparison.equivalence is not None and found in ("equivalent", "undecided"):
        sentence += f" Shown to be equal within ±{comparison.equivalence.within:.4f}; ±{margin:g} would count as equal."
    return Verdict(where, str(found), WORDS[found], sentence)


def _loss(cell: Cell) -> str:
    estimate = cell.val_loss
    if estimate.mean is None:
        return "unknown (no run completed)"
    return f"{estimate.mean:.4f}" + (
        f" ± {estimate.half_width:.4f}" if estimate.half_width is not None else " (one seed)"
    )
