"""The points that scaling laws are fitted to: final losses of complete runs, and cells of one scheme, size and budget."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from resbench.results.cells import UNSEEDED

Array = NDArray[np.float64]

COSTS = {"flops": "training FLOPs", "wall_s": "seconds of steps", "peak_gib": "peak memory GiB"}
"""What a loss can be bought with, by column of the tidy table; `wall_s` as `usable` makes it."""


@dataclass(frozen=True)
class Point:
    """A size at a budget, over its seeds: ln loss and ln cost by seed. A cost that is missing for any run is NaN throughout."""

    size: str
    params: float
    tokens: float
    log_loss: dict[int, float]
    log_cost: dict[int, float]

    @property
    def mean(self) -> tuple[float, float]:
        """(ln cost, ln loss), averaged over seeds."""
        return float(np.mean(list(self.log_cost.values()))), float(np.mean(list(self.log_loss.values())))


def usable(runs: pd.DataFrame) -> pd.DataFrame:
    """The complete runs of a labelled table with a positive loss, parameters and tokens; `flops` filled from FLOPs per token.

    `wall_s` becomes the time that all tokens take at the run's steady throughput, where it is known: starting, compiling and validating take a
    run of seconds as long as one of days, and would make every scheme look alike in the shortest runs.
    """
    complete = runs[runs["outcome"] == "complete"].copy()
    steady = complete["budget_tokens"].astype("float64") / complete["tokens_per_s"].astype("float64")
    complete["wall_s"] = steady.fillna(complete["wall_s"].astype("float64"))
    complete["flops"] = complete["flops"].fillna(
        complete["flops_per_token"] * complete["budget_tokens"].astype("float64")
    )
    needed = complete[["val_loss", "params_total", "budget_tokens"]].astype("float64")
    return complete[((needed > 0) & (needed < np.inf)).all(axis=1)]


def points(runs: pd.DataFrame, cost: str) -> list[Point]:
    """The points of one label's usable runs, from cheap to dear. `cost` is a key of `COSTS`."""
    found = []
    for (size, tokens), own in runs.groupby(["size", "budget_tokens"], sort=False):
        seeds = [int(seed) for seed in own["seed"].fillna(UNSEEDED)]
        spent = own[cost].astype("float64").to_numpy()
        logs = np.log(spent) if (spent > 0).all() else np.full(len(spent), np.nan)
        found.append(
            Point(
                str(size),
                float(own["params_total"].astype("float64").mean()),
                float(str(tokens)),
                dict(zip(seeds, np.log(own["val_loss"].astype("float64")), strict=True)),
                dict(zip(seeds, logs, strict=True)),
            )
        )
    return sorted(found, key=lambda point: (point.params, point.tokens))
