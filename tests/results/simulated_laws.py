"""Tables of runs whose losses follow a law that the test knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from resbench.results.runs import COLUMNS
from resbench.results.scaling.law import Law

TRUTH = Law(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
"""The published law of Hoffmann et al. 2022 (arXiv 2203.15556, equation 10)."""

SIZES = {"1m": 1e6, "3m": 3e6, "7m": 7e6, "15m": 15e6, "30m": 30e6}


def ladder(
    schemes: Mapping[str, float],
    *,
    sizes: Mapping[str, float] = SIZES,
    ratios: Sequence[float] = (5, 10, 20, 40),
    seeds: int = 3,
    noise: float = 0.003,
    luck: float = 0.003,
    generator: np.random.Generator | None = None,
    n_streams: int | None = None,
    **more: Any,
) -> pd.DataFrame:
    """A run per scheme, size, tokens per parameter and seed.

    Args:
        schemes: scheme -> how many times resnet's compute it is worth: it has the loss that resnet would have with that many
            times its tokens and parameters' compute, that is with both grown by the square root.
        noise: sd of ln loss of a run's own; `luck` that which all schemes of a seed share.
    """
    drawn = generator or np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for size, params in sizes.items():
        for ratio in ratios:
            tokens = params * ratio
            shared = drawn.normal(0, luck, seeds)
            for scheme, worth in schemes.items():
                loss = float(TRUTH.loss(params * worth**0.5, tokens * worth**0.5))
                for seed in range(seeds):
                    rows.append(
                        {
                            "run_id": f"r{len(rows)}",
                            "started": pd.Timestamp("2026-01-01", tz="UTC"),
                            "study": "laws",
                            "phase": "final",
                            "task": "t",
                            "data_fingerprint": "d",
                            "scheme": scheme,
                            "cell": f"scheme={scheme},size={size}",
                            "size": size,
                            "seed": seed,
                            "n_streams": n_streams,
                            "budget_tokens": round(tokens),
                            "params_total": round(params),
                            "flops_per_token": 6 * params,
                            "flops": 6 * params * tokens,
                            "tokens_per_s": 1e13 / (6 * params) / (1 if scheme == "resnet" else 1.2),
                            "wall_s": 5.0 + 6 * params * tokens / 1e13 * (1 if scheme == "resnet" else 1.2),
                            "peak_gib": params * 2e-7,
                            "hardware": "simulated",
                            "outcome": "complete",
                            "val_loss": loss * float(np.exp(shared[seed] + drawn.normal(0, noise))),
                            **more,
                        }
                    )
    return table(rows)


def table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A table of `load_runs` from the columns that matter."""
    return pd.DataFrame({c.name: pd.Series([row.get(c.name) for row in rows], dtype=c.dtype) for c in COLUMNS})
