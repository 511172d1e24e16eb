"""A submission file, version 3: what it may hold, field by field. Anything else in it, and anything that is not plain data, is refused.

Names are ASCII letters, digits and a few signs, so that they are harmless in HTML, Markdown, file names, terminals and spreadsheets
before anything is escaped, and so that no two that look alike differ.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

SCHEMA = "resbench.submission/3"

MOST_RUNS = 5000

Name = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.,=+:()-]*$", max_length=200, strict=True), Field()
]
"""A scheme, a task, a cell: begins with a letter or digit, holds no quote, bracket, slash or other sign that means something elsewhere."""

Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$", strict=True)]
"""A SHA-256 in hexadecimal."""

RunId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$", strict=True)]

Who = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.@+-]*$", max_length=80, strict=True)]

ConfigHash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16,64}$", strict=True)]

Positive = Annotated[float, Field(gt=0, lt=1e30, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=2**63, strict=True)]


class SubmittedRun(BaseModel):
    """One final run. Units are those of the tidy table (`resbench.results.runs`): nats/token, bits/byte, tokens/s, GiB, s, FLOP."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run_id: RunId
    outcome: Literal["complete", "diverged", "oom", "failed", "pruned", "running"]
    scheme: Name
    cell: Name
    task: Name
    size: Name | None
    depth: Annotated[int, Field(ge=1, le=10**5, strict=True)] | None
    width: Annotated[int, Field(ge=1, le=10**7, strict=True)] | None
    seed: Count
    data_fingerprint: Hash
    config_hash: ConfigHash
    commit: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{7,64}$", strict=True)] | None
    dirty: bool | None
    resbench_version: Name | None
    torch: Name | None
    triton: Name | None
    kernels: Name | None
    hardware: Annotated[
        str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.,@()/+-]*$", max_length=120, strict=True)
    ]
    gpu_share: Annotated[int, Field(ge=1, le=1024, strict=True)] | None
    n_streams: Annotated[int, Field(ge=1, le=4096, strict=True)] | None
    sinkhorn_iterations: Annotated[int, Field(ge=0, le=100_000, strict=True)] | None
    params_total: Annotated[int, Field(gt=0, lt=10**15, strict=True)]
    params_connection: Annotated[int, Field(ge=0, lt=10**15, strict=True)] | None
    flops_per_token: Positive
    budget_tokens: Annotated[int, Field(gt=0, lt=10**16, strict=True)]
    tokens: Count | None
    flops: Positive | None
    wall_s: Positive | None
    tokens_per_s: Positive | None
    peak_gib: Positive | None
    val_loss: Annotated[float, Field(ge=0, lt=1e6, allow_inf_nan=False)] | None
    bits_per_byte: Annotated[float, Field(ge=0, lt=1e6, allow_inf_nan=False)] | None
    unigram_bits_per_byte: Positive | None
    accuracy: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None
    gain_forward: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    gain_backward: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None


class Submission(BaseModel):
    """Runs of one study, who ran them, and by its hash the configuration of every run that kept one, without its seed.

    `digest` is the SHA-256 of everything else, so that a file changed on its way is noticed.

    A digest is no signature: whoever changes a file on purpose can write a new one. What a file claims is believed after `verify`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    version: Literal["resbench.submission/3"] = Field(alias="schema")
    submitter: Who
    study: Name
    devices: Annotated[int, Field(ge=1, le=1024, strict=True)]
    runs: Annotated[list[SubmittedRun], Field(min_length=1, max_length=MOST_RUNS)]
    configs: dict[ConfigHash, dict[str, JsonValue]]
    digest: Hash

    def content(self) -> dict[str, Any]:
        """The file's content as plain data."""
        return self.model_dump(mode="json", by_alias=True)


def digest_of(content: dict[str, Any]) -> str:
    """The digest that belongs to a submission's content; its own field `digest` is left out."""
    rest = {key: value for key, value in content.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()
