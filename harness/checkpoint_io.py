"""Checkpoint files that are whole or absent: written under a temporary name, flushed to disk, renamed; and finding the newest good one."""

import logging
import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from resbench.harness.errors import CannotSave

log = logging.getLogger(__name__)

NAME = re.compile(r"step-(\d+)\.ckpt")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, written so that a crash or a full disk leaves the earlier ones as they were, and read without trust."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Raises OSError naming the file when the disk is full or not writable."""
        path = Path(path)
        make_folder(path.parent)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with open(temporary, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _flush_names(path.parent)
        except BaseException as error:
            temporary.unlink(missing_ok=True)
            # torch's writer covers a full disk with a RuntimeError of its own about positions in the archive.
            cause = _os_error(error)
            if cause is not None or "inline_container" in str(error):
                raise CannotSave(
                    f"cannot write the checkpoint {path}: {_why(cause or error)}. Earlier checkpoints are intact: make room or choose another "
                    f"--output_dir, then go on with --resume {path.parent.name}"
                ) from error
            raise

    def load_checkpoint(
        self, path: Any, map_location: Any | None = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Tensors and plain values only, whatever the caller asks for: a checkpoint may come from a shared folder, and nothing in it is executed.

        Raises ValueError for a file that holds anything else.
        """
        try:
            state: dict[str, Any] = super().load_checkpoint(path, map_location, weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"the checkpoint {path} holds more than tensors and plain values, so it is not one of resbench's, and was not loaded: "
                f"{str(error).splitlines()[0]}"
            ) from error
        return state


def _flush_names(folder: Path) -> None:
    """Make a new name in a folder survive a power cut."""
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _os_error(error: BaseException) -> OSError | None:
    """The operating system's complaint under an exception, if there is one."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, OSError):
        seen = seen.__cause__ or seen.__context__
    return seen


def _why(error: BaseException) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else (str(error).splitlines() or [""])[0]


def make_folder(folder: Path) -> None:
    """Create a folder for output. Raises OSError that names it and says why it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "a file is in the way" if isinstance(error, FileExistsError | NotADirectoryError) else error.strerror
        raise type(error)(
            f"cannot create the output directory {folder}: {reason}. Choose another --output_dir"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise PermissionError(f"the output directory {folder} is not writable. Choose another --output_dir")


def file_name(step: int) -> str:
    """Of the checkpoint after so many optimizer steps."""
    return f"step-{step:08d}.ckpt"


def sweep_up(folder: Path) -> None:
    """Remove what a process killed in mid-write left; for the one process that owns the folder."""
    for leftover in folder.glob(".step-*.ckpt.*"):
        leftover.unlink(missing_ok=True)


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in a folder by step, oldest first."""
    found = [(int(match[1]), path) for path in folder.glob("step-*.ckpt") if (match := NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint that is not damaged, with a warning for each that is, saying what is used in its place."""
    damaged: list[Path] = []
    found = None
    for path in reversed(checkpoints(folder)):
        if is_whole(path):
            found = path
            break
        damaged.append(path)
    used = (
        f"{found.name}, the one before it, is used"
        if found is not None
        else "there is none before it: training starts again"
    )
    for path in damaged:
        log.warning("the checkpoint %s is damaged (truncated, or its checksums are wrong); %s", path, used)
    return found


def is_whole(path: Path) -> bool:
    """Whether the file is a complete archive whose checksums are right."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError, EOFError):
        return False
