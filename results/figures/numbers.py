"""The numbers behind the curves: validation loss over training, averaged over seeds and paired with the reference's.

A band is the range over seeds (lowest to highest), not an interval: with the few seeds of a sweep it shows what was seen.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from resbench.harness import names
from resbench.results.cells import Cell
from resbench.results.leaderboard import Leaderboard
from resbench.results.statistics import differences

LOSS, WALL = names.VAL_LOSS, names.PROGRESS_WALL_S

METRICS = (LOSS, WALL, names.GAIN_FORWARD, names.GAIN_BACKWARD)
"""Metric histories that the figures need."""

CURVE_COLUMNS = {
    "task": "",
    "size": "",
    "setting": "",
    "budget_tokens": "tokens",
    "scheme": "",
    "label": "",
    "cell": "",
    "tokens": "training tokens seen",
    "flops": "training FLOPs spent, connections included",
    "wall_s": "seconds of training, mean over seeds; missing where runs did not log it",
    "loss": "nats/token, mean over complete runs",
    "loss_low": "lowest over seeds",
    "loss_high": "highest over seeds",
    "n": "complete runs",
    "difference": "nats/token, mean over seeds of the difference to the reference at the same tokens",
    "difference_low": "lowest over pairs",
    "difference_high": "highest over pairs",
    "pairs": "seeds that both completed",
}
"""Columns of `curve_numbers` and what they hold."""


def curve_numbers(leaderboard: Leaderboard, curves: pd.DataFrame) -> pd.DataFrame:
    """One row for each cell and each number of tokens at which all its complete runs were validated."""
    losses = dict(iter(curves.groupby("metric")))
    tables = []
    for group, cells in leaderboard.groups:
        by_seed = {cell.cell: _by_seed(cell, losses.get(LOSS)) for cell in cells}
        reference = next((by_seed[cell.cell] for cell in cells if cell.is_reference), None)
        for cell in cells:
            loss = by_seed[cell.cell]
            if loss.empty:
                continue
            difference = (
                pd.DataFrame()
                if reference is None or cell.is_reference
                else (loss - reference).dropna(axis=1, how="all")
            )
            tables.append(
                pd.DataFrame(
                    {
                        "task": group.task,
                        "size": group.size,
                        "setting": group.setting,
                        "budget_tokens": group.tokens,
                        "scheme": cell.scheme,
                        "label": cell.label,
                        "cell": cell.cell,
                        "tokens": loss.index,
                        "flops": np.nan if cell.flops_per_token is None else loss.index * cell.flops_per_token,
                        "wall_s": _wall_at(cell, losses.get(WALL), loss.index),
                        **_range("loss", loss, loss.index),
                        "n": loss.shape[1],
                        **_range("difference", difference, loss.index),
                        "pairs": difference.shape[1],
                    }
                )
            )
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(CURVE_COLUMNS))


def difference_numbers(leaderboard: Leaderboard) -> pd.DataFrame:
    """Final paired differences: one row for each cell compared and each of its pairs, the cell's interval and the reference's training FLOPs
    repeated on it."""
    rows = []
    for group, cells in leaderboard.groups:
        reference = next((cell for cell in cells if cell.is_reference), None)
        for cell in cells:
            if reference is None or cell.comparison is None:
                continue
            estimate = cell.comparison.difference
            per_token, tokens = reference.flops_per_token, group.tokens
            flops = None if per_token is None or tokens is None else per_token * tokens
            for seed, difference in sorted(differences(cell.losses, reference.losses).items()):
                rows.append(
                    {
                        "task": group.task,
                        "size": group.size,
                        "setting": group.setting,
                        "budget_tokens": group.tokens,
                        "scheme": cell.scheme,
                        "label": cell.label,
                        "cell": cell.cell,
                        "flops": flops,
                        "seed": seed,
                        "pair_difference": difference,
                        "difference": estimate.mean,
                        "low": estimate.low,
                        "high": estimate.high,
                        "pairs": estimate.n,
                        "p_holm": cell.holm_p,
                        "detectable": cell.comparison.detectable,
                        "margin": leaderboard.margin,
                        "p_equivalence_holm": cell.equivalence_p,
                    }
                )
    return pd.DataFrame(rows).astype(
        dict.fromkeys(("flops", "difference", "low", "high", "p_holm", "detectable", "p_equivalence_holm"), "float64")
        if rows
        else {}
    )


def cost_numbers(leaderboard: Leaderboard) -> pd.DataFrame:
    """Throughput (tokens/s) and peak memory (GiB): one row for each complete run, in the order of the leaderboard's groups."""
    columns = [
        "task",
        "size",
        "setting",
        "budget_tokens",
        "scheme",
        "label",
        "cell",
        "seed",
        "hardware",
        "tokens_per_s",
        "peak_gib",
    ]
    in_order = [run_id for cell in leaderboard.cells for _, run_id in sorted(cell.run_ids.items())]
    complete = leaderboard.runs.set_index("run_id").loc[in_order, columns]
    return complete.dropna(subset=["tokens_per_s", "peak_gib"], how="all").reset_index(drop=True)


def gain_numbers(leaderboard: Leaderboard, profiles: pd.DataFrame) -> pd.DataFrame:
    """Composite gains by sublayer, geometric mean over the complete runs of a cell, with the range over them."""
    tables = []
    for group, cells in leaderboard.groups:
        for cell in cells:
            own = profiles[profiles["run_id"].isin(cell.run_ids.values())]
            if own.empty:
                continue
            by_depth = own.groupby("sublayer")
            table = pd.DataFrame({"sublayer": sorted(own["sublayer"].unique())})
            table.insert(0, "label", cell.label)
            table.insert(0, "scheme", cell.scheme)
            table.insert(0, "budget_tokens", group.tokens)
            table.insert(0, "setting", group.setting)
            table.insert(0, "size", group.size)
            table.insert(0, "task", group.task)
            for name in ("composite_forward", "composite_backward"):
                table[name] = by_depth[name].agg(_geometric_mean).to_numpy()
                table[f"{name}_low"] = by_depth[name].min().to_numpy()
                table[f"{name}_high"] = by_depth[name].max().to_numpy()
            table["n"] = by_depth["run_id"].nunique().to_numpy()
            tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _by_seed(cell: Cell, losses: pd.DataFrame | None) -> pd.DataFrame:
    """Loss by tokens (index) and seed (columns), where every complete run of the cell has a finite value."""
    if losses is None or not cell.run_ids:
        return pd.DataFrame()
    seeds = {run_id: seed for seed, run_id in cell.run_ids.items()}
    own = losses[losses["run_id"].isin(list(seeds)) & np.isfinite(losses["value"])]
    wide = own.assign(seed=own["run_id"].map(seeds)).pivot(index="tokens", columns="seed", values="value")
    return wide.dropna() if wide.shape[1] == len(seeds) else pd.DataFrame()


def _geometric_mean(gains: pd.Series) -> float:
    return float(np.exp(np.log(gains.clip(lower=1e-12)).mean()))


def _range(name: str, values: pd.DataFrame, index: pd.Index) -> dict[str, pd.Series]:
    if values.empty:
        nothing = pd.Series(np.nan, index=index)
        return {name: nothing, f"{name}_low": nothing, f"{name}_high": nothing}
    aligned = values.reindex(index)
    return {name: aligned.mean(axis=1), f"{name}_low": aligned.min(axis=1), f"{name}_high": aligned.max(axis=1)}


def _wall_at(cell: Cell, wall: pd.DataFrame | None, tokens: pd.Index) -> np.ndarray:
    """Mean over runs of the seconds at which each had seen so many tokens, interpolated between logged values."""
    if wall is None or cell.shared_gpu:
        return np.full(len(tokens), np.nan)
    logged = [table for _, table in wall[wall["run_id"].isin(cell.run_ids.values())].groupby("run_id") if len(table)]
    if len(logged) < len(cell.run_ids):
        return np.full(len(tokens), np.nan)
    return np.mean([np.interp(tokens, table["tokens"], table["value"], left=np.nan) for table in logged], axis=0)
