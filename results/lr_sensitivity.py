"""How much a scheme's loss depends on choosing its learning rate well.

LR sensitivity (Wortsman et al. 2023, arXiv 2309.14322): the mean over a grid of learning rates of min(loss, loss at initialisation), minus the best
of the grid. 0 means that any rate of the grid would have done; a run that diverged counts as if it had not been trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from resbench.harness import names

GROUP = ("task", "size", "scheme", "n_streams", "sinkhorn_iterations", "budget_tokens")
"""What is held fixed while the learning rate varies."""


def lr_sensitivity(runs: pd.DataFrame, curves: pd.DataFrame, group: Sequence[str] = GROUP) -> pd.DataFrame:
    """One row for each group that was trained at two learning rates or more, most sensitive first.

    Parameters
    ----------
    runs: of `load_runs`, complete and diverged runs alike; others are left out.
    curves: of `load_curves` for these runs with the validation loss, whose value at 0 tokens is the loss at initialisation.
    group: columns of ``runs`` that are held fixed.

    Columns: the group's, ``sensitivity`` and ``best_loss`` in nats per token, ``best_learning_rate``, ``learning_rates`` (size of the grid),
    ``lowest`` and ``highest`` of the grid, ``runs`` and ``diverged``. Seeds of one rate are averaged first. Raises ValueError for a run without
    a loss at 0 tokens.
    """
    ended = runs[runs["outcome"].isin(["complete", "diverged"]) & runs["learning_rate"].notna()].copy()
    at_start = curves[(curves["metric"] == names.VAL_LOSS) & (curves["tokens"] == 0)].set_index("run_id")["value"]
    missing = sorted(set(ended["run_id"]) - set(at_start.index))
    if missing:
        raise ValueError(
            f"run {missing[0]} has no validation loss at 0 tokens ({len(missing)} such runs): leave it out of the table"
        )
    initial = ended["run_id"].map(at_start).astype("float64")
    loss = ended["val_loss"].where(ended["outcome"] == "complete")
    ended["counted"] = loss.fillna(float("inf")).clip(upper=initial)
    rows = []
    for key, of_group in ended.groupby(list(group), dropna=False, sort=False):
        by_rate = of_group.groupby("learning_rate", as_index=False)["counted"].mean()
        if len(by_rate) < 2:
            continue
        rates, losses = by_rate["learning_rate"], by_rate["counted"]
        found = dict(zip(group, key if isinstance(key, tuple) else (key,), strict=True))
        found |= {
            "sensitivity": float(losses.mean() - losses.min()),
            "best_loss": float(losses.min()),
            "best_learning_rate": float(rates[losses.argmin()]),
            "learning_rates": len(by_rate),
            "lowest": float(rates.min()),
            "highest": float(rates.max()),
            "runs": len(of_group),
            "diverged": int((of_group["outcome"] == "diverged").sum()),
        }
        rows.append(found)
    columns = [
        *group, "sensitivity", "best_loss", "best_learning_rate", "learning_rates", "lowest", "highest", "runs", "diverged",
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values("sensitivity", ascending=False, kind="stable", ignore_index=True)
