"""Checkpoint files that are whole or absent: written under a temporary name, flushed to disk, renamed; and finding the newest good one."""

import logging
import os
import re
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

log = logging.getLogger(__name__)

NAME = re.compile(r"step-(\d+)\.ckpt")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, written so that a crash or a full disk leaves the earlier ones as they were."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Raises OSError naming the file when the disk is full or not writable."""
        path = Path(path)
        make_folder(path.parent)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            directory = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)  # the new name itself
            finally:
                os.close(directory)
        except BaseException as error:
            Path(temporary).unlink(missing_ok=True)
            # torch's writer reports a full disk as a RuntimeError of its own
            if isinstance(error, OSError) or "PytorchStreamWriter" in str(error):
                raise OSError(
                    f"cannot write the checkpoint {path}: {error}. Earlier checkpoints are intact."
                ) from error
            raise


def make_folder(folder: Path) -> None:
    """Create a folder for output. Raises OSError that names it and says why it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "a file is in the way" if isinstance(error, FileExistsError | NotADirectoryError) else error.strerror
        raise type(error)(
            f"cannot create the output directory {folder}: {reason}. Choose another --output_dir"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"the output directory {folder} is not writable. Choose another --output_dir")


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in a folder by step, oldest first."""
    found = [(int(match[1]), path) for path in folder.glob("step-*.ckpt") if (match := NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint that is not damaged, with a warning for each that is."""
    for path in reversed(checkpoints(folder)):
        if is_whole(path):
            return path
        log.warning("the checkpoint %s is damaged; the one before it is used", path)
    return None


def is_whole(path: Path) -> bool:
    """Whether the file is a complete archive whose checksums are right."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError, EOFError):
        return False
