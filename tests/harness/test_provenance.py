"""What a run says about where its numbers come from."""

import subprocess
from pathlib import Path

import pytest
import torch

from resbench.harness import provenance
from resbench.harness.hashing import config_hash
from resbench.harness.provenance import code_state, cpu_model, hardware


def test_the_hash_ignores_what_does_not_change_the_experiment() -> None:
    config = {
        "seed_everything": 0,
        "output_dir": "runs",
        "tracking": {"uri": None},
        "model": {"learning_rate": 0.1},
        "data": {"init_args": {"seed": 0, "batch_size": 4, "cache_dir": None}},
    }
    same = {
        "data": {"init_args": {"batch_size": 4, "seed": 9, "cache_dir": "/elsewhere"}},
        "model": {"learning_rate": 0.1},
        "tracking": {"uri": "http://x"},
        "seed_everything": 9,
        "output_dir": "y",
    }
    assert config_hash(config) == config_hash(same)
    assert config_hash(config) != config_hash({**config, "model": {"learning_rate": 0.2}})
    assert config["seed_everything"] == 0
    assert len(config_hash(config)) == 16


def checkout(folder: Path) -> Path:
    """A repository with one committed file, which takes provenance.py's place."""

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)

    folder.mkdir()
    (folder / "code.py").write_text("1")
    git("init")
    git("add", "code.py")
    git("commit", "-m", "first")
    return folder / "code.py"


def test_commit_and_dirtiness_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = checkout(tmp_path / "repository")
    monkeypatch.setattr(provenance, "__file__", str(file))
    code_state.cache_clear()
    commit, dirty = code_state()
    assert commit is not None
    assert len(commit) == 40
    assert dirty is False
    file.write_text("2")
    code_state.cache_clear()
    assert code_state() == (commit, True)
    code_state.cache_clear()


def test_an_installed_copy_inside_somebodys_repository_has_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = checkout(tmp_path / "repository").parent / ".venv" / "provenance.py"
    inside.parent.mkdir()
    inside.write_text("installed")
    monkeypatch.setattr(provenance, "__file__", str(inside))
    code_state.cache_clear()
    assert code_state() == (None, None)
    code_state.cache_clear()


def test_hardware_is_named() -> None:
    assert hardware(torch.device("cpu")) == cpu_model() != ""


@pytest.mark.parametrize(
    ("arguments", "device", "path"),
    [
        ({}, "cpu", "torch"),
        ({}, "cuda", "triton"),
        ({"n_streams": 4, "order": "columns-first", "start": "exp", "sinkhorn_eps": 0.0}, "cuda", "triton"),
        ({"n_streams": 5}, "cuda", "torch (no kernel for 5 streams)"),
        ({"n_streams": 4, "order": "rows-first"}, "cuda", "triton (Sinkhorn in torch)"),
    ],
)
def test_the_kernel_path_is_the_one_that_calls_take(
    arguments: dict[str, object], device: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resbench.kernels.functional.INTERPRETED", False)
    config = {"model": {"scheme": {"class_path": "x", "init_args": arguments}}}
    assert provenance.kernel_path(config, torch.device(device)) == path
