"""Looking after a sweep: status, stop and retry, as another terminal would type them."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sweep_stand_ins
from mlflow import MlflowClient

from resbench.sweeps import control
from resbench.sweeps.cli import main
from resbench.sweeps.status import CellStatus, _eta

Sweep = Callable[..., Path]
Runs = Callable[[], list[Any]]
Tell = Callable[..., tuple[int, str]]


@pytest.fixture
def tell(output_dir: Path, capsys: pytest.CaptureFixture[str]) -> Tell:
    """Type a command about the sweep; exit code and output."""

    def type_it(command: str, file: str = "stand-in") -> tuple[int, str]:
        capsys.readouterr()
        uri = f"sqlite:///{output_dir / 'mlflow.db'}"
        code = main([command, file, "--output-dir", str(output_dir), "--tracking-uri", uri])
        return code, capsys.readouterr().out

    return type_it


def test_failures_are_shown_and_queued_again(sweep_file: Sweep, output_dir: Path, tell: Tell, runs_of: Runs) -> None:
    file = sweep_file(stand_in="{raises: once}")
    assert len(sweep_stand_ins.run(file, output_dir).failures) == 10
    code, said = tell("status")
    assert code == 1
    assert "0 of 10 runs ended" in said
    assert "failed: stand-in/scheme=resnet/final/seed=0: RuntimeError: no more chalk" in said
    code, said = tell("retry")
    assert code == 0
    assert "10 failed runs back in the queue" in said
    assert "failed" not in tell("status")[1]
    assert sweep_stand_ins.run(file, output_dir).complete
    code, said = tell("status")
    assert code == 0
    assert "10 of 10 runs ended" in said
    best = min(r.data.metrics["val/loss"] for r in runs_of() if r.data.tags["cell"] == "scheme=resnet")
    (line,) = [line for line in said.splitlines() if "scheme=resnet" in line]
    assert f"{best:.4f}" in line
    assert "no run of stand-in has failed" in tell("retry")[1]


def test_stop_lets_runs_end_and_the_next_run_goes_on(
    sweep_file: Sweep, output_dir: Path, tell: Tell, runs_of: Runs
) -> None:
    file = sweep_file(stand_in="{seconds: 0.5}")
    assert tell("stop")[0] == 1  # nobody runs it
    answers: list[Any] = []

    def stop_once_it_runs() -> None:
        while not runs_of():
            time.sleep(0.05)
        answers.append(control.holder(output_dir / "sweeps" / "stand-in"))
        answers.append(tell("stop")[0])

    helper = threading.Thread(target=stop_once_it_runs)
    helper.start()
    summary = sweep_stand_ins.run(file, output_dir)
    helper.join()
    assert answers[0].startswith("process ")
    assert answers[1] == 0
    assert summary.interrupted
    started = len(runs_of())
    assert 0 < started < 10
    assert summary.outcomes == {"complete": started}  # what was under way has its result
    assert sweep_stand_ins.run(file, output_dir).outcomes == {"complete": 10}


def test_retry_reaches_a_sweep_that_is_running(sweep_file: Sweep, output_dir: Path, tell: Tell, runs_of: Runs) -> None:
    def retry_once_one_failed() -> None:
        while not any(run.data.tags.get("outcome") == "failed" for run in runs_of()):
            time.sleep(0.05)
        tell("retry")

    helper = threading.Thread(target=retry_once_one_failed)
    helper.start()
    summary = sweep_stand_ins.run(sweep_file(stand_in="{raises: once}"), output_dir)
    helper.join()
    assert summary.outcomes["complete"] >= 1  # every run fails once, so only a second attempt can be complete


def test_a_run_that_nobody_runs_is_dead(sweep_file: Sweep, output_dir: Path, tell: Tell, runs_of: Runs) -> None:
    file = sweep_file()
    sweep_stand_ins.run(file, output_dir)
    client = MlflowClient(f"sqlite:///{output_dir / 'mlflow.db'}")
    run = runs_of()[0]
    client.set_tag(run.info.run_id, "outcome", "running")
    client.update_run(run.info.run_id, status="RUNNING")  # as a machine that lost its power leaves it
    code, said = tell("status", str(file))
    assert code == 1
    assert f"dead: {run.data.tags['trial_key']}" in said
    assert "9 of 10 runs ended" in said
    assert "Nobody runs it now" in said


def test_time_left() -> None:
    done = CellStatus("a", {"complete": 2, "waiting": 3, "running": 2}, 1.0, [10.0, 30.0])
    fresh = CellStatus("b", {"waiting": 1}, None, [])
    # 3 waiting and two halves in a, one in b, of 20 s each, on the two that run now.
    assert _eta([done, fresh]) == pytest.approx((3 + 1 + 1) * 20 / 2)
    assert _eta([fresh]) is None


def test_a_sweep_that_is_not_there(tell: Tell) -> None:
    with pytest.raises(ValueError, match="no sweep 'other'"):
        tell("status", "other")
    with pytest.raises(OSError, match=r"missing\.yaml"):
        tell("status", "missing.yaml")
