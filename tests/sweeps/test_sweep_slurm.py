"""The sbatch file, run by a real bash with a stand-in for the worker and for SLURM's own command."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from resbench.sweeps import slurm
from resbench.sweeps.slurm import ArrayJob, sbatch

WORKER = """#!/bin/bash
trap 'echo USR1 >> heard; exit 130' USR1
trap 'echo TERM >> heard; exit 130' TERM
env | grep -c ^SLURM_NTASKS > counts
echo "$@" > arguments
touch ready
for i in $(seq 100); do [ -e go-on ] && exit 3; sleep 0.05; done
"""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the job's script."""
    for name, text in {"resbench": WORKER, "scontrol": '#!/bin/bash\necho "$@" > scontrol-called\n'}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(slurm.sys, "executable", str(tmp_path / "python"))
    text = sbatch("my-sweep", ["sweep", "worker", "a file.yaml", "--per-gpu", "2"], ArrayJob(4, 2, 16, "01:00:00"))
    (tmp_path / "job.sbatch").write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("signal_sent", "heard", "code", "requeued"),
    [
        (signal.SIGUSR1, "USR1", 130, "requeue 42"),  # the time limit is near
        (signal.SIGTERM, "TERM", 130, None),  # preempted or cancelled: what comes next is SLURM's to say
        (None, None, 3, None),  # the worker's own end
    ],
)
def test_a_job_that_runs_out_of_time_is_queued_again_and_a_cancelled_one_is_not(
    job: Path, signal_sent: signal.Signals | None, heard: str | None, code: int, requeued: str | None
) -> None:
    environment = {**os.environ, "PATH": f"{job}:{os.environ['PATH']}", "SLURM_JOB_ID": "42", "SLURM_NTASKS": "7"}
    running = subprocess.Popen(["bash", "job.sbatch"], cwd=job, env=environment)
    deadline = time.monotonic() + 30
    while not (job / "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    if signal_sent is None:
        (job / "go-on").touch()
    else:
        running.send_signal(signal_sent)
    assert running.wait(timeout=60) == code
    assert (job / "heard").read_text().split() == [heard] if heard else not (job / "heard").exists()
    assert (job / "counts").read_text().strip() == "0"  # what Lightning would take for its world size is gone
    assert (job / "arguments").read_text() == "sweep worker a file.yaml --per-gpu 2\n"
    called = job / "scontrol-called"
    assert called.read_text().strip() == requeued if requeued else not called.exists()
