"""Comparing and ranking the cells of a group: the paired difference to the reference, and ranks that admit ties."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations, groupby
from typing import Literal

from resbench.results.cells import Cell, group_order
from resbench.results.statistics import CONFIDENCE, MARGIN, holm, paired_difference, unpaired_p

REFERENCE = "resnet"
"""The scheme that every other one is compared with."""

SIGNIFICANCE = 1 - CONFIDENCE

Verdict = Literal["better", "worse", "equivalent", "undecided"]


def verdict(cell: Cell) -> Verdict | None:
    """What the comparison with the reference says at the 5 % level after Holm's correction; None where there is no test.

    A difference that is found is `better` or `worse` even where it is also shown to be smaller than the margin; one that is
    not found is `equivalent` only if the equivalence test passes. Everything else is `undecided`: not a tie, too few seeds.
    """
    if cell.comparison is None or cell.comparison.difference.mean is None or cell.holm_p is None:
        return None
    if cell.holm_p < SIGNIFICANCE:
        return "better" if cell.comparison.difference.mean < 0 else "worse"
    if cell.equivalence_p is not None and cell.equivalence_p < SIGNIFICANCE:
        return "equivalent"
    return "undecided"


def compare(cells: Iterable[Cell], margin: float = MARGIN) -> list[Cell]:
    """The cells of `summarise`, compared and ranked within each group: best first, those without a rank last.

    `margin` is the largest difference in loss that counts as none, nats/token.
    """
    in_order = sorted(cells, key=lambda cell: group_order(cell.group))
    groups = (list(members) for _, members in groupby(in_order, key=lambda cell: cell.group))
    return [cell for members in groups for cell in _rank(_against_reference(members, margin))]


def reference_of(cells: list[Cell]) -> Cell | None:
    """The group's cell of the reference scheme: the plain one if the sweep has variants, None if that is not clear."""
    candidates = [cell for cell in cells if cell.scheme == REFERENCE]
    plain = [cell for cell in candidates if cell.label == REFERENCE] or candidates
    return plain[0] if len(plain) == 1 else None


def _against_reference(cells: list[Cell], margin: float) -> list[Cell]:
    reference = reference_of(cells)
    if reference is None:
        return cells
    others = [cell for cell in cells if cell is not reference]
    comparisons = [paired_difference(cell.losses, reference.losses, margin=margin) for cell in others]
    corrected = holm([comparison.p for comparison in comparisons])
    equal = holm([comparison.equivalence.p if comparison.equivalence else None for comparison in comparisons])
    compared = [
        replace(
            cell,
            comparison=comparison,
            holm_p=p,
            equivalence_p=equivalence_p,
            tokens_per_s_ratio=_ratio(cell, reference, "tokens_per_s"),
            peak_gib_ratio=_ratio(cell, reference, "peak_gib"),
        )
        for cell, comparison, p, equivalence_p in zip(others, comparisons, corrected, equal, strict=True)
    ]
    own = replace(
        reference,
        is_reference=True,
        tokens_per_s_ratio=_ratio(reference, reference, "tokens_per_s"),
        peak_gib_ratio=_ratio(reference, reference, "peak_gib"),
    )
    return [own, *compared]


def _ratio(cell: Cell, reference: Cell, name: Literal["tokens_per_s", "peak_gib"]) -> float | None:
    """A measurement relative to the reference's, where both ran on the same one kind of hardware."""
    same_hardware = cell.hardware == reference.hardware and len(cell.hardware) == 1
    value, beside = getattr(cell, name), getattr(reference, name)
    return float(value / beside) if same_hardware and value is not None and beside else None


def _rank(cells: list[Cell]) -> list[Cell]:
    """Rank by mean loss. A cell shares the rank above it unless it is separably worse than the best cell of that rank.

    Separable: p < 0.05 in a paired t test over common seeds (Welch's test if fewer than two are common), Holm-corrected
    over all pairs of the group. With one seed nothing is separable.
    """
    scored = sorted(
        (cell for cell in cells if cell.val_loss.mean is not None and not cell.unranked),
        key=lambda cell: (cell.val_loss.mean, cell.cell),
    )
    unscored = [cell for cell in cells if cell.val_loss.mean is None or cell.unranked]
    pairs = list(combinations(range(len(scored)), 2))
    p_values = holm([_p_of_equality(scored[i], scored[j]) for i, j in pairs])
    separable = {pair for pair, p in zip(pairs, p_values, strict=True) if p is not None and p < SIGNIFICANCE}
    ranks: list[int] = []
    leader = 0
    for position in range(len(scored)):
        if (leader, position) in separable:
            leader = position
        ranks.append(leader + 1)
    ranked = [replace(cell, rank=rank, tied=ranks.count(rank) > 1) for cell, rank in zip(scored, ranks, strict=True)]
    return ranked + unscored


def _p_of_equality(a: Cell, b: Cell) -> float | None:
    paired = paired_difference(a.losses, b.losses).p
    return paired if paired is not None else unpaired_p(list(a.losses.values()), list(b.losses.values()))
