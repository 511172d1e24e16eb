"""The leaderboard as data: cells compared and ranked, what a reader must know about them, and the JSON and CSV forms."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

import pandas as pd

from resbench.results.cells import Cell, Group, labelled, summarise
from resbench.results.columns import printable
from resbench.results.ranking import REFERENCE, compare, verdict
from resbench.results.runs import FINAL, SHARED, ranked_runs
from resbench.results.scaling.frontier import Multiplier
from resbench.results.scaling.multipliers import multipliers
from resbench.results.scaling.points import COSTS
from resbench.results.statistics import CONFIDENCE, MARGIN, POWER
from resbench.results.tuning import with_lr_sensitivity, with_tuning_budget

SCHEMA = "resbench.leaderboard/1"
"""Name and version of the JSON form; the number changes when a reader of the old form would misread the new one."""


@dataclass(frozen=True)
class Leaderboard:
    """A study's cells, best first within each comparison group, with notes on what limits the comparison.

    `runs` is the labelled table of the runs that count; the figures are drawn from it. `margin` is the largest difference
    in loss that counts as none, nats/token.
    """

    study: str
    cells: list[Cell]
    notes: list[str]
    runs: pd.DataFrame
    margin: float = MARGIN

    @property
    def groups(self) -> list[tuple[Group, list[Cell]]]:
        """The cells by comparison group, in order."""
        return [(group, list(cells)) for group, cells in groupby(self.cells, key=lambda cell: cell.group)]


def make_leaderboard(
    runs: pd.DataFrame,
    study: str,
    badges: Mapping[str, str] | None = None,
    margin: float = MARGIN,
    curves: pd.DataFrame | None = None,
) -> Leaderboard:
    """The leaderboard of one study's runs (a table of `load_runs`), with the conformance badges of its schemes, if there are any.

    `margin` is what equivalence is tested against, nats/token. `curves` (of `load_curves`, validation losses) lets sweeps over learning rates
    show how sensitive schemes are to them.
    Raises ValueError, saying what there is, if no run of the table has phase `final`.
    """
    ranked = ranked_runs(runs)
    if ranked.empty:
        phases = ", ".join(
            f"{n} {phase}" for phase, n in runs["phase"].fillna("without a phase").value_counts().items()
        )
        raise ValueError(
            f"study {study!r} has no run of phase {FINAL!r} to rank (runs there: {phases or 'none'}). "
            "Only final runs are ranked; finish the sweep with: resbench sweep run FILE"
        )
    table = labelled(ranked)
    cells = [replace(cell, conformance=(badges or {}).get(cell.scheme)) for cell in compare(summarise(table), margin)]
    cells = _with_multipliers(with_tuning_budget(cells, runs), table)
    if curves is not None:
        cells = with_lr_sensitivity(cells, table, curves)
    return Leaderboard(study, cells, _notes(cells, runs), table, margin)


def _with_multipliers(cells: Sequence[Cell], table: pd.DataFrame) -> list[Cell]:
    found = multipliers(table)

    def of(cell: Cell) -> Mapping[str, Multiplier | str]:
        group = cell.group
        return found.get(((group.task, group.setting, group.data_fingerprint), cell.label), {})

    return [replace(cell, multipliers=of(cell)) for cell in cells]


def to_json(leaderboard: Leaderboard) -> str:
    """The machine-readable form: schema `SCHEMA`, every number finite or null, keys sorted."""
    content = {
        "schema": SCHEMA,
        "study": leaderboard.study,
        "reference": REFERENCE,
        "confidence": CONFIDENCE,
        "power": POWER,
        "equivalence_margin": leaderboard.margin,
        "units": {
            "val_loss": "nats/token",
            "bits_per_byte": "bits/byte",
            "tokens_per_s": "tokens/s",
            "peak_gib": "GiB",
            "wall_s": "s",
            "flops_per_token": "FLOP/token",
            "multipliers": "reference's cost over the scheme's at equal loss; losses in nats/token",
            "lr_sensitivity": "nats/token",
            "tuning_runs": "search trials",
        },
        "notes": leaderboard.notes,
        "rows": [_row(cell) for cell in leaderboard.cells],
    }
    return json.dumps(_finite(content), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(leaderboard: Leaderboard) -> str:
    """The rows as CSV: the fields of the JSON form, nested ones joined by dots."""
    rows = [dict(_flat(_finite(_row(cell)))) for cell in leaderboard.cells]
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _inert(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _row(cell: Cell) -> dict[str, Any]:
    row = asdict(cell)
    comparison = row.pop("comparison")
    row["runs"] = [
        {"seed": seed, "val_loss": loss, "run_id": cell.run_ids[seed]} for seed, loss in sorted(cell.losses.items())
    ]
    del row["losses"], row["run_ids"]
    row["multipliers"] = {
        cost: {"reason": found} if isinstance(found, str) else asdict(found) for cost, found in cell.multipliers.items()
    }
    row["outcomes"]["diverged_fraction"] = cell.outcomes.diverged_fraction
    row["difference"] = None
    if cell.comparison is not None:
        row["difference"] = comparison["difference"] | {
            "p": cell.comparison.p,
            "p_holm": cell.holm_p,
            "detectable": cell.comparison.detectable,
            "equivalence": None
            if cell.comparison.equivalence is None
            else comparison["equivalence"] | {"p_holm": cell.equivalence_p},
            "verdict": verdict(cell),
        }
    del row["holm_p"], row["equivalence_p"]
    return row


def _finite(value: Any) -> Any:
    """The same structure with every non-finite number replaced by None and every tuple by a list."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flat(row: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in row.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif key == "runs":
            yield f"{prefix}{key}", " ".join(f"{item['seed']}:{item['val_loss']!r}" for item in value)
        elif isinstance(value, list):
            yield f"{prefix}{key}", " ".join(str(item) for item in value)
        else:
            yield f"{prefix}{key}", value


def _inert(value: Any) -> Any:
    """Text that a spreadsheet would run as a formula gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _notes(cells: Sequence[Cell], runs: pd.DataFrame) -> list[str]:
    """What limits the comparison, one sentence each; empty when nothing does."""

    def counted(count: Callable[[Cell], int], noun: str, sentence: str) -> str:
        total = sum(count(cell) for cell in cells)
        return f"{total} {noun}{'s' if total != 1 else ''} {sentence}" if total else ""

    groups = {cell.group for cell in cells}
    without = len(groups - {cell.group for cell in cells if cell.is_reference})
    data = {(group.task, group.data_fingerprint) for group in groups}
    searched = int((runs["phase"] != FINAL).sum())
    seeds: dict[Group, set[frozenset[int]]] = {}
    for cell in cells:
        seeds.setdefault(cell.group, set()).add(frozenset(cell.losses))
    uneven = sum(len(found - {frozenset()}) > 1 for found in seeds.values())
    notes = [
        counted(
            lambda c: c.val_loss.n == 1,
            "row",
            "with one seed only: no interval, no test, and a rank that says nothing.",
        ),
        counted(
            lambda c: c.val_loss.n in (2, 3),
            "row",
            "with two or three seeds: wide intervals, in which most differences are lost.",
        ),
        counted(
            lambda c: bool(c.unranked),
            "row",
            "with fewer seeds than the track asks for: compared there, and not ranked.",
        ),
        counted(
            lambda c: c.outcomes.diverged,
            "run",
            "diverged: counted, in no pair and no mean (means are over the seeds that completed).",
        ),
        counted(lambda c: c.outcomes.oom, "run", "out of memory."),
        counted(lambda c: c.outcomes.failed, "run", "failed: run the sweep again to repeat."),
        counted(lambda c: c.outcomes.unfinished, "run", "unfinished: run the sweep again to continue."),
        counted(
            lambda c: c.outcomes.superseded,
            "earlier attempt",
            "at a planned run not counted: the newest one with a result is.",
        ),
        counted(lambda c: len(c.commits) > 1 or c.dirty, "row", "from more than one commit or from uncommitted code."),
        counted(
            lambda c: len(c.hardware) > 1,
            "row",
            "over several kinds of hardware: throughput and memory are averages over them.",
        ),
        counted(lambda c: c.shared_gpu, "row", f"of {SHARED}."),
        "The runs saw different data under one task name: rows are compared only where the data is the same."
        if len(data) > len({task for task, _ in data})
        else "",
        f"{uneven} of {len(groups)} comparison groups have rows of different seeds: compare their differences to {REFERENCE}, which are paired."
        if uneven
        else "",
        f"{without} of {len(groups)} comparison groups without a {REFERENCE} row to compare with." if without else "",
        f"Runs of a hyper-parameter search, not ranked: {searched}." if searched else "",
        *_no_multipliers(cells),
    ]
    return [note for note in notes if note]


def _no_multipliers(cells: Sequence[Cell]) -> list[str]:
    """Why schemes have no multiplier, one sentence for each reason that holds for all costs of some scheme."""
    reasons: dict[str, set[str]] = {}
    for cell in cells:
        found = {reason for reason in cell.multipliers.values() if isinstance(reason, str)}
        if (
            len(cell.multipliers) == len(COSTS)
            and len(found) == 1
            and all(isinstance(v, str) for v in cell.multipliers.values())
        ):
            reasons.setdefault(found.pop(), set()).add(printable(cell.label))
    return [
        f"No multiplier over {REFERENCE} for {', '.join(sorted(labels))}: {reason}."
        for reason, labels in reasons.items()
    ]
