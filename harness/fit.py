"""One training run from a command line to a finished MLflow run. A sweep's trial is the same call."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resbench.harness import names, ranks, start
from resbench.harness.callbacks.context import Diverged, Pruned
from resbench.harness.callbacks.validation import OnValidation
from resbench.harness.checkpoint_io import make_folder, newest_whole
from resbench.harness.config import GROUPED, RunCLI, parse, world_size
from resbench.harness.errors import Preempted
from resbench.harness.hardware import is_out_of_memory, memory_metrics
from resbench.harness.holding import AUTO, held, unfinished_run
from resbench.harness.logged_model import log_model
from resbench.harness.preemption import Notice
from resbench.harness.preload import preload
from resbench.harness.quiet import quiet_libraries
from resbench.harness.record import Facts, count, device_of, open_run, run_tags
from resbench.harness.store import brief_requests, default_tracking_uri, open_store
from resbench.harness.system_metrics import SystemMetrics
from resbench.harness.tracking import TrackedRun
from resbench.harness.training import Training
from resbench.tasks.task import Task

__all__ = ["Pruned", "RunResult", "describe", "fit"]

preload()  # on import: see there


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
    accuracy: float | None = None
    """Share of right answers, where the task has right answers, and ``chance_accuracy`` what a guess would have got."""
    chance_accuracy: float | None = None


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
    put right, before there is an MLflow run; whatever is raised later leaves the run marked as failed. Ctrl-C is raised as `Interrupted`, SIGTERM
    and SIGUSR1 as `Preempted`, after a checkpoint.
    """
    start.begin()
    with quiet_libraries(), brief_requests(), Notice() as notice:
        cli = parse(argv)
        facts = count(cli)
        start.mark("config")
        output = Path(cli.output_dir).expanduser()
        make_folder(output)
        if not ranks.is_first():
            return _accompany(cli, facts, output, run_id or cli.resume, notice)
        uri = cli.tracking.uri or default_tracking_uri(output)
        client = open_store(uri)
        start.mark("store")
        with _companions(argv, cli) as others, ExitStack() as until_the_end:
            data: Any = cli.datamodule
            data.prepare_data()
            data.setup("fit")
            start.mark("data")
            run_id = run_id or cli.resume
            if run_id == AUTO:
                run_id = unfinished_run(cli, client, output)
            holding = (
                run_id is not None and (output / run_id).exists()
            )  # a folder is not made for a run that may not exist
            if holding:
                until_the_end.enter_context(held(output, str(run_id)))
            checkpoint = newest_whole(output / run_id) if run_id is not None else None
            run = open_run(cli, facts, client, uri, run_id, checkpoint, tags or {})
            if not holding:
                until_the_end.enter_context(held(output, run.run_id))
            start.mark("record")
            job = _Job(cli, facts, output / run.run_id, checkpoint, notice)
            try:
                return _train(job, run, uri, on_validation, others)
            except KeyboardInterrupt:
                run.finish({}, "KILLED")
                raise Interrupted(run.run_id) from None
            except Preempted as error:
                run.finish({}, "KILLED")
                raise Preempted(error.tokens, error.checkpoint, run.run_id) from None
            except BaseException as error:
                run.finish({names.TAG_OUTCOME: "failed", names.TAG_ERROR: f"{type(error).__name__}: {error}"}, "FAILED")
                raise


@contextmanager
def _companions(argv: list[str], cli: RunCLI) -> Iterator[ranks.Others | None]:
    """The other processes of a run on several devices of this machine; None for one process, and where others start them."""
    trainer = cli.config.trainer
    world = world_size(trainer)
    if ranks.started_by_torchrun():
        yield ranks.Elastic(device_of(cli))
        return
    if (world == 1 and trainer.strategy not in GROUPED) or trainer.num_nodes != 1 or ranks.started_by_others():
        yield None
        return
    with ranks.together(argv, world, device_of(cli)) as others:
        yield others


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


@dataclass(frozen=True)
class _Job:
    """What every process of a run knows before it builds its Trainer."""

    cli: RunCLI
    facts: Facts
    folder: Path
    checkpoint: Path | None
    notice: Notice


def _train(
    job: _Job, run: TrackedRun, uri: str, on_validation: OnValidation | None, others: ranks.Others | None
) -> RunResult:
    """Train, and turn the ways a run can end into outcomes."""
    outcome: names.Outcome = "complete"
    reason, more = "", dict[str, str | None]()
    diverged: Diverged | None = None
    training = Training(job.cli, job.facts, run, job.folder, on_validation, job.notice)
    system = SystemMetrics(run, uri)
    system.start()
    try:
        if others is not None:
            others.begin({"folder": str(job.folder), "checkpoint": job.checkpoint and str(job.checkpoint)})
            others.watch(lambda rank, words: _give_up(run, rank, words))
        training.run(job.checkpoint)
    except Diverged as error:
        outcome, diverged = "diverged", error
        reason = f"{error}; {error.verdict}" if error.verdict else str(error)
        more = {
            names.TAG_DIVERGED_AT_TOKENS: str(error.tokens),
            names.TAG_DIVERGED_IN: error.verdict,
            names.TAG_LAST_GOOD_CHECKPOINT: str(error.last_good) if error.last_good is not None else None,
        }
    except Pruned as error:
        outcome, reason = "pruned", str(error)
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            outcome, reason = "oom", str(error).strip().splitlines()[0]
        elif others is not None and (lost := others.failure(patience_s=5.0)) is not None:
            rank, words = lost
            if words.outcome != "oom":
                raise RuntimeError(f"process {rank} of the run failed: {words.reason}") from error
            outcome, reason = "oom", f"in process {rank}: {words.reason}"
        else:
            raise
    finally:
        system.finish()
    if outcome == "oom":
        run.log(memory_metrics(training.device), training.tokens)
    tags = {names.TAG_OUTCOME: outcome, names.TAG_REASON: reason or None, **more}
    if outcome == "complete" and job.cli.tracking.weights:
        log_model(run, job.cli, run_tags(job.cli.resolved()), training.tokens)
    run.finish(tags, "KILLED" if outcome == "pruned" else "FINISHED")
    validation = training.validation
    return RunResult(
        run.run_id,
        outcome,
        validation.last_loss,
        training.tokens if diverged is None else diverged.tokens,
        validation.last_bits_per_byte,
        getattr(job.cli.datamodule, "unigram_bits_per_byte", None),
        uri,
        reason,
        validation.last_measures.get(names.VAL_ACCURACY),
        job.cli.datamodule.levels().get("chance_accuracy") if isinstance(job.cli.datamodule, Task) else None,
    )


def _give_up(run: TrackedRun, rank: int, words: ranks.LastWords) -> None:
    """The end of a first process that waits, out of reach, for one that is gone."""
    reason = f"process {rank} of the run failed: {words.reason}"
    outcome = "oom" if words.outcome == "oom" else "failed"
    run.finish({names.TAG_OUTCOME: outcome, names.TAG_REASON: reason}, "FINISHED" if outcome == "oom" else "FAILED")
    print(reason, file=sys.stderr, flush=True)
    os._exit(1)


def _accompany(cli: RunCLI, facts: Facts, output: Path, run_id: str | None, notice: Notice) -> RunResult:
    """The part of every process but the first: it trains along and leaves the records to the first."""
    link = ranks.Link.of_this_process()
    store, told = None, None
    if link is not None:
        store, told = ranks.join(link)
    elif ranks.started_by_torchrun():
        told = ranks.Elastic(device_of(cli)).begin(None)
    if told is not None:
        folder, checkpoint = Path(told["folder"]), Path(told["checkpoint"]) if told["checkpoint"] else None
    else:  # started by srun or by hand: the first process hands its folder on when all of them have met
        if run_id == AUTO:
            raise ValueError(
                "resume=auto with processes started by srun: give the run's id, or start them with torchrun"
            )
        folder = output / (run_id or "run")
        checkpoint = newest_whole(folder) if run_id else None
    training = Training(cli, facts, None, folder, None, notice)
    try:
        training.run(checkpoint)
    except (Diverged, Pruned, Preempted):
        pass  # all processes come to the same conclusion, and the first one says so
    except BaseException as error:
        if link is None or store is None:
            raise
        oom = is_out_of_memory(error)
        words = str(error).strip().splitlines() or [""]
        ranks.say(store, link, ranks.LastWords("oom" if oom else "failed", f"{type(error).__name__}: {words[0]}"))
        if not oom:
            raise
    finally:
        ranks.leave()
    return RunResult("", "complete", training.validation.last_loss, training.tokens)
