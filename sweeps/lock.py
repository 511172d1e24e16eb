"""One `sweep run` per sweep at a time, and none while trials of a killed one are still on their way out.

Two files in the sweep's folder. ``sweep.lock`` is held exclusively by the sweep process. ``trials.lock`` is held, shared, by every trial
process for as long as it lives, and taken exclusively for a moment before a sweep begins. The kernel releases both however a process ends.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from resbench.sweeps.control import clear

_PATIENCE_S = 60.0


@contextmanager
def sweep_lock(folder: Path) -> Iterator[None]:
    """Hold a sweep for this process. Raises ValueError if another one has it, PermissionError or OSError if the folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "sweep.lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise type(error)(
            f"cannot write in {folder}, where this sweep keeps its logs: {error.strerror}. Choose another --output-dir"
        ) from error
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise ValueError(
                f"this sweep is already being run by {holder}. Wait for it, stop it with Ctrl-C, or give your sweep another `name` or --output-dir."
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}, since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        file.flush()
        _wait_for_trials(folder)
        clear(folder)
        try:
            yield
        finally:
            with suppress(OSError):
                file.truncate(0)


def hold_as_trial(folder: Path) -> TextIO:
    """Called in a trial process; the lock lasts until the returned file is closed or the process ends."""
    file = (folder / "trials.lock").open("a", encoding="utf-8")
    fcntl.flock(file, fcntl.LOCK_SH)
    return file


def _wait_for_trials(folder: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    with (folder / "trials.lock").open("a", encoding="utf-8") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ValueError(
                        f"trials of an earlier run of this sweep are still alive after {_PATIENCE_S:.0f} s and hold {file.name}; "
                        "end them (see `fuser` or `lslocks`) and try again"
                    ) from None
                time.sleep(0.1)
