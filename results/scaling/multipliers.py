"""How many times a scheme's compute, time or memory resnet must spend for the same loss: for each label of each ladder, or why it cannot be told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from resbench.results.ranking import REFERENCE
from resbench.results.runs import SHARED, shared_gpu
from resbench.results.scaling.frontier import Multiplier, multiplier
from resbench.results.scaling.points import COSTS, points, usable

LADDER = ("task", "setting", "data_fingerprint")
"""Columns of a labelled table that one law may be fitted over: everything but the size and the budget."""

LadderKey = tuple[str, str, str]


def multipliers(table: pd.DataFrame) -> dict[tuple[LadderKey, str], Mapping[str, Multiplier | str]]:
    """(ladder, label) -> cost (a key of `COSTS`) -> its multiplier over the reference, or the reason why there is none.

    ``table``: labelled, ranked runs. The reference itself is not in it, nor is a ladder without one.
    """
    complete = usable(table)
    found: dict[tuple[LadderKey, str], Mapping[str, Multiplier | str]] = {}
    for keys, of_ladder in complete.groupby(list(LADDER), dropna=False, sort=False):
        reference = of_ladder[of_ladder["label"] == REFERENCE]
        if reference.empty:
            continue
        ladder: LadderKey = (_text(keys[0]), _text(keys[1]), _text(keys[2]))
        for label, own in of_ladder.groupby("label", sort=False):
            if label != REFERENCE:
                found[ladder, str(label)] = dict(over_reference(own, reference))
    return found


def over_reference(own: pd.DataFrame, reference: pd.DataFrame) -> Iterator[tuple[str, Multiplier | str]]:
    """The multiplier of one label's usable runs for each cost."""
    for cost in COSTS:
        yield cost, not_compared(cost, own, reference) or multiplier(points(own, cost), points(reference, cost))


def not_compared(cost: str, own: pd.DataFrame, reference: pd.DataFrame | None) -> str:
    """Why a cost of these usable runs cannot be compared; empty if it can."""
    if cost == "flops":
        return ""
    runs = own if reference is None else pd.concat([own, reference])
    if cost == "wall_s" and shared_gpu(runs).any():
        return SHARED
    kinds = set(runs["hardware"].dropna())
    if len(kinds) == 1:
        return ""
    return f"runs on {len(kinds)} kinds of hardware: time and memory are not compared across them"


def _text(value: object) -> str:
    return "" if pd.isna(value) else str(value)  # type: ignore[call-overload]
