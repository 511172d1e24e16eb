"""A SLURM array of workers as a file to read, change and submit.

There is no scheduler here: every job is the same worker, and the queue (`resbench.sweeps.queue`) deals out runs.
"""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from resbench.sweeps.cli import INTERRUPTED


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
# SLURM queues a preempted job again; this script does so when the time limit is near, of which SIGUSR1 tells it two minutes before.
#SBATCH --requeue
#SBATCH --signal=B:USR1@120

# Each training run is one process of its own, not a task of this job: Lightning must not take SLURM's counts for its world size.
unset SLURM_NTASKS SLURM_NPROCS SLURM_PROCID SLURM_LOCALID SLURM_STEP_NUM_TASKS SLURM_JOB_NAME SLURM_NTASKS_PER_NODE

# The password of the database belongs in ~/.pgpass, not here.
{command} &
worker=$!

# Told to stop, the worker lets its runs save a checkpoint, gives them back to the queue and ends with code {INTERRUPTED}.
trap 'out_of_time=yes; kill -USR1 $worker' USR1
trap 'kill -TERM $worker' TERM # preempted, which SLURM requeues itself, or cancelled
while kill -0 $worker 2>/dev/null; do
    wait $worker # returns early when one of the signals comes
done
wait $worker
code=$?
if [ "$out_of_time" = yes ] && [ $code -eq {INTERRUPTED} ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
"""
