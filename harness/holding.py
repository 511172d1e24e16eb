"""Who trains a run: never two processes at once, and `--resume auto` finds the one that a scheduler's requeue should go on with."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from resbench.harness import names
from resbench.harness.checkpoint_io import make_folder, sweep_up
from resbench.harness.config import RunCLI
from resbench.harness.provenance import resume_hash

if TYPE_CHECKING:
    from mlflow import MlflowClient

AUTO = "auto"
LOCK = ".training"
PATIENCE_S = 10.0
"""Loader processes outlive a killed trainer, and hold what it held, for some seconds."""

UNFINISHED = ("running", "failed")
"""Outcomes of runs that can be gone on with: killed ones still say that they are running."""


@contextmanager
def held(output: Path, run_id: str) -> Iterator[None]:
    """Keep other processes from training the run. Raises ValueError when another one trains it now."""
    folder = output / run_id
    make_folder(folder)
    try:
        with FileLock(folder / LOCK, timeout=PATIENCE_S):
            sweep_up(folder)
            yield
    except Timeout as error:
        raise ValueError(
            f"the run {run_id} is being trained by another process, which holds {error.lock_file}"
        ) from None


def unfinished_run(cli: RunCLI, client: "MlflowClient", output: Path) -> str | None:
    """Id of the newest run of this configuration, seed and output directory that did not end with a result; None if there is none."""
    experiment = client.get_experiment_by_name(cli.tracking.experiment)
    if experiment is None:
        return None
    config = cli.resolved()
    same = {
        names.TAG_RESUME_HASH: resume_hash(config),
        names.TAG_SEED: str(config["seed_everything"]),
    }
    matches = " and ".join(f"tags.`{name}` = '{value}'" for name, value in same.items())
    for run in client.search_runs([experiment.experiment_id], matches, order_by=["attributes.start_time DESC"]):
        here = run.data.tags.get(names.TAG_CHECKPOINT_DIR) == str((output / run.info.run_id).resolve())
        if here and run.data.tags.get(names.TAG_OUTCOME) in UNFINISHED:
            return str(run.info.run_id)
    return None
