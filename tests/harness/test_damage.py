"""Damage to checkpoints, done for real: a disk that fills up, folders that cannot be written, files cut short, files with code in them."""

import os
import pickle
import resource
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from harness_support import Argv, history, run_of

from resbench.harness import names
from resbench.harness.checkpoint_io import AtomicCheckpointIO, checkpoints, is_whole, make_folder, newest_whole
from resbench.harness.fit import fit

CADENCE = ("--every.validation=640", "--every.checkpoint=384")  # checkpoints every 3 steps, validations every 5
BIG = ("--model.backbone.width=256", "--model.backbone.n_heads=2")  # about 12 MB of checkpoint, above MLflow's database


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """The kernel refuses to let any file grow beyond so many bytes: a full disk in mid-write, for root too and without a file system of its own."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def undisturbed(arguments: list[str], output_dir: Path) -> dict[str, list[tuple[int, float]]]:
    whole = fit(arguments)
    return {metric: history(output_dir, whole.run_id, metric) for metric in (names.TRAIN_LOSS, names.VAL_LOSS)}


def test_a_disk_that_fills_up(argv: Argv, output_dir: Path) -> None:
    """The run ends with a clear error; earlier checkpoints are as they were, nothing half-written is left, and the run goes on bit for bit."""
    arguments = argv(*CADENCE, *BIG)
    kept: dict[Path, bytes] = {}
    with ExitStack() as full_disk:

        def fill(tokens: int, loss: float) -> None:
            if tokens == 10 * 128:
                folder = next(output_dir.glob("*/step-*.ckpt")).parent
                kept.update({path: path.read_bytes() for path in checkpoints(folder)})
                full_disk.enter_context(no_file_above(2**22))

        with pytest.raises(OSError, match="cannot write the checkpoint") as error:
            fit(arguments, on_validation=fill)
    said = str(error.value)
    run_id = next(iter(kept)).parent.name
    assert "step-00000012.ckpt: File too large" in said
    assert "Earlier checkpoints are intact" in said
    assert f"--resume {run_id}" in said
    folder = output_dir / run_id
    assert {path.name for path in kept} == {"step-00000006.ckpt", "step-00000009.ckpt"}
    assert {path: path.read_bytes() for path in checkpoints(folder)} == kept
    assert not list(folder.glob(".step-*"))
    run = run_of(output_dir, run_id)
    assert (run.info.status, run.data.tags["outcome"]) == ("FAILED", "failed")
    assert "File too large" in run.data.tags["error"]

    resumed = fit([*arguments, "--resume=auto"])
    assert resumed.run_id == run_id
    for metric, points in undisturbed(arguments, output_dir).items():
        assert history(output_dir, run_id, metric) == points, metric


def test_a_run_folder_that_is_lost_in_mid_run(argv: Argv, output_dir: Path, tmp_path: Path) -> None:
    """The folder's place is taken by a file, which stops root as well."""

    def lose(tokens: int, loss: float) -> None:
        if tokens == 10 * 128:
            folder = next(output_dir.glob("*/step-*.ckpt")).parent
            shutil.move(folder, tmp_path / folder.name)
            folder.write_text("")

    with pytest.raises(OSError, match="cannot create the output directory .*: a file is in the way"):
        fit(argv(*CADENCE), on_validation=lose)
    (moved,) = (path for path in tmp_path.iterdir() if path.name not in ("runs",))
    assert all(is_whole(path) for path in checkpoints(moved))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_folder_of_somebody_else(tmp_path: Path) -> None:
    """As an ordinary user, in a folder that only root may write."""
    folder = tmp_path / "run"
    AtomicCheckpointIO().save_checkpoint({"x": torch.ones(3)}, folder / "step-00000001.ckpt")
    for path in (folder, *folder.parents):
        if path.owner() == "root" and path != path.parent and "pytest" in str(path):
            path.chmod(0o755)  # pytest's own folders are closed to others
    os.seteuid(65534)
    try:
        with pytest.raises(PermissionError, match="not writable. Choose another --output_dir"):
            AtomicCheckpointIO().save_checkpoint({"x": torch.ones(3)}, folder / "step-00000002.ckpt")
        with pytest.raises(PermissionError, match="cannot create the output directory .*Permission denied"):
            make_folder(folder / "new")
    finally:
        os.seteuid(0)
    assert [path.name for path in folder.iterdir()] == ["step-00000001.ckpt"]


def test_every_truncation_and_a_sample_of_flipped_bits_is_noticed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older, newest = tmp_path / "step-00000001.ckpt", tmp_path / "step-00000002.ckpt"
    for path in (older, newest):
        AtomicCheckpointIO().save_checkpoint({"weights": torch.arange(2000.0), "step": 2}, path)
    content = newest.read_bytes()
    for kept in [0, 1, *range(7, len(content), 97), len(content) - 1]:
        newest.write_bytes(content[:kept])
        assert not is_whole(newest), kept
    start = content.index(torch.arange(2000.0).numpy().tobytes())
    for place in range(start, start + 8000, 500):
        flipped = bytearray(content)
        flipped[place] ^= 1 << (place % 8)
        newest.write_bytes(flipped)
        assert not is_whole(newest), place
    assert newest_whole(tmp_path) == older
    assert "step-00000002.ckpt is damaged" in caplog.text
    assert "step-00000001.ckpt, the one before it, is used" in caplog.text
    older.write_bytes(b"")
    assert newest_whole(tmp_path) is None
    assert "there is none before it: training starts again" in caplog.text


class Payload:
    """Runs a command when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


def test_a_checkpoint_with_code_in_it_is_refused_and_not_run(argv: Argv, output_dir: Path, tmp_path: Path) -> None:
    """Whole as an archive, and malicious: what a shared folder could hold."""
    first = fit(argv(*CADENCE, "--budget.tokens=1280"))
    newest = checkpoints(output_dir / first.run_id)[-1]
    state = torch.load(newest, weights_only=True)
    torch.save({**state, "callbacks": {"Checkpoint": Payload(tmp_path / "pwned")}}, newest)
    assert is_whole(newest)
    with pytest.raises(ValueError, match="more than tensors and plain values") as error:
        fit(argv(*CADENCE, "--budget.tokens=1280", f"--resume={first.run_id}"))
    assert str(newest) in str(error.value)
    assert not (tmp_path / "pwned").exists()
    pickle.loads(pickle.dumps(Payload(tmp_path / "pwned")))  # the payload does work where it is trusted
    assert (tmp_path / "pwned").exists()


def test_what_a_killed_writer_left_is_swept_up(argv: Argv, output_dir: Path) -> None:
    first = fit(argv("--budget.tokens=640"))
    leftover = output_dir / first.run_id / ".step-00000009.ckpt.4711"
    leftover.write_bytes(b"half")
    fit(argv("--budget.tokens=640", f"--resume={first.run_id}"))
    assert not leftover.exists()
