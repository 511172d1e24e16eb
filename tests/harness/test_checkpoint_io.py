"""Checkpoint files are whole or absent."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from resbench.harness.checkpoint_io import AtomicCheckpointIO, checkpoints, is_whole, make_folder, newest_whole


def test_a_failing_write_leaves_the_earlier_file_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "step-00000001.ckpt"
    AtomicCheckpointIO().save_checkpoint({"x": torch.ones(3)}, path)
    before = path.read_bytes()

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"step-00000001.ckpt.*No space left.*Earlier checkpoints are intact"):
        AtomicCheckpointIO().save_checkpoint({"x": torch.zeros(3)}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_to_a_full_device_names_the_file() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(OSError, match="cannot write the checkpoint|not writable|cannot create"):
        AtomicCheckpointIO().save_checkpoint({"x": torch.zeros(1000)}, full / "step-00000001.ckpt")


def test_the_newest_whole_one_is_found_by_step_not_by_name_or_time(tmp_path: Path) -> None:
    for step in (900, 1000, 10**9):
        AtomicCheckpointIO().save_checkpoint({"step": step}, tmp_path / f"step-{step:08d}.ckpt")
    (tmp_path / ".step-00000001.ckpt.abc").write_text("left by a kill")
    assert [path.name for path in checkpoints(tmp_path)] == [
        "step-00000900.ckpt",
        "step-00001000.ckpt",
        "step-1000000000.ckpt",
    ]
    newest = tmp_path / "step-1000000000.ckpt"
    assert newest_whole(tmp_path) == newest
    newest.write_bytes(newest.read_bytes()[:-40])
    assert newest_whole(tmp_path) == tmp_path / "step-00001000.ckpt"
    assert newest_whole(tmp_path / "nowhere") is None


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "step-00000001.ckpt"
    AtomicCheckpointIO().save_checkpoint({"x": torch.ones(10_000)}, path)
    assert is_whole(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert not is_whole(path)


def test_a_folder_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="a file is in the way"):
        make_folder(tmp_path / "file" / "runs")
