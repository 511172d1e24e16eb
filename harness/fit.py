"""One training run from a command line to a finished MLflow run. A sweep's trial is the same call."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from resbench.harness import names
from resbench.harness.callbacks.context import Diverged, Pruned
from resbench.harness.callbacks.validation import OnValidation
from resbench.harness.checkpoint_io import make_folder, newest_whole
from resbench.harness.config import RunCLI, parse
from resbench.harness.preload import preload
from resbench.harness.quiet import quiet_libraries
from resbench.harness.record import Facts, count, open_run
from resbench.harness.store import default_tracking_uri, open_store
from resbench.harness.tracking import TrackedRun
from resbench.harness.training import Training

__all__ = ["Pruned", "RunResult", "describe", "fit"]

SYSTEM_METRICS_EVERY_S = 4

preload()  # on import: see there

_RUN_ID = "RESBENCH_RUN_ID"
"""Tells the processes Lightning starts beside the first which run they belong to."""


@dataclass(frozen=True)
class RunResult:
    """How a run ended. ``val_loss`` (nats per token) and ``bits_per_byte`` are of the last validation."""

    run_id: str
    outcome: names.Outcome
    val_loss: float | None
    tokens: int
    bits_per_byte: float | None = None
    unigram_bits_per_byte: float | None = None
    """What predicting by token frequency alone would have given: a run has learned something only below it."""
    tracking_uri: str = ""
    reason: str = ""
    """Why it ended early; empty for a complete run."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during training; the run can be taken up again."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"go on with the same command and --resume {run_id}")


def fit(
    argv: list[str],
    *,
    tags: dict[str, str] | None = None,
    run_id: str | None = None,
    on_validation: Callable[[int, float], None] | None = None,
) -> RunResult:
    """Train one model and log it to MLflow.

    Parameters
    ----------
    argv: arguments as on the command line of `resbench fit`.
    tags: further tags of the MLflow run, such as ``study`` and ``cell``.
    run_id: an existing MLflow run to go on in, from its last checkpoint if it has one.
    on_validation: called with (training tokens, validation loss) after each validation of a trained model; may raise `Pruned`.

    A run that diverges, runs out of memory or is pruned is a result and returned. Raises ValueError, OSError or BrokenPlugin for what the user can
    put right, before there is an MLflow run; whatever is raised later leaves the run marked as failed. Ctrl-C is raised as `Interrupted`.
    """
    with quiet_libraries():
        cli = parse(argv)
        facts = count(cli)
        output = Path(cli.output_dir).expanduser()
        make_folder(output)
        if os.environ.get("LOCAL_RANK", "0") != "0" or os.environ.get("NODE_RANK", "0") != "0":
            return _accompany(cli, facts, output, run_id or cli.resume)
        uri = cli.tracking.uri or default_tracking_uri(output)
        client = open_store(uri)
        data: Any = cli.datamodule
        data.prepare_data()
        data.setup("fit")
        run_id = run_id or cli.resume
        checkpoint = newest_whole(output / run_id) if run_id is not None else None
        run = open_run(cli, facts, client, uri, run_id, checkpoint, tags or {})
        try:
            return _train(cli, facts, run, output / run.run_id, checkpoint, uri, on_validation)
        except KeyboardInterrupt:
            run.finish({}, "KILLED")
            raise Interrupted(run.run_id) from None
        except BaseException as error:
            run.finish({names.TAG_OUTCOME: "failed", names.TAG_ERROR: f"{type(error).__name__}: {error}"}, "FAILED")
            raise


def describe(argv: list[str]) -> dict[str, int]:
    """What a run would be: ``params_total``, ``params_connection``, ``flops_per_token`` (training), ``steps`` and ``tokens``.

    Builds the model without memory for its weights and reads no data. Raises as `fit` does for a bad configuration.
    """
    with quiet_libraries():
        facts = count(parse(argv))
    return {
        "params_total": facts.params_total,
        "params_connection": facts.params_connection,
        "flops_per_token": facts.flops_per_token,
        "steps": facts.steps,
        "tokens": facts.tokens,
    }


def _train(
    cli: RunCLI,
    facts: Facts,
    run: TrackedRun,
    folder: Path,
    checkpoint: Path | None,
    uri: str,
    on_validation: OnValidation | None,
) -> RunResult:
    """Train, and turn the ways a run can end into outcomes."""
    outcome: names.Outcome = "complete"
    reason, diverged_at = "", None
    training = Training(cli, facts, run, folder, on_validation)
    os.environ[_RUN_ID] = run.run_id
    system = _system_metrics(run.run_id, uri)
    try:
        training.run(checkpoint)
    except Diverged as error:
        outcome, reason, diverged_at = "diverged", str(error), error.tokens
    except Pruned as error:
        outcome, reason = "pruned", str(error)
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        outcome, reason = "oom", str(error).strip().splitlines()[0]
    finally:
        os.environ.pop(_RUN_ID, None)
        system.finish()
    tags = {
        names.TAG_OUTCOME: outcome,
        names.TAG_DIVERGED_AT_TOKENS: None if diverged_at is None else str(diverged_at),
        names.TAG_REASON: reason or None,
    }
    run.finish(tags, "KILLED" if outcome == "pruned" else "FINISHED")
    validation = training.validation
    return RunResult(
        run.run_id,
        outcome,
        validation.last_loss,
        training.tokens if diverged_at is None else diverged_at,
        validation.last_bits_per_byte,
        getattr(cli.datamodule, "unigram_bits_per_byte", None),
        uri,
        reason,
    )


def _accompany(cli: RunCLI, facts: Facts, output: Path, run_id: str | None) -> RunResult:
    """The part of every process but the first: it trains along and leaves the records to the first."""
    run_id = run_id or os.environ.get(_RUN_ID, "")
    folder = output / (run_id or "run")
    checkpoint = newest_whole(folder) if run_id else None
    training = Training(cli, facts, None, folder, None)
    training.run(checkpoint)
    return RunResult(run_id, "complete", training.validation.last_loss, training.tokens)


def _system_metrics(run_id: str, uri: str) -> Any:
    """MLflow's sampler of CPU, memory, disk, network and GPU use; it samples from a thread and ends with `finish`."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    # MLflow's ten seconds would leave a short run without a sample; its environment variable still has the last word.
    monitor = SystemMetricsMonitor(
        run_id, sampling_interval=SYSTEM_METRICS_EVERY_S, resume_logging=True, tracking_uri=uri
    )
    monitor.start()
    return monitor


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "can't allocate memory" in str(error) or "not enough memory" in str(error)
