"""Verifying a submission: draw a sample of its runs, run them again here, and say how far apart the losses are."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from resbench.results.submission.agreement import Tolerance, shifted, tolerance
from resbench.results.submission.rerun import Order, Rerun, Runner
from resbench.results.submission.rerunnable import not_rerunnable
from resbench.results.submission.schema import Submission, SubmittedRun
from resbench.results.submission.verification import RerunRecord, Verdict, Verification, signed


@dataclass(frozen=True)
class Terms:
    """What the verifier decides.

    sample: runs to draw; seed: of the drawing, chosen after the submission was received. device: of the Trainer (``auto``, ``cpu``, ``gpu``).
    max_flops: training FLOPs of one rerun; timeout_s: seconds of one. data: arguments of the task that say where data is here.
    """

    verifier: str
    sample: int
    seed: int
    device: str = "auto"
    max_flops: float = 1e16
    timeout_s: float = 3600.0
    threads: int = 1
    data: Mapping[str, Any] = field(default_factory=dict)


def verify(
    submission: Submission,
    terms: Terms,
    machine: Mapping[str, Any],
    run: Runner,
    tell: Callable[[RerunRecord], None] = lambda _record: None,
) -> Verification:
    """Rerun a sample of a submission that was read and found plausible. ``tell`` hears of each rerun as it ends."""
    eligible, left_out = eligible_runs(submission, terms)
    chosen = random.Random(terms.seed).sample(eligible, min(terms.sample, len(eligible)))
    allowed = tolerance(submission.runs)
    reruns = []
    for submitted in chosen:
        begun = time.monotonic()
        config = _with_data(submission.configs[submitted.config_hash], terms.data)
        found = run(Order(config, submitted.seed, terms.device, terms.max_flops, terms.threads), terms.timeout_s)
        reruns.append(compared(submitted, found, allowed, time.monotonic() - begun))
        tell(reruns[-1])
    mean, off = shifted([r.difference for r in reruns if r.difference is not None], allowed)
    verdict: Verdict = "inconclusive"
    if off or any(rerun.verdict == "differs" for rerun in reruns):
        verdict = "failed"
    elif any(rerun.verdict == "agrees" for rerun in reruns):
        verdict = "verified"
    return signed(
        {
            "submission": submission.digest,
            "study": submission.study,
            "submitter": submission.submitter,
            "verifier": terms.verifier,
            "at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "machine": dict(machine),
            "runs": [submitted.run_id for submitted in submission.runs],
            "sample_seed": terms.seed,
            "eligible": len(eligible),
            "left_out": dict(left_out),
            "seed_sd": allowed.seed_sd,
            "tolerance_run": allowed.run,
            "tolerance_mean": allowed.mean,
            "mean_difference": mean.mean,
            "mean_low": mean.low,
            "mean_high": mean.high,
            "reruns": reruns,
            "verdict": verdict,
        }
    )


def eligible_runs(submission: Submission, terms: Terms) -> tuple[list[SubmittedRun], Counter[str]]:
    """The runs that may be drawn, and how many may not for which reason."""
    eligible, left_out = [], Counter[str]()
    refused: dict[str, str] = {
        digest: "; ".join(not_rerunnable(config, terms.data))[:390] for digest, config in submission.configs.items()
    }
    for run in submission.runs:
        if run.outcome != "complete" or run.val_loss is None:
            left_out["without a loss to compare"] += 1
        elif run.config_hash not in submission.configs:
            left_out["without its configuration"] += 1
        elif reason := refused[run.config_hash]:
            left_out[reason] += 1
        elif run.flops_per_token * run.budget_tokens > terms.max_flops:
            left_out[f"more than {terms.max_flops:.1e} training FLOPs"] += 1
        else:
            eligible.append(run)
    return eligible, left_out


def compared(submitted: SubmittedRun, found: Rerun, allowed: Tolerance, seconds: float) -> RerunRecord:
    """What a rerun says of the run: agrees, differs, or cannot be compared."""
    assert submitted.val_loss is not None
    verdict, reason, difference = "agrees", "", None
    for name in ("params_total", "flops_per_token"):
        if found.facts is not None and found.facts[name] != getattr(submitted, name):
            verdict = "differs"
            reason = f"{name} {getattr(submitted, name):,.0f}; this configuration has {found.facts[name]:,}"
    if not reason:
        if found.outcome in ("refused", "failed", "timeout", "oom"):
            verdict, reason = "not compared", f"{found.outcome}: {found.reason}"
        elif found.data_fingerprint != submitted.data_fingerprint:
            verdict = "not compared"
            reason = f"other data: {found.data_fingerprint[:12]}… here, {submitted.data_fingerprint[:12]}… there"
        elif found.outcome != "complete" or found.val_loss is None:
            verdict, reason = "differs", f"{found.outcome} here: {found.reason}"
        else:
            difference = found.val_loss - submitted.val_loss
            if abs(difference) > allowed.run:
                verdict = "differs"
                reason = f"{abs(difference):.4f} nats/token apart, more than {allowed.run:.4f}"
    return RerunRecord.model_validate(
        {
            "run_id": submitted.run_id,
            "cell": submitted.cell,
            "seed": submitted.seed,
            "hardware": submitted.hardware,
            "submitted": submitted.val_loss,
            "rerun": found.val_loss if difference is not None else None,
            "difference": difference,
            "verdict": verdict,
            "reason": reason[:400],
            "seconds": seconds,
        }
    )


def _with_data(config: Mapping[str, Any], data: Mapping[str, Any]) -> Mapping[str, Any]:
    own = dict(config["data"])
    own["init_args"] = {**(own.get("init_args") or {}), **data}
    return {**config, "data": own}
