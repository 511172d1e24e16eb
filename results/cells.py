"""From runs to rows: the runs of a cell (everything equal but the seed) summed up, within their comparison group.

A *comparison group* is what may honestly be compared: the same task and data, model size, token budget and every factor of
the sweep that is not the scheme's own. Losses, ranks and ties never cross groups.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from resbench.results.runs import shared_gpu
from resbench.results.statistics import Comparison, Estimate, mean_interval

if TYPE_CHECKING:
    from resbench.results.scaling.frontier import Multiplier
    from resbench.results.tuning import LrSensitivity

GROUP = ["task", "size", "setting", "budget_tokens", "data_fingerprint", "track"]
"""Columns of a labelled table that make a comparison group."""

OPEN_TRACK = "open"
"""The track of every row that fits no other (`resbench.results.tracks`)."""

SYMBOLS = {"n_streams": "n", "sinkhorn_iterations": "t"}
"""Fields of a scheme that labels write as papers do; any other goes by its name."""

BUDGET = ("tokens_per_parameter", "budget.tokens")
"""Factors that only say how long a run trains, which `budget_tokens` says in tokens: no part of a setting, so that one law spans them."""

UNSEEDED = -1
"""Stands for the seed of a run without one."""


@dataclass(frozen=True)
class Group:
    """What the cells of one comparison share. `setting` holds the sweep's other factors, such as `depth=8`."""

    task: str
    size: str
    setting: str
    tokens: int | None
    data_fingerprint: str
    track: str = OPEN_TRACK

    @property
    def title(self) -> str:
        """For headings: task, size, budget and setting."""
        budget = "unknown budget" if self.tokens is None else f"{self.tokens:,} tokens"
        track = "" if self.track == OPEN_TRACK else f"track {self.track}"
        return ", ".join(part for part in (self.task, self.size, budget, self.setting, track) if part)


@dataclass(frozen=True)
class Outcomes:
    """How the planned runs of a cell ended. `failed` includes pruned ones; `superseded` are earlier attempts, not used."""

    total: int
    complete: int
    diverged: int
    oom: int
    failed: int
    unfinished: int
    superseded: int

    @property
    def diverged_fraction(self) -> float | None:
        """Share of diverged runs among those that could show it (complete or diverged)."""
        shown = self.complete + self.diverged
        return self.diverged / shown if shown else None


@dataclass(frozen=True)
class Cell:
    """One row: what the runs of a cell say. None is unknown.

    Losses are in nats/token, memory in GiB, times in seconds; means are over complete runs, of which `losses` and
    `run_ids` tell the final loss and MLflow's id by seed. `rank` counts from 1 within the
    group and is shared by cells that cannot be told apart (`tied`). `comparison` is the paired difference to the group's
    reference, `holm_p` its p corrected over the group's comparisons and
    `equivalence_p` that of its equivalence test. `conformance` is the badge of `resbench check-scheme`.

    Speeds and times are those of runs that had their GPU alone; `shared_gpu` says that one had not.

    `multipliers` has, for each cost (`flops`, `wall_s`, `peak_gib`), how many times the reference must spend for the same loss over the
    scheme's whole ladder of sizes and budgets, or the sentence that says why that cannot be told. `tuning_runs` counts the search trials that
    chose the cell's hyper-parameters: 0 where they were given. `verified` says what a rerun of a submission's runs found,
    `unranked` why its track does not rank the row.
    """

    group: Group
    cell: str
    scheme: str
    label: str
    n_streams: int | None
    sinkhorn_iterations: int | None
    outcomes: Outcomes
    losses: dict[int, float]
    run_ids: dict[int, str]
    val_loss: Estimate
    bits_per_byte: float | None
    unigram_bits_per_byte: float | None
    accuracy: float | None
    chance_accuracy: float | None
    tokens_per_s: float | None
    peak_gib: float | None
    wall_s: float | None
    params_total: int | None
    params_connection: int | None
    flops_per_token: float | None
    gain_forward: float | None
    gain_backward: float | None
    hardware: tuple[str, ...]
    shared_gpu: bool
    kernels: tuple[str, ...]
    commits: tuple[str, ...]
    dirty: bool
    config_hashes: tuple[str, ...]
    is_reference: bool = False
    tokens_per_s_ratio: float | None = None
    peak_gib_ratio: float | None = None
    comparison: Comparison | None = None
    holm_p: float | None = None
    equivalence_p: float | None = None
    rank: int | None = None
    tied: bool = False
    conformance: str | None = None
    multipliers: Mapping[str, Multiplier | str] = field(default_factory=dict)
    tuning_runs: int = 0
    lr_sensitivity: LrSensitivity | None = None
    verified: str | None = None
    unranked: str = ""


def labelled(runs: pd.DataFrame) -> pd.DataFrame:
    """The table with two more columns read from `cell`: `label` (the scheme, as the sweep calls it) and `setting` (the rest).

    Speeds and times of runs that shared a GPU with others are left out: they are as much those of the others.

    `scheme=mhc,size=1m,scheme.n_streams=2,depth=8` has the label `mhc, n = 2` and the setting `depth=8`. A run
    without a named size is told by its shape, `8x336`.
    """
    parts = [_label_and_setting(cell, scheme) for cell, scheme in zip(runs["cell"], runs["scheme"], strict=True)]
    shape = runs["depth"].astype("string") + "x" + runs["width"].astype("string")
    runs = runs.copy()
    runs.loc[shared_gpu(runs), ["tokens_per_s", "wall_s", "step_ms", "mfu"]] = float("nan")
    return runs.assign(
        label=pd.Series([label for label, _ in parts], dtype="string", index=runs.index),
        setting=pd.Series([setting for _, setting in parts], dtype="string", index=runs.index),
        size=runs["size"].fillna(shape),
        track=runs.get("track", OPEN_TRACK),
    )


def summarise(runs: pd.DataFrame) -> list[Cell]:
    """One `Cell` for each cell of a labelled table of ranked runs, not yet compared; ordered by group, then label."""
    by = [*GROUP, "cell", "scheme"]
    cells = [_cell(members) for _, members in runs.groupby(by, dropna=False, sort=False)]
    return sorted(cells, key=lambda cell: (*group_order(cell.group), natural(cell.label), cell.cell))


def group_of(runs: pd.DataFrame) -> Group:
    """The comparison group that all these runs share."""
    first = runs.iloc[0]
    return Group(
        task=_text(first["task"]) or "unknown task",
        size=_text(first["size"]) or "unknown size",
        setting=_text(first["setting"]),
        tokens=None if pd.isna(first["budget_tokens"]) else int(first["budget_tokens"]),
        data_fingerprint=_text(first["data_fingerprint"]),
        track=_text(first["track"]) or OPEN_TRACK,
    )


def group_order(group: Group) -> tuple[object, ...]:
    """Sorting key: by task, then from small models (shallow ones, of sizes without a name) and short budgets to large ones."""
    return (
        group.task,
        size_order(group.size),
        natural(group.size),
        group.tokens or 0,
        natural(group.setting),
        group.data_fingerprint,
        group.track == OPEN_TRACK,
        group.track,
    )


def size_order(size: str) -> float:
    """A named size as a number (`400k` < `1m` < `1b`), so that sizes sort by parameters; others, such as `8x336`, come last."""
    scale = {"k": 1e3, "m": 1e6, "b": 1e9}.get(size[-1:].lower())
    try:
        return float(size[:-1]) * scale if scale else float("inf")
    except ValueError:
        return float("inf")


def natural(text: str) -> list[tuple[int, float, str]]:
    """Sorting key under which `n_streams 8` comes before `n_streams 16`."""
    parts = re.findall(r"\d+|\D+", text)
    return [(0, float(part), "") if part.isdecimal() else (1, 0.0, part) for part in parts]


def _label_and_setting(cell: str, scheme: str) -> tuple[str, str]:
    label, details, setting = scheme, [], []
    for factor in str(cell).split(","):
        name, equals, value = factor.partition("=")
        if not equals or name in ("size", *BUDGET):
            continue
        if name == "scheme":
            label = value
        elif name.startswith("scheme."):
            field = name.removeprefix("scheme.")
            details.append(f"{SYMBOLS.get(field, field)} = {value}")
        else:
            setting.append(factor)
    return ", ".join([label, *details]), ", ".join(setting)


def _cell(runs: pd.DataFrame) -> Cell:
    first = runs.iloc[0]
    complete = runs[runs["outcome"] == "complete"]
    counts = runs["outcome"].value_counts()
    seeds = [int(seed) for seed in complete["seed"].fillna(UNSEEDED)]
    losses = {seed: float(loss) for seed, loss in zip(seeds, complete["val_loss"], strict=True)}
    return Cell(
        group=group_of(runs),
        cell=_text(first["cell"]),
        scheme=_text(first["scheme"]),
        label=_text(first["label"]),
        n_streams=_whole(runs["n_streams"]),
        sinkhorn_iterations=_whole(runs["sinkhorn_iterations"]),
        outcomes=Outcomes(
            total=len(runs),
            complete=len(complete),
            diverged=int(counts.get("diverged", 0)),
            oom=int(counts.get("oom", 0)),
            failed=int(counts.get("failed", 0) + counts.get("pruned", 0)),
            unfinished=int(counts.get("running", 0)),
            superseded=int((runs["attempts"] - 1).sum()),
        ),
        losses=losses,
        run_ids={seed: str(run_id) for seed, run_id in zip(seeds, complete["run_id"], strict=True)},
        val_loss=mean_interval(list(losses.values())),
        bits_per_byte=_mean(complete["bits_per_byte"]),
        unigram_bits_per_byte=_mean(runs["unigram_bits_per_byte"]),
        accuracy=_mean(complete["accuracy"]),
        chance_accuracy=_mean(runs["chance_accuracy"]),
        tokens_per_s=_mean(complete["tokens_per_s"]),
        peak_gib=_mean(complete["peak_gib"]),
        wall_s=_mean(complete["wall_s"]),
        params_total=_whole(runs["params_total"]),
        params_connection=_whole(runs["params_connection"]),
        flops_per_token=_mean(runs["flops_per_token"]),
        gain_forward=_mean(runs["gain_forward"]),
        gain_backward=_mean(runs["gain_backward"]),
        hardware=_distinct(runs["hardware"]),
        shared_gpu=bool(shared_gpu(runs).any()),
        kernels=_distinct(runs["kernels"]),
        commits=_distinct(runs["commit"]),
        dirty=bool(runs["dirty"].fillna(False).any()),
        config_hashes=_distinct(runs["config_hash"]),
        unranked=_text(first.get("unranked")),
    )


def _text(value: Any) -> str:
    return "" if pd.isna(value) else str(value)


def _mean(values: pd.Series) -> float | None:
    known = values.dropna()
    return float(known.mean()) if len(known) else None


def _whole(values: pd.Series) -> int | None:
    known = values.dropna()
    return int(known.iloc[0]) if len(known) else None


def _distinct(values: pd.Series) -> tuple[str, ...]:
    return tuple(sorted({str(value) for value in values.dropna()}))
