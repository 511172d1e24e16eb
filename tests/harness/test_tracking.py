"""Metrics reach MLflow in batches, once each, whatever the store goes through meanwhile."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from harness_support import Argv, history
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from resbench.harness import tracking
from resbench.harness.fit import fit
from resbench.harness.store import default_tracking_uri, experiment_id, open_store
from resbench.harness.tracking import TrackedRun, flatten


class Flaky:
    """A client that fails its first requests, either before or after the store has taken them."""

    def __init__(self, client: MlflowClient, failures: int, after: bool = False) -> None:
        self._client, self.failures, self._after = client, failures, after
        self.requests = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def log_batch(self, *args: Any, **kwargs: Any) -> None:
        self.requests += 1
        failing = self.failures > 0
        self.failures -= failing
        if failing and not self._after:
            raise ConnectionError("server is down")
        self._client.log_batch(*args, **kwargs)
        if failing:
            raise ConnectionError("answer got lost")


@pytest.fixture
def client(output_dir: Path) -> MlflowClient:
    return open_store(default_tracking_uri(output_dir))


@pytest.fixture
def run_id(client: MlflowClient, output_dir: Path) -> str:
    return str(client.create_run(experiment_id(client, default_tracking_uri(output_dir), "x")).info.run_id)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "SEND_EVERY_S", 0.05)
    monkeypatch.setattr(tracking, "LONGEST_WAIT_S", 0.1)


def test_many_metrics_are_few_requests(client: MlflowClient, run_id: str, output_dir: Path, tmp_path: Path) -> None:
    counting: Any = Flaky(client, 0)
    run = TrackedRun(counting, run_id, tmp_path / "unsent.json")
    for step in range(500):
        run.log({f"m{i}": float(step) for i in range(5)}, step)
    run.close()
    assert counting.requests <= 10
    assert history(output_dir, run_id, "m3") == [(step, float(step)) for step in range(500)]
    assert not (tmp_path / "unsent.json").exists()


@pytest.mark.parametrize("after", [False, True], ids=["request lost", "answer lost"])
def test_an_outage_loses_and_doubles_nothing(
    client: MlflowClient, run_id: str, output_dir: Path, tmp_path: Path, after: bool, caplog: pytest.LogCaptureFixture
) -> None:
    flaky: Any = Flaky(client, 3, after)
    run = TrackedRun(flaky, run_id, tmp_path / "unsent.json")
    for step in range(20):
        run.log({"a": float(step), "b": float("nan")}, step)
        time.sleep(0.01)
    run.log_text_later("content", "folder/file.txt")
    run.close()
    assert history(output_dir, run_id, "a") == [(step, float(step)) for step in range(20)]
    assert len(history(output_dir, run_id, "b")) == 20
    assert caplog.text.count("does not take metrics") == 1
    assert "takes metrics again" in caplog.text
    assert Path(client.download_artifacts(run_id, "folder/file.txt")).read_text() == "content"


def test_what_the_store_never_takes_is_kept_in_a_file(client: MlflowClient, run_id: str, tmp_path: Path) -> None:
    dead: Any = Flaky(client, 10**9)
    run = TrackedRun(dead, run_id, tmp_path / "runs" / "unsent.json")
    run.log({"a": 1.5}, 7)
    run.close(timeout_s=0.3)
    kept = json.loads((tmp_path / "runs" / "unsent.json").read_text())
    assert kept["run_id"] == run_id
    assert [(m["key"], m["value"], m["step"]) for m in kept["metrics"]] == [("a", 1.5, 7)]


def test_a_run_ends_without_its_store_and_is_completed_by_resuming(
    argv: Argv, output_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The store goes away in mid-run and stays away: the run has its result, and what was not sent is sent when it is resumed."""
    client_class = type(open_store(default_tracking_uri(output_dir)))

    def away(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("server is down")

    def leave(tokens: int, loss: float) -> None:
        if tokens == 1024:
            for name in ("log_batch", "log_text", "set_terminated"):
                monkeypatch.setattr(client_class, name, away)

    monkeypatch.setattr(tracking, "CLOSE_TIMEOUT_S", 0.5)
    arguments = argv("--trainer.log_every_n_steps=1")
    result = fit(arguments, on_validation=leave)
    assert result.outcome == "complete"
    assert f"--resume {result.run_id} sends them" in caplog.text
    spool = output_dir / result.run_id / "unsent-metrics.json"
    assert json.loads(spool.read_text())["texts"]["stability/profile_5120.json"]
    monkeypatch.undo()
    fit([*arguments, f"--resume={result.run_id}"])
    assert not spool.exists()
    assert [step for step, _ in history(output_dir, result.run_id, "train/loss")] == list(range(128, 5121, 128))
    assert [step for step, _ in history(output_dir, result.run_id, "val/loss")] == list(range(0, 5121, 512))
    run = open_store(default_tracking_uri(output_dir)).get_run(result.run_id)
    assert (run.info.status, run.data.tags["outcome"]) == ("FINISHED", "complete")


def test_a_resumed_run_skips_steps_it_has_and_sends_what_was_left(
    client: MlflowClient, run_id: str, output_dir: Path, tmp_path: Path
) -> None:
    first = TrackedRun(client, run_id, tmp_path / "unsent.json")
    first.log({"a": 1.0}, 10)
    first.flush()
    first.log({"a": 2.0}, 20)
    left = first.unsent()  # as a checkpoint keeps it when the process is killed now
    assert [(name, value, step) for name, value, _, step in left] == [("a", 2.0, 20)]
    first._pending.clear()
    second = TrackedRun(client, run_id, tmp_path / "unsent.json")
    second.skip_what_is_logged()
    second.requeue([("a", 1.0, left[0][2], 10), *left])
    second.log({"a": 99.0, "b": 3.0}, 10)
    second.close()
    assert history(output_dir, run_id, "a") == [(10, 1.0), (20, 2.0)]
    assert history(output_dir, run_id, "b") == [(10, 3.0)]


def test_params_are_written_once_and_whole(client: MlflowClient, run_id: str, tmp_path: Path) -> None:
    run = TrackedRun(client, run_id, tmp_path / "unsent.json")
    many = {f"p{i}": i for i in range(150)}
    run.log_params({**many, "long": "x" * 1000, "none": None, "list": [1, 2], "flag": True})
    run.log_params({"p0": "changed", "new": 1.5})
    params = client.get_run(run_id).data.params
    assert params["p0"] == "0"  # MLflow's parameters are immutable; a resumed run must not trip over that
    assert params["p149"] == "149"
    assert len(params["long"]) == 1000
    assert params["list"] == "[1, 2]"
    assert params["flag"] == "true"
    assert params["new"] == "1.5"
    assert "none" not in params


def test_flattening() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {"a.b": 1, "a.c.d": [2], "e": None}


class Beaten:
    """A client whose first dataset another run of the experiment records a moment earlier, as MLflow then reports it."""

    def __init__(self, client: MlflowClient, other_run: str) -> None:
        self._client, self._other_run, self._beaten = client, other_run, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def log_inputs(self, run_id: str, datasets: Any) -> None:
        if not self._beaten:
            self._beaten = True
            self._client.log_inputs(self._other_run, datasets)
            raise MlflowException("UNIQUE constraint failed: datasets.experiment_id, datasets.name, datasets.digest")
        self._client.log_inputs(run_id, datasets)


def test_two_runs_may_record_the_same_data_at_once(client: MlflowClient, run_id: str, tmp_path: Path) -> None:
    other_run = str(client.create_run(client.get_run(run_id).info.experiment_id).info.run_id)
    racing: Any = Beaten(client, other_run)
    run = TrackedRun(racing, run_id, tmp_path / "unsent.json")
    run.log_dataset("python-source", "5678", {"source": "a library"})
    run.close()
    for each in (run_id, other_run):
        assert [i.dataset.digest for i in client.get_run(each).inputs.dataset_inputs] == ["5678"]
