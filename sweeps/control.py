"""Words to a sweep that is running: stop once the runs under way have ended, and try failed runs again.

Each is a file in the sweep's folder, looked for by the sweep process between two runs. Whether a sweep is running is asked of its lock, which the
kernel lets go however a process ends.
"""

import fcntl
from pathlib import Path

_STOP, _RETRY = "stop", "retry"


def holder(folder: Path) -> str | None:
    """Who runs the sweep of this folder now, in words; None if nobody does."""
    try:
        file = (folder / "sweep.lock").open("r", encoding="utf-8")
    except FileNotFoundError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().strip() or "another process"
    return None


def ask_to_stop(folder: Path) -> None:
    (folder / _STOP).touch()


def ask_to_retry(folder: Path) -> None:
    (folder / _RETRY).touch()


def asked_to_stop(folder: Path) -> bool:
    return (folder / _STOP).exists()


def take_retry(folder: Path) -> bool:
    """Whether failed runs are to be tried again; asked once, it is taken as done."""
    wanted = (folder / _RETRY).exists()
    if wanted:
        (folder / _RETRY).unlink(missing_ok=True)
    return wanted


def clear(folder: Path) -> None:
    """Forget earlier words: a sweep that is started again is meant to run."""
    for name in (_STOP, _RETRY):
        (folder / name).unlink(missing_ok=True)
