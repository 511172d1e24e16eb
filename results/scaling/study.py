"""Everything `resbench scaling` says about a study, as tables: a function of the tidy table of runs and nothing else.

A *ladder* is what one law may be fitted over: the runs of one task, data and setting, whatever their size and budget. Every table has the
ladder's name and, in `reason`, why a row is without numbers where it is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from resbench.results.cells import labelled, natural, size_order
from resbench.results.ranking import REFERENCE
from resbench.results.runs import ranked_runs
from resbench.results.scaling.effects import effects, iso_flops
from resbench.results.scaling.frontier import power_law
from resbench.results.scaling.law import Fit, fit
from resbench.results.scaling.multipliers import LADDER, not_compared, over_reference
from resbench.results.scaling.points import COSTS, Point, points, usable

SCHEMA = "resbench.scaling/1"

RESAMPLES = 500
"""Bootstrap resamples of the runs."""


@dataclass(frozen=True)
class Scaling:
    """A study's scaling, one table for each question; losses in nats/token, sizes in parameters, budgets in tokens.

    `laws`: L(N, D) of each scheme with intervals. `fitted`: every run beside it. `frontiers`: power laws of loss in each cost.
    `multipliers`: over the reference. `held_out`: the largest size, predicted from the others. `effects` and `levels`: of streams and
    Sinkhorn iterations. `iso_flops` and `iso_points`: best size at one compute. `notes`: what limits all this.
    """

    study: str
    laws: pd.DataFrame
    fitted: pd.DataFrame
    frontiers: pd.DataFrame
    frontier_points: pd.DataFrame
    multipliers: pd.DataFrame
    held_out: pd.DataFrame
    effects: pd.DataFrame
    levels: pd.DataFrame
    iso_flops: pd.DataFrame
    iso_points: pd.DataFrame
    notes: list[str]

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table by its name."""
        return {name: table for name, table in vars(self).items() if isinstance(table, pd.DataFrame)}

    def to_json(self) -> str:
        """Schema `SCHEMA`: every table as records, every number finite or null."""
        content: dict[str, Any] = {"schema": SCHEMA, "study": self.study, "reference": REFERENCE, "notes": self.notes}
        for name, table in self.tables().items():
            content[name] = [
                {key: _plain(value) for key, value in row.items()} for row in table.to_dict(orient="records")
            ]
        return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def scaling(runs: pd.DataFrame, study: str, resamples: int = RESAMPLES, sizes: Sequence[str] | None = None) -> Scaling:
    """The scaling of one study's runs (a table of `load_runs`), of these sizes where some are given.

    Raises ValueError if no complete final run is in it, or none of a size.
    """
    table = labelled(ranked_runs(runs))
    complete = usable(table)
    left_out: list[str] = []
    if sizes:
        there = sorted(set(complete["size"].dropna()), key=lambda size: (size_order(size), natural(size)))
        for size in sizes:
            if size not in there:
                raise ValueError(f"--size {size}: study {study!r} has complete runs of {', '.join(there) or 'no size'}")
        left_out = [size for size in there if size not in sizes]
        table, complete = (some[some["size"].isin(sizes)] for some in (table, complete))
    if complete.empty:
        raise ValueError(
            f"study {study!r} has no complete final run with a loss, parameters and tokens to fit ({len(runs)} runs in all). "
            "Finish it with: resbench sweep run FILE"
        )
    found: dict[str, list[dict[str, Any]]] = {
        name: []
        for name in (
            "laws", "fitted", "frontiers", "frontier_points", "multipliers", "held_out", "effects", "levels", "iso_flops", "iso_points",
        )
    }  # fmt: skip
    for ladder, of_ladder in _ladders(complete):
        schemes = [
            (str(label), str(own["scheme"].iloc[0]), own)
            for label, own in sorted(of_ladder.groupby("label"), key=lambda pair: natural(str(pair[0])))
        ]
        reference = next((own for label, _, own in schemes if label == REFERENCE), None)
        for label, scheme, own in schemes:
            head = {"ladder": ladder, "label": label, "scheme": scheme}
            _law(found, head, own, resamples)
            _frontiers(found, head, own, reference)
            for curve in iso_flops(label, points(own, "flops")):
                found["iso_flops"].append(
                    head
                    | {"flops": curve.flops, "best_params": curve.best_params}
                    | _ends(curve.interval)
                    | {"best_loss": curve.best_loss, "sizes": len(curve.sizes)}
                    | dict(zip(("c2", "c1", "c0"), curve.coefficients, strict=True))
                )
                found["iso_points"] += [
                    head | {"flops": curve.flops, "params": n, "loss": loss} for n, loss in curve.sizes
                ]
    for effect in effects(complete):
        head = {"factor": effect.factor, "scheme": effect.scheme, "where": effect.where}
        slope = effect.slope
        found["effects"].append(
            head | {"slope": slope.mean, "low": slope.low, "high": slope.high, "p": effect.p, "seeds": slope.n}
        )
        for level in effect.levels:
            difference = level.comparison.difference if level.comparison else None
            found["levels"].append(
                head
                | {
                    "value": level.value,
                    "loss": level.loss.mean,
                    "loss_low": level.loss.low,
                    "loss_high": level.loss.high,
                }
                | {"difference": difference and difference.mean, "low": difference and difference.low}
                | {"high": difference and difference.high, "p_holm": level.p_holm, "seeds": level.loss.n}
                | {"detectable": level.comparison.detectable if level.comparison else None}
            )
    return Scaling(
        study, **{name: pd.DataFrame(rows) for name, rows in found.items()}, notes=_notes(table, complete, left_out)
    )


def _ladders(runs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    groups = list(runs.groupby(list(LADDER), dropna=False, sort=True))
    several = len({keys[2] for keys, _ in groups}) > 1
    for (task, setting, data), own in groups:
        words = [str(task), *([str(setting)] if setting else []), *([f"data {str(data)[:8]}"] if several else [])]
        yield ", ".join(words), own


def _law(found: dict[str, list[dict[str, Any]]], head: dict[str, Any], own: pd.DataFrame, resamples: int) -> None:
    whole = _fit(own, resamples)
    row: dict[str, Any] = head | {
        "runs": len(own),
        "sizes": own["size"].nunique(),
        "budgets": own["budget_tokens"].nunique(),
    }
    if isinstance(whole, str):
        found["laws"].append(row | {"reason": whole})
    else:
        for name in ("E", "A", "B", "alpha", "beta"):
            low, high = whole.interval(name) or (None, None)
            row |= {name: getattr(whole.law, name), f"{name}_low": low, f"{name}_high": high}
        exponents = whole.samples[:, 4] / (whole.samples[:, 3] + whole.samples[:, 4]) if len(whole.samples) else None
        ends = (None, None) if exponents is None else tuple(float(q) for q in np.quantile(exponents, [0.025, 0.975]))
        row |= {"exponent": whole.law.exponent, "exponent_low": ends[0], "exponent_high": ends[1]}
        row |= {"objective": whole.objective, "agreeing_starts": whole.agreeing, "starts": whole.starts, "reason": ""}
        found["laws"].append(row)
        predicted = whole.law.loss(_floats(own["params_total"]), _floats(own["budget_tokens"]))
        for run, fitted, residual in zip(own.to_dict(orient="records"), predicted, whole.residuals, strict=True):
            found["fitted"].append(
                head
                | {
                    "size": run["size"],
                    "params": float(run["params_total"]),
                    "tokens": float(run["budget_tokens"]),
                    "seed": run["seed"],
                }
                | {"loss": run["val_loss"], "fitted": float(fitted), "residual": float(residual)}
            )
    _held_out(found, head, own, resamples)


def _held_out(found: dict[str, list[dict[str, Any]]], head: dict[str, Any], own: pd.DataFrame, resamples: int) -> None:
    """The largest size's cells, from a law fitted to the others: L(N, D) where it can be, else the power law in FLOPs."""
    cells = points(own, "flops")
    if len({cell.size for cell in cells}) < 2:
        return
    largest = cells[-1].size
    kept, held = [cell for cell in cells if cell.size != largest], [cell for cell in cells if cell.size == largest]
    smaller = _fit(own[own["size"] != largest], resamples)
    line = power_law(kept, resamples) if isinstance(smaller, str) else None
    for cell in held:
        measured = math.exp(cell.mean[1])
        row = head | {"size": cell.size, "params": cell.params, "tokens": cell.tokens, "measured": measured}
        if isinstance(smaller, Fit):
            predicted, ends = (
                float(smaller.law.loss(cell.params, cell.tokens)),
                smaller.prediction(cell.params, cell.tokens),
            )
            row |= {"law": "L(N, D)"}
        elif line is not None and not isinstance(line, str) and math.isfinite(cell.mean[0]):
            predicted, ends = float(line.loss(math.exp(cell.mean[0]))), None
            row |= {"law": "A C^-a"}
        else:
            found["held_out"].append(
                row | {"law": "", "reason": smaller if isinstance(smaller, str) else "cost unknown"}
            )
            continue
        row |= {"predicted": predicted} | _ends(ends)
        row |= {"error": predicted - measured, "error_relative": predicted / measured - 1, "reason": ""}
        found["held_out"].append(row)


def _frontiers(
    found: dict[str, list[dict[str, Any]]], head: dict[str, Any], own: pd.DataFrame, reference: pd.DataFrame | None
) -> None:
    for cost in COSTS:
        row = head | {"cost": cost}
        cells = points(own, cost)
        law = not_compared(cost, own, reference) or power_law(cells)
        if isinstance(law, str):
            found["frontiers"].append(row | {"reason": law})
        else:
            low, high = law.interval or (None, None)
            found["frontiers"].append(
                row
                | {"A": law.A, "a": law.a, "a_low": low, "a_high": high, "cost_low": law.low, "cost_high": law.high}
                | {"misfit": law.misfit, "points": law.points, "reason": ""}
            )
            found["frontier_points"] += [_point(row, cell) for cell in cells if math.isfinite(cell.mean[0])]
    if reference is None or head["label"] == REFERENCE:
        return
    for cost, ratio in over_reference(own, reference):
        row = head | {"cost": cost}
        if isinstance(ratio, str):
            found["multipliers"].append(row | {"unit": COSTS[cost], "reason": ratio})
        else:
            found["multipliers"].append(
                row
                | {"unit": COSTS[cost], "multiplier": ratio.value}
                | _ends(ratio.interval)
                | {"at_lowest_loss": ratio.at_best, "at_highest_loss": ratio.at_worst}
                | {"lowest_loss": ratio.best, "highest_loss": ratio.worst, "reason": ""}
            )


def _fit(own: pd.DataFrame, resamples: int) -> Fit | str:
    try:
        return fit(
            _floats(own["params_total"]), _floats(own["budget_tokens"]), _floats(own["val_loss"]), resamples=resamples
        )
    except ValueError as error:
        return str(error)


def _point(head: dict[str, Any], cell: Point) -> dict[str, Any]:
    cost, loss = cell.mean
    return head | {
        "size": cell.size,
        "params": cell.params,
        "tokens": cell.tokens,
        "spent": math.exp(cost),
        "loss": math.exp(loss),
        "seeds": len(cell.log_loss),
    }


def _ends(interval: tuple[float, float] | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {"low": low, "high": high}


def _floats(values: pd.Series) -> np.ndarray:
    return values.astype("float64").to_numpy()


def _plain(value: Any) -> Any:
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value.item() if isinstance(value, np.generic) else value


def _notes(table: pd.DataFrame, complete: pd.DataFrame, left_out: Sequence[str]) -> list[str]:
    left = table[~table["run_id"].isin(complete["run_id"])]["outcome"].value_counts()
    notes = []
    if len(left):
        notes.append("Not in any fit: " + ", ".join(f"{count} {outcome}" for outcome, count in left.items()) + " runs.")
    if REFERENCE not in set(complete["label"]):
        notes.append(f"No {REFERENCE} run: there is nothing to take multipliers over.")
    if complete["seed"].nunique() < 2:
        notes.append("One seed: power laws and multipliers have no interval.")
    else:
        seeds = complete.groupby([*LADDER, "label", "size", "budget_tokens"], dropna=False)["seed"].nunique()
        single = seeds[seeds < 2].reset_index()
        for size, own in single.groupby("size", sort=False):
            labels = ", ".join(sorted(set(own["label"]), key=natural))
            notes.append(f"{size} has one seed of {labels}: power laws and multipliers through it have no interval.")
    if left_out:
        notes.append(f"Sizes left out: {', '.join(left_out)}.")
    return notes
