"""How far the building of a corpus is: a bar on a terminal, a line now and then elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOG_EVERY_S = 15.0

log = logging.getLogger(__name__)


@contextmanager
def build_progress(label: str, total_bytes: int | None) -> Iterator[Callable[[int], None]]:
    """Within it, call the given function with the number of bytes just done.

    Args:
        label: what is being built.
        total_bytes: how many there will be, if known.
    """
    if sys.stderr.isatty():
        with _bar(label, total_bytes) as advance:
            yield advance
        return
    done, last_logged = 0, time.monotonic()

    def advance_log(n_bytes: int) -> None:
        nonlocal done, last_logged
        done += n_bytes
        if time.monotonic() - last_logged > LOG_EVERY_S:
            last_logged = time.monotonic()
            of = f" of {total_bytes / 1e6:.0f}" if total_bytes else ""
            log.warning("%s: %.0f%s MB read", label, done / 1e6, of)

    yield advance_log


@contextmanager
def _bar(label: str, total_bytes: int | None) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(label), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=total_bytes)
        yield lambda n_bytes: progress.advance(task, n_bytes)
