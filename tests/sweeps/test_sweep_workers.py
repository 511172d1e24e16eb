"""Many workers, one sweep: every planned run ends exactly once, whatever happens to the workers and to their database."""

import errno
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sweep_stand_ins
from mlflow import MlflowClient
from optuna.trial import TrialState
from sqlalchemy import event
from sweep_stand_ins import losses

from resbench.harness.errors import CannotSave, Preempted
from resbench.sweeps import lease, shared
from resbench.sweeps.cli import main
from resbench.sweeps.database import open_shared, storage_url
from resbench.sweeps.messages import Job
from resbench.sweeps.patience import Patience
from resbench.sweeps.patient_ledger import PatientLedger
from resbench.sweeps.plan import make_plan
from resbench.sweeps.pool import Pool
from resbench.sweeps.queue import DEATHS, RunQueue
from resbench.sweeps.shared import SharedAgenda
from resbench.sweeps.spec import load_spec
from resbench.sweeps.trial import fault_of

Sweep = Callable[..., Path]
Runs = Callable[[], list[Any]]


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'shared.db'}"
    return str(request.getfixturevalue("database").url)


@pytest.fixture
def queue(storage: str, request: pytest.FixtureRequest) -> RunQueue:
    return RunQueue(open_shared(storage_url(storage), 1, 1), request.node.name)


def test_one_attempt_goes_to_one_worker(queue: RunQueue, storage: str, request: pytest.FixtureRequest) -> None:
    keys = [f"key {number}" for number in range(4)]
    queue.add(keys)
    queue.add([*keys, "late"])
    attempts = queue.latest()
    assert set(attempts) == {*keys, "late"}
    others = [RunQueue(open_shared(storage_url(storage), 1, 1), request.node.name) for _ in range(4)]

    def grab(worker: int) -> list[str]:
        order = sorted(attempts, reverse=bool(worker % 2))
        return [key for key in order if others[worker].claim(attempts[key], f"worker {worker}")]

    with ThreadPoolExecutor(4) as threads:
        grabbed = [key for keys in threads.map(grab, range(4)) for key in keys]
    assert sorted(grabbed) == sorted(attempts)
    assert {attempt.state for attempt in queue.latest().values()} == {TrialState.RUNNING}


def test_a_silent_worker_loses_its_run_and_a_third_death_ends_it(queue: RunQueue) -> None:
    queue.add(["a"])
    for death in range(DEATHS):
        attempt = queue.latest()["a"]
        assert attempt.state is TrialState.WAITING
        assert attempt.deaths == death
        assert queue.claim(attempt, "worker")
        assert queue.beat([attempt]) == {"a"}
        queue.bury()
        assert queue.beat([attempt]) == {"a"}  # it was heard of just now
        wait_until_silent(queue, attempt.trial_id)
        queue.bury()
        assert queue.beat([attempt]) == set()
        queue.complete(attempt, "complete")  # too late: it is no longer this worker's
        assert queue.latest()["a"].abandoned
        reason = queue.worn_out(queue.latest()["a"])
        queue.requeue(queue.latest()["a"])
    assert reason == f"its worker died {DEATHS} times over it"
    assert queue.latest()["a"].reason == reason
    queue.retry(queue.latest()["a"])
    assert queue.latest()["a"].deaths == 0
    assert queue.claim(queue.latest()["a"], "worker")


def test_workers_go_by_the_same_signs_of_life(queue: RunQueue, storage: str, request: pytest.FixtureRequest) -> None:
    """One that waits for 60 s would lose every run to one that waits for 4."""
    queue.add(["a"])
    queue.agree(15.0, 60.0, insist=True)
    assert queue.claim(queue.latest()["a"], "worker")
    second = RunQueue(open_shared(storage_url(storage), 1, 4), request.node.name)
    assert (second.interval_s, second.grace_s) == (15.0, 60.0)
    with pytest.raises(ValueError, match="--heartbeat 1: .* every 15 s, and one is dead after 60"):
        second.agree(1.0, 4.0, insist=True)
    second.agree(1.0, 4.0, insist=False)
    assert (second.interval_s, second.grace_s) == (15.0, 60.0)
    queue.complete(queue.latest()["a"], "complete")
    second.agree(1.0, 4.0, insist=True)
    assert RunQueue(open_shared(storage_url(storage)), request.node.name).grace_s == 4.0


def wait_until_silent(queue: RunQueue, trial_id: int) -> None:
    deadline = time.monotonic() + 20
    while trial_id not in queue.silent():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_what_two_workers_queue_again_is_run_once(queue: RunQueue) -> None:
    queue.add(["a"])
    first = queue.latest()["a"]
    assert queue.claim(first, "worker")
    queue.give_back(first)
    abandoned = queue.latest()["a"]
    queue.requeue(abandoned)
    second = queue.latest()["a"]
    queue.requeue(abandoned)  # by a worker that had looked before the other one wrote
    assert queue.latest()["a"] == second
    assert queue.claim(second, "worker")
    assert second.deaths == 0  # given back, not died


def test_an_edited_file_is_refused_or_extended(
    sweep_file: Sweep, output_dir: Path, tmp_path: Path, runs_of: Runs
) -> None:
    storage = f"sqlite:///{tmp_path / 'shared.db'}"
    file = sweep_file("exclude: [{scheme: [hc, mhc]}]")
    assert sweep_stand_ins.work(file, output_dir, storage, workers=2).complete
    before = losses(runs_of())
    assert len(before) == 2
    text = file.read_text()
    file.write_text(text.replace("tokens: 400", "tokens: 800"))
    with pytest.raises(ValueError, match="400 is now 800"):
        sweep_stand_ins.work(file, output_dir, storage, extend=True)
    file.write_text(text.replace("seeds: [0, 1]", "seeds: [0, 1, 2]"))
    with pytest.raises(ValueError, match="new seed 2"):
        sweep_stand_ins.work(file, output_dir, storage)
    assert losses(runs_of()) == before
    assert sweep_stand_ins.work(file, output_dir, storage, extend=True, workers=2).complete
    assert {key: loss for key, loss in losses(runs_of()).items() if key in before} == before
    assert len(losses(runs_of())) == 3


def test_a_hanging_run_times_out_and_is_queued_again(
    sweep_file: Sweep, output_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = f"sqlite:///{tmp_path / 'shared.db'}"
    file = sweep_file("timeout: 1\nexclude: [{scheme: [hc, mhc]}]", stand_in="{hangs: true}")
    failures = sweep_stand_ins.work(file, output_dir, storage, workers=2).failures
    assert len(failures) == 2
    assert all("longer than `timeout: 1` seconds" in reason for reason in failures.values())
    options = ["--storage", storage, "--tracking-uri", f"sqlite:///{output_dir / 'mlflow.db'}"]
    capsys.readouterr()
    assert main(["status", "stand-in", *options]) == 1
    assert "failed: stand-in/scheme=resnet/final/seed=0: stopped after" in capsys.readouterr().out
    assert main(["stop", "stand-in", *options]) == 0
    with pytest.raises(ValueError, match="stop --undo"):
        sweep_stand_ins.work(file, output_dir, storage)
    assert main(["stop", "stand-in", "--undo", *options]) == 0
    file.write_text(file.read_text().replace("timeout: 1", "timeout: 100"))
    for checkpoint in output_dir.glob("*/"):
        (checkpoint / "tokens").write_text("100")  # the stand-in hangs only where it begins
    assert main(["retry", "stand-in", *options]) == 0
    assert "2 failed runs of stand-in back in the queue" in capsys.readouterr().out
    assert sweep_stand_ins.work(file, output_dir, storage, workers=2).outcomes == {"complete": 2}
    assert main(["status", "stand-in", *options]) == 0


def test_a_database_that_does_not_answer(sweep_file: Sweep, output_dir: Path) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(ConnectionError, match="does not answer"):
        sweep_stand_ins.work(sweep_file(), output_dir, "postgresql://nobody@127.0.0.1:9/none")
    with pytest.raises(ValueError, match="--storage 'here'"):
        storage_url("here")


def test_the_slurm_file_is_a_script_bash_accepts(sweep_file: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    file = sweep_file()
    assert main(["slurm", str(file), "--storage", "postgresql://me@db/x y", "--array", "12", "--gpus", "2"]) == 0
    script = capsys.readouterr().out
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    for line in ("--array=0-11", "--gpus-per-task=2", "--requeue", "--signal=B:USR1@120"):
        assert f"#SBATCH {line}\n" in script
    # What the job would type; that it is typed, `test_sweep_slurm.py` tries.
    (typed,) = [line for line in script.splitlines() if line.endswith(" &")]
    assert shlex.split(typed)[1:6] == ["sweep", "worker", str(file), "--storage", "postgresql://me@db/x y"]


def test_what_an_idle_worker_asks_of_the_database(
    sweep_file: Sweep, output_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten minutes of a worker that waits for another one's last runs, with the usual heartbeats, in simulated time."""
    plan = make_plan(load_spec(sweep_file()), sweep_stand_ins.describe, sweep_stand_ins.FIELDS.__getitem__)
    storage = open_shared(storage_url(f"sqlite:///{tmp_path / 'shared.db'}"))
    queue = RunQueue(storage, "stand-in")
    client = MlflowClient(f"sqlite:///{output_dir / 'mlflow.db'}")
    ledger = PatientLedger(client, client.create_experiment("stand-in"), "stand-in", Patience())
    agenda = SharedAgenda(plan, ledger, storage, queue, "idle", Patience())
    agenda.prepare()
    for attempt in queue.latest().values():
        assert queue.claim(attempt, "busy")
    now = [1000.0]
    monkeypatch.setattr(shared, "time", SimpleNamespace(monotonic=lambda: now[0]))
    statements: list[str] = []
    event.listen(storage.engine, "before_cursor_execute", lambda _c, _k, statement, *_: statements.append(statement))
    for _ in range(2 * 600):  # the runner looks twice a second
        assert agenda.next() is None
        assert agenda.waits()
        now[0] += 0.5
    assert 0 < len(statements) / 600 < 0.6


def test_a_trial_without_its_worker_s_heartbeats_ends_before_anyone_takes_its_run(tmp_path: Path) -> None:
    """The process saves and ends by itself: whatever has become of the thread that should have renewed its lease."""
    pool = Pool(1)
    begun = lease.now()
    right = lease.Lease(6.0, begun)
    config = tmp_path / "config.yaml"
    config.write_text(
        f"output_dir: {tmp_path}\nmodel: {{stand_in: {{hangs: true}}}}\ntracking: {{uri: http://127.0.0.1:9}}\n"
    )
    log = tmp_path / "log"
    target = "sweep_stand_ins:train"
    pool.start(Job("a", target, ("--config", str(config)), {}, "run", 1, None, log, tmp_path), 0, right)
    events: list[Any] = []
    while not events:
        events = pool.wait(1.0)
    assert lease.now() - begun < 60
    (end,) = events
    assert end.exitcode in (-signal.SIGTERM, -signal.SIGKILL)
    assert right.left() <= 2.5  # asked at the last third, and at the end not asked any more


def test_whose_fault_it_is() -> None:
    assert fault_of(OSError(errno.ENOSPC, "No space left on device", "log")) == "disk"
    assert fault_of(CannotSave("cannot write the checkpoint")) == "disk"
    assert fault_of(FileNotFoundError(errno.ENOENT, "No such file", "corpus")) == "run"
    assert fault_of(ConnectionRefusedError("the tracking store")) == "store"
    assert fault_of(Preempted(64, None)) == "signal"
    assert fault_of(ZeroDivisionError()) == "run"
