"""Commands that resbench prints for the user to type next."""

import os
import shlex
import sys
from pathlib import Path

import pytest

from resbench.harness.invocation import command, store_options
from resbench.harness.store import default_tracking_uri

OWN = Path(sys.executable).parent / "resbench"


def test_the_plain_name_where_it_runs_this_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(OWN.parent))
    assert command("ui") == "resbench ui"


def test_the_path_as_seen_from_the_folder_where_the_name_would_not_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.chdir(OWN.parent.parent)
    assert command("ui") == f"{OWN.parent.name}/resbench ui"


def test_the_whole_path_from_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.chdir(tmp_path)
    assert shlex.split(command("leaderboard", "build", "--study", "two words")) == [
        str(OWN), "leaderboard", "build", "--study", "two words",
    ]  # fmt: skip


def test_the_store_is_named_only_where_it_is_another_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert store_options(default_tracking_uri("runs")) == ()
    assert store_options("sqlite:////elsewhere/mlflow.db") == ("--tracking-uri", "sqlite:////elsewhere/mlflow.db")
