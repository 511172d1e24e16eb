"""A SLURM array of workers as a file to read, change and submit.

There is no scheduler here: every job is the same worker, and the queue (`resbench.sweeps.queue`) deals out runs.
"""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ArrayJob:
    """What each job of the array asks for. ``time`` is SLURM's HH:MM:SS."""

    jobs: int
    gpus: int
    cpus: int
    time: str


def sbatch(name: str, arguments: Sequence[str], job: ArrayJob) -> str:
    """The text of an sbatch file that runs ``resbench ARGUMENTS`` in every job of an array."""
    gpus = f"#SBATCH --gpus-per-task={job.gpus}\n" if job.gpus else ""
    command = shlex.join([str(Path(sys.executable).parent / "resbench"), *arguments])
    return f"""\
#!/bin/bash
# Workers of the sweep {name}: submit with `sbatch THIS_FILE`, from the folder the sweep's paths are relative to.
# All jobs are the same; more or fewer of them, at any time, is fine.
#SBATCH --job-name={name}
#SBATCH --array=0-{job.jobs - 1}
#SBATCH --ntasks=1
#SBATCH --cpus-per-task={job.cpus}
{gpus}#SBATCH --time={job.time}
#SBATCH --output={name}-%A_%a.log
#SBATCH --open-mode=append
# A preempted job is queued again. SIGTERM comes two minutes before the end: the worker gives its runs back, and they go on from their checkpoints.
#SBATCH --requeue
#SBATCH --signal=B:TERM@120

set -euo pipefail

# Each training run is one process of its own, not a task of this job: Lightning must not take SLURM's counts for its world size.
unset SLURM_NTASKS SLURM_NPROCS SLURM_PROCID SLURM_LOCALID SLURM_STEP_NUM_TASKS SLURM_JOB_NAME SLURM_NTASKS_PER_NODE

# exec: the signal reaches the worker itself. The password belongs in ~/.pgpass, not here.
exec {command}
"""
