"""The record of a verification, version 1: which runs of which submission were run again, by whom, on what, and how far apart they were."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from resbench.results.cells import Cell
from resbench.results.submission.reading import read_bounded
from resbench.results.submission.schema import MOST_RUNS, Hash, Name, RunId, Who, digest_of

SCHEMA = "resbench.verification/1"

Verdict = Literal["verified", "failed", "inconclusive"]
Line = Annotated[str, StringConstraints(max_length=400)]
Loss = Annotated[float, Field(ge=0, lt=1e6, allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class Machine(BaseModel):
    """Where the reruns were, in the words of a run's own tags."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hardware: Line
    torch: Line
    triton: Line | None
    resbench_version: Line | None
    commit: Line | None
    dirty: bool | None


class RerunRecord(BaseModel):
    """One run again; losses in nats/token, ``difference`` is the rerun's minus the submitted one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run_id: RunId
    cell: Name
    seed: Annotated[int, Field(ge=0)]
    hardware: Line
    submitted: Loss
    rerun: Loss | None
    difference: Number | None
    verdict: Literal["agrees", "differs", "not compared"]
    reason: Line
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Verification(BaseModel):
    """A submission checked by running a sample of it again.

    ``sample_seed`` drew the sample after the submission was fixed (its digest is ``submission``); ``eligible`` runs could be drawn, the others are
    counted by reason in ``left_out``. ``tolerance_run`` and ``tolerance_mean`` are those of `resbench.results.submission.agreement`, nats/token.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    version: Literal["resbench.verification/1"] = Field(alias="schema")
    submission: Hash
    study: Name
    submitter: Who
    verifier: Who
    at: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    machine: Machine
    runs: Annotated[list[RunId], Field(min_length=1, max_length=MOST_RUNS)]
    sample_seed: Annotated[int, Field(ge=0)]
    eligible: Annotated[int, Field(ge=0)]
    left_out: dict[Line, int]
    seed_sd: Number | None
    tolerance_run: Number
    tolerance_mean: Number
    mean_difference: Number | None
    mean_low: Number | None
    mean_high: Number | None
    reruns: list[RerunRecord]
    verdict: Verdict
    digest: Hash

    def text(self) -> str:
        """The file: JSON with sorted keys."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), indent=1, sort_keys=True, allow_nan=False) + "\n"


def signed(content: Mapping[str, Any]) -> Verification:
    """The record with the digest that belongs to its content."""
    plain = Verification.model_validate({**content, "schema": SCHEMA, "digest": "0" * 64})
    return plain.model_copy(update={"digest": digest_of(plain.model_dump(mode="json", by_alias=True))})


def load_verifications(files: Iterable[Path]) -> list[Verification]:
    """The records in these files. Raises ValueError for a file that is none or was changed, OSError for one that cannot be read."""
    found = []
    for file in files:
        try:
            record = Verification.model_validate_json(read_bounded(file))
        except ValidationError as error:
            problem = error.errors(include_url=False, include_context=False)[0]
            where = ".".join(map(str, problem["loc"]))
            raise ValueError(
                f"{file}: not a record that `resbench leaderboard verify` wrote ({where or 'content'}: {problem['msg'][:200]})"
            ) from error
        if record.digest != digest_of(record.model_dump(mode="json", by_alias=True)):
            raise ValueError(f"{file}: changed after it was written: its digest does not belong to its content")
        found.append(record)
    return found


def with_verification(cells: Iterable[Cell], records: Iterable[Verification]) -> list[Cell]:
    """The cells with what the records say of their runs: rerun themselves, vouched for by a sample of their submission, or not at all."""
    known = list(records)
    return [replace(cell, verified=_told(set(cell.run_ids.values()), known)) for cell in cells]


def _told(run_ids: set[str], records: Iterable[Verification]) -> str | None:
    about = [record for record in records if not run_ids.isdisjoint(record.runs)]
    own = [rerun for record in about for rerun in record.reruns if rerun.run_id in run_ids]
    compared = [rerun for rerun in own if rerun.verdict != "not compared"]
    if differing := sum(rerun.verdict == "differs" for rerun in compared):
        return f"NO: {differing} of {len(compared)} reruns differ"
    if any(record.verdict == "failed" for record in about):
        return "NO: others of its submission differ"
    if compared:
        return f"yes: {len(compared)} of {len(run_ids)} rerun"
    if sampled := [record for record in about if record.verdict == "verified"]:
        agreeing = sum(rerun.verdict == "agrees" for record in sampled for rerun in record.reruns)
        return f"by sample: {agreeing} of its submission's {sum(len(record.runs) for record in sampled)} runs"
    return None
