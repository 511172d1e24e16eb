"""Tracks: frozen, versioned rules by task and budget (`tracks.yaml`), and which runs kept them.

Whatever else a row says, it says it within its track: ranks, differences and ties never cross tracks. A row that fits none is in the open
track, with the reason; one that lacks nothing but seeds is compared in the track and not ranked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from resbench.results.cells import GROUP, OPEN_TRACK, labelled
from resbench.results.runs import FINAL
from resbench.results.source import RunSource

FILE = Path(__file__).parent / "tracks.yaml"

RATIO = 0.01
"""How far from a track's tokens per parameter a run may be, relatively: the plan rounds to whole tokens."""

Value = bool | int | float | str


class Track(BaseModel):
    """The rules of one track. `digest` is the SHA-256 of all the others; a frozen track's no longer change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
    version: int = Field(ge=1)
    frozen: date
    title: str = Field(min_length=1, max_length=120)
    about: str = Field(min_length=1, max_length=400)
    task: list[str] = Field(min_length=1)
    sizes: list[str] = []
    tokens: list[int] = []
    tokens_per_parameter: list[float] = []
    fixed: dict[str, Value] = {}
    may_tune: list[str] = []
    tuning_runs: int = Field(ge=0)
    seeds: int = Field(ge=1)
    digest: str = ""

    @model_validator(mode="after")
    def _one_budget(self) -> Track:
        if bool(self.tokens) == bool(self.tokens_per_parameter):
            raise ValueError("give the budget as tokens or as tokens_per_parameter, one of the two")
        return self

    @property
    def name(self) -> str:
        """Id and version, `demo/1`: what a row carries."""
        return f"{self.id}/{self.version}"

    def rules_digest(self) -> str:
        """SHA-256 of the rules, everything but the digest."""
        rules = self.model_dump(
            mode="json", exclude={"digest"}, exclude_unset=True
        )  # a rule invented later changes no older track
        return hashlib.sha256(json.dumps(rules, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class Placed:
    """The track of every cell, and for those in the open track what keeps them out of the nearest one."""

    runs: pd.DataFrame
    reasons: dict[str, str]


def load_tracks(file: Path = FILE) -> list[Track]:
    """The tracks of a file, in its order.

    Raises ValueError naming the track and the rule for one that is no track, one named twice, and one that was changed after it was frozen.
    """
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    tracks: list[Track] = []
    for position, entry in enumerate(content or []):
        named = entry.get("id") if isinstance(entry, dict) else None
        where = f"{file}: {named or f'entry {position + 1}'}"
        try:
            track = Track.model_validate(entry)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "budget"
            raise ValueError(f"{where}: {field}: {first['msg'].removeprefix('Value error, ')}") from error
        if track.name in {other.name for other in tracks}:
            raise ValueError(f"{where}: version {track.version} is there twice; give the newer one the next version")
        if track.digest != track.rules_digest():
            raise ValueError(
                f"{where}: the rules of version {track.version} are not those that were frozen on {track.frozen}. Put them back, or add "
                f"version {track.version + 1}; the digest of the rules as they are now is {track.rules_digest()}"
            )
        tracks.append(track)
    return tracks


def place(runs: pd.DataFrame, source: RunSource, tracks: Sequence[Track]) -> Placed:
    """The table of `load_runs` with columns `track`, for every cell the first track whose rules all its final runs kept or else `OPEN_TRACK`,
    and `unranked`, why a row of a track has no rank there.

    A row that only lacks seeds stays beside those it is compared with, without a rank; where fewer than two of them have enough, none is in the
    track.

    Args:
        runs: of `load_runs`, search runs included, since these are counted.
        source: where they come from; parameters are read there.
        tracks: of `load_tracks`.
    """
    params = {run.run_id: run.params for run in source.runs()}
    plain = _plain_sizes(runs)
    table = labelled(runs[runs["phase"] == FINAL])
    trials = runs[runs["phase"] != FINAL].assign(trial=lambda rows: rows["trial_key"].fillna(rows["run_id"]))
    searched = trials.groupby("cell", dropna=False)["trial"].nunique()
    placed = pd.Series(OPEN_TRACK, index=runs.index, dtype="string")
    unranked = pd.Series("", index=runs.index, dtype="string")
    reasons: dict[str, str] = {}
    for _, members in table.groupby(["study", *(column for column in GROUP if column != "track")], dropna=False):
        near: dict[str, list[tuple[pd.DataFrame, str]]] = {}
        for cell, own in members.groupby("cell", dropna=False):
            broken = [(track, _broken(track, own, params, int(searched.get(cell, 0)), plain)) for track in tracks]
            kept = [(track, _short(track, own)) for track, rules in broken if not rules]
            if kept:
                track, short = next((pair for pair in kept if not pair[1]), kept[0])
                near.setdefault(track.name, []).append((own, short))
            else:
                reasons[str(cell)] = _nearest(broken, str(own["task"].iloc[0]))
        for name, rows in near.items():
            enough = [own for own, short in rows if not short]
            together = len(enough) >= min(2, len(rows))
            for own, short in rows:
                if together:
                    placed[own.index] = name
                    unranked[own.index] = short
                else:
                    alone = "the only row of its comparison with enough seeds"
                    reasons[str(own["cell"].iloc[0])] = f"not in {name}: {short or alone}"
    return Placed(runs.assign(track=placed, unranked=unranked), reasons)


def _nearest(broken: Sequence[tuple[Track, list[str]]], task: str) -> str:
    near = [(track, rules) for track, rules in broken if task in track.task]
    if not near:
        return "no track has this task"
    track, rules = min(near, key=lambda pair: len(pair[1]))
    return f"not in {track.name}: {'; '.join(rules)}"


def _short(track: Track, members: pd.DataFrame) -> str:
    """How many seeds a cell lacks for a rank; empty if it has them, or a run that diverged, which counts whatever the others do."""
    complete = int((members["outcome"] == "complete").sum())
    if complete >= track.seeds or (members["outcome"] == "diverged").any():
        return ""
    return f"{complete} complete seeds, at least {track.seeds}"


def _broken(
    track: Track,
    members: pd.DataFrame,
    params: Mapping[str, Mapping[str, str]],
    searched: int,
    plain: Mapping[tuple[str, str], int],
) -> list[str]:
    """The rules of a track, but for that of seeds, that a cell's final runs did not keep, one phrase each."""
    first = members.iloc[0]
    broken = []
    if str(first["task"]) not in track.task:
        broken.append(f"task {first['task']}, not {' or '.join(track.task)}")
    if track.sizes and str(first["size"]) not in track.sizes:
        broken.append(f"size {first['size']}, not {' or '.join(track.sizes)}")
    broken += _broken_budget(track, first, plain)
    for key, value in track.fixed.items():
        found = {params.get(str(run_id), {}).get(key) for run_id in members["run_id"]}
        if other := [given for given in found if given is None or not same(given, value)]:
            broken.append(f"{key} is {'not logged' if other[0] is None else other[0]}, not {value}")
    if searched > track.tuning_runs:
        broken.append(f"{searched} search trials, at most {track.tuning_runs}")
    return broken


def _broken_budget(track: Track, run: pd.Series, plain: Mapping[tuple[str, str], int]) -> list[str]:
    """Why a run's planned tokens are not the track's, if they are not."""
    tokens = run["budget_tokens"]
    if pd.isna(tokens):
        return ["an unknown number of tokens"]
    if track.tokens:
        allowed = " or ".join(f"{number:,}" for number in track.tokens)
        return [] if int(tokens) in track.tokens else [f"{int(tokens):,} tokens, not {allowed}"]
    parameters = plain.get((str(run["task"]), str(run["size"])))
    ratio = None if parameters is None else int(tokens) / parameters
    if ratio is not None and any(abs(ratio / allowed - 1) < RATIO for allowed in track.tokens_per_parameter):
        return []
    allowed = " or ".join(f"{number:g}" for number in track.tokens_per_parameter)
    return [f"{'an unknown number of' if ratio is None else f'{ratio:.3g}'} tokens per parameter, not {allowed}"]


def _plain_sizes(runs: pd.DataFrame) -> dict[tuple[str, str], int]:
    """Parameters of the plain model of each task and size, as `sweep` counts tokens per parameter: without connections, not widened."""
    counted = runs.assign(plain=runs["params_total"] - runs["params_connection"].fillna(0)).dropna(subset=["plain"])
    smallest: dict[tuple[str, str], int] = {}
    for task, size, plain in zip(
        counted["task"].astype(str), counted["size"].astype(str), counted["plain"], strict=True
    ):
        smallest[task, size] = min(int(plain), smallest.get((task, size), int(plain)))
    return smallest


def same(logged: str, value: Value) -> bool:
    """Whether a logged parameter, which is text, says the value of a rule."""
    if isinstance(value, bool):
        return logged.lower() == str(value).lower()
    try:
        return float(logged) == float(value)
    except ValueError:
        return logged == str(value)
