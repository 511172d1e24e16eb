"""Whether a submission's numbers can be true: against each other, against the hardware, and against what text allows.

Nothing here shows that a number is right; a run that fails here is wrong, whoever ran it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from resbench.harness.hardware import peak_of
from resbench.results.ranking import REFERENCE
from resbench.results.submission.schema import Submission, SubmittedRun

CONTROLS = ("identity-hc", "wide")

ENTROPY_FLOOR = 0.3
"""bits/byte below which no text or source code is predicted: the best published large models need more, on source code too."""

OF_TEXT = ("python-source", "text", "text-stream")
"""Built-in tasks whose runs log bits per byte, so that leaving them out hides from the floor."""

UNKNOWN_PEAK = 1e16
"""FLOP/s of one device that is not in our table of GPUs: four times the fastest one in it."""

BYTES_PER_TOKEN = (0.99, 32.0)
"""What a token can stand for: a byte, or a long word."""

AGREE = 0.05
"""Relative difference between two numbers that say the same."""


def implausible(submission: Submission) -> list[str]:
    """Why the numbers cannot be true, a sentence each with the run it is about; empty when nothing speaks against them."""
    found = [
        f"runs[{position}] ({run.cell}, seed {run.seed}): {reason}"
        for position, run in enumerate(submission.runs)
        for reason in (
            *_run(run, submission.devices),
            *_as_configured(run, submission.configs.get(run.config_hash)),
        )
    ]
    unused = submission.configs.keys() - {run.config_hash for run in submission.runs}
    found += [f"configs[{digest}]: no run has this configuration" for digest in sorted(unused)]
    return found + list(_together(submission.runs))


def weaknesses(submission: Submission) -> list[str]:
    """What a reader should know though it is no reason to refuse."""
    schemes = {run.scheme for run in submission.runs}
    seeds = {
        cell: sum(run.cell == cell and run.outcome == "complete" for run in submission.runs)
        for cell in {r.cell for r in submission.runs}
    }
    notes = [] if REFERENCE in schemes else [f"no {REFERENCE} run: nothing to compare with"]
    notes += [f"no run of the control {control}" for control in CONTROLS if control not in schemes]
    few = sum(count < 2 for count in seeds.values())
    notes += [f"{few} of {len(seeds)} cells with fewer than two complete seeds: no interval"] if few else []
    if any(run.dirty or run.commit is None for run in submission.runs):
        notes.append("runs from code that no commit tells: nobody can rerun exactly this")
    bare = sum(run.config_hash not in submission.configs for run in submission.runs)
    notes += (
        [f"{bare} of {len(submission.runs)} runs without their configuration: they cannot be run again"] if bare else []
    )
    return notes


def _as_configured(run: SubmittedRun, config: Mapping[str, Any] | None) -> Iterator[str]:
    """What a run says of itself against what its configuration says."""
    if config is None:
        return

    def at(*path: str) -> Any:
        node: Any = config
        for part in path:
            node = node.get(part) if isinstance(node, Mapping) else None
        return node

    scheme = ("model", "scheme", "init_args")
    for name, told, path in (
        ("budget_tokens", run.budget_tokens, ("budget", "tokens")),
        ("n_streams", run.n_streams, (*scheme, "n_streams")),
        ("sinkhorn_iterations", run.sinkhorn_iterations, (*scheme, "sinkhorn_iterations")),
    ):
        if told != at(*path):
            yield f"{name} {told} is not the configuration's {'.'.join(path)}, {str(at(*path))[:40]}"


def _run(run: SubmittedRun, devices: int) -> Iterator[str]:
    if run.outcome != "complete":
        return
    if run.val_loss is None or run.tokens is None or run.wall_s is None or run.tokens_per_s is None:
        yield "complete, but without val_loss, tokens, wall_s or tokens_per_s"
        return
    if not 0.95 * run.budget_tokens <= run.tokens <= 1.2 * run.budget_tokens:
        yield f"complete after {run.tokens:,} tokens of a budget of {run.budget_tokens:,}"
    spent = run.flops_per_token * run.tokens
    if run.flops is not None and abs(run.flops / spent - 1) > AGREE:
        yield f"flops {run.flops:.3e} is not flops_per_token times tokens, {spent:.3e}"
    if not 0.01 < run.flops_per_token / run.params_total < 1000:
        yield f"{run.flops_per_token:.3g} FLOPs per token for {run.params_total:,} parameters"
    known = peak_of(run.hardware)
    peak = devices * (known or UNKNOWN_PEAK)
    rate = max(run.tokens_per_s, run.tokens / run.wall_s) * run.flops_per_token
    if rate > peak:
        of = f"{devices} x {run.hardware}" if known else f"any {devices} device(s)"
        yield f"{rate:.3e} FLOP/s, but the peak of {of} is {peak:.3e}"
    if run.tokens / run.wall_s > 1.5 * run.tokens_per_s:
        yield f"{run.tokens:,} tokens in {run.wall_s:g} s is faster than the stated {run.tokens_per_s:g} tokens/s"
    if run.peak_gib is not None and run.peak_gib * 2**30 * devices < 2 * run.params_total:
        yield f"{run.peak_gib:g} GiB of memory do not hold {run.params_total:,} parameters"
    if run.params_connection is not None and run.params_connection >= run.params_total:
        yield f"{run.params_connection:,} of {run.params_total:,} parameters in the connections"
    if run.task in OF_TEXT:
        if run.bits_per_byte is None:
            yield f"a run of {run.task} without bits_per_byte, which every such run logs"
        floor = ENTROPY_FLOOR * BYTES_PER_TOKEN[0] * math.log(2)
        if run.val_loss < floor:
            yield f"val_loss {run.val_loss:g} nats/token is below {floor:.2f}, less than a single byte of text holds"
    if run.bits_per_byte is not None:
        if run.bits_per_byte < ENTROPY_FLOOR:
            yield f"{run.bits_per_byte:g} bits per byte is below {ENTROPY_FLOOR}, less than text holds"
        elif not BYTES_PER_TOKEN[0] <= (ratio := run.val_loss / math.log(2) / run.bits_per_byte) <= BYTES_PER_TOKEN[1]:
            yield f"val_loss {run.val_loss:g} nats/token and {run.bits_per_byte:g} bits/byte would make a token {ratio:.3g} bytes"


def _together(runs: list[SubmittedRun]) -> Iterator[str]:
    ids = Counter(run.run_id for run in runs)
    for run_id, count in ids.items():
        if count > 1:
            yield f"run {run_id} is there {count} times"
    planned = Counter((run.task, run.data_fingerprint, run.cell, run.budget_tokens, run.seed) for run in runs)
    for (_, _, cell, _, seed), count in planned.items():
        if count > 1:
            yield f"{cell}, seed {seed} is there {count} times: one run of each counts"
    losses: dict[tuple[str, str, int], list[float]] = {}
    for run in runs:
        if run.outcome == "complete" and run.val_loss is not None:
            losses.setdefault((run.cell, run.data_fingerprint, run.budget_tokens), []).append(run.val_loss)
    for (cell, _, _), values in losses.items():
        if len(values) > 2 and len(set(values)) == 1:
            yield f"{cell}: {len(values)} seeds with the same loss to the last digit"
