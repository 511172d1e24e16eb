"""Waiting for a server that is away, but not for one that says no, and not for long once somebody is in a hurry."""

import logging

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

from resbench.sweeps import patience
from resbench.sweeps.patience import Patience


class Server:
    """Away for the first so many requests."""

    def __init__(self, away: int) -> None:
        self.left = away

    def __call__(self) -> str:
        self.left -= 1
        if self.left >= 0:
            raise MlflowException("connection refused")
        return "done"


def test_it_waits_and_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(patience, "_PAUSE_S", 0.01)
    monkeypatch.setattr(patience, "_QUIET_S", 0.0)
    with caplog.at_level(logging.WARNING):
        assert Patience()(Server(away=5)) == "done"
    assert [record.message for record in caplog.records] == [
        "waiting up to 600 s for a server that is away: connection refused",
        "it answers again",
    ]


def test_it_gives_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_PAUSE_S", 0.01)
    monkeypatch.setattr(patience, "HURRY_S", 0.05)
    with pytest.raises(MlflowException, match="connection refused"):
        Patience(0.05)(Server(away=10**9))
    hurried = Patience()
    hurried.hurry()
    with pytest.raises(MlflowException, match="connection refused"):
        hurried(Server(away=10**9))


def test_a_no_is_an_answer() -> None:
    def gone() -> None:
        asked.append(1)
        raise MlflowException("no such run", error_code=RESOURCE_DOES_NOT_EXIST)

    asked: list[int] = []
    with pytest.raises(MlflowException, match="no such run"):
        Patience()(gone)
    assert asked == [1]
