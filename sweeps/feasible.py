"""Constraints of a search: upper bounds on what a trial measured, for memory and stability.

Bounds are kept beside the loss and never mixed into it: a trial above one of them is *infeasible*. The samplers that know of constraints (tpe, gp)
learn to stay away from such points, and the cell's winner is the best feasible trial.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from resbench.harness import names
from resbench.sweeps.yamlfile import did_you_mean


def known_metrics() -> list[str]:
    """Metrics that a run may log under a fixed name."""
    return sorted({text for value in vars(names).values() for text in _texts(value) if "/" in text and " " not in text})


def check_bounds(bounds: Mapping[str, float]) -> None:
    """Raises ValueError for a metric that no run logs, and for the loss, which is what the search minimises."""
    for metric in bounds:
        if metric in (names.VAL_LOSS, names.TRAIN_LOSS):
            raise ValueError(f"search.constraints.{metric}: the search minimises the loss; bound what it costs instead")
        known = known_metrics()
        if metric not in known and not metric.startswith(f"{names.VAL_ACCURACY}/"):
            stable = [name for name in known if name.startswith(("mem/", "stability/", "perf/"))]
            raise ValueError(
                f"search.constraints.{metric}: no run logs such a metric.{did_you_mean(metric, known)} Among others: {', '.join(stable)}"
            )


def excess(metrics: Mapping[str, float], bounds: Mapping[str, float]) -> dict[str, float]:
    """How far each bounded metric is above its bound, relative to the bound; at most 0 where it is kept.

    Relative, because samplers add up the excess of several constraints. A metric that is missing or not finite, as in a run that ran out of memory
    before it was measured, counts as twice the bound.
    """
    found = {}
    for metric, bound in bounds.items():
        scale = abs(bound) or 1.0
        value = metrics.get(metric, math.nan)
        found[metric] = (value - bound) / scale if math.isfinite(value) else 1.0
    return found


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, tuple):
        for one in value:
            yield from _texts(one)
