"""What a sweep and its trials' processes say to each other. Without torch: only the fork server has to load that."""

from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

from resbench.sweeps.lease import Lease

Fault = Literal["run", "store", "disk", "signal"]
"""``store``: MLflow was away. ``disk``: this machine's is full or lost, so other runs would fare no better here. ``signal``: it was asked to stop."""


@dataclass(frozen=True)
class Job:
    """What a trial process needs to know. ``target`` is ``module:function`` with the signature of `resbench.harness.fit.fit`."""

    key: str
    target: str
    argv: tuple[str, ...]
    tags: dict[str, str]
    run_id: str | None
    """None for a run that is to make its own."""
    threads: int
    gpus: str | None
    """`CUDA_VISIBLE_DEVICES`; None to leave it as it is."""
    log: Path
    lock_folder: Path


@dataclass(frozen=True)
class Validation:
    """A trial to the sweep: validation loss after so many training tokens. It waits for a bool, whether to give up."""

    tokens: int
    loss: float


@dataclass(frozen=True)
class Finished:
    """A trial to the sweep: how it ended, as `RunResult` says."""

    outcome: str
    val_loss: float | None
    tokens: int


@dataclass(frozen=True)
class Failed:
    """A trial to the sweep: it raised. What is to blame decides whether, and where, it is tried again."""

    reason: str
    fault: Fault = "run"


def train(job: Job, connection: Connection, lease: Lease | None) -> None:
    """The body of a trial's process, which the fork server has loaded already."""
    from resbench.sweeps.trial import main

    main(job, connection, lease)
