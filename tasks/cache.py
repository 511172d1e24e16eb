"""The token cache: a corpus is built once per machine, by one process, whole or not at all.

Layout: ``<cache>/tokens/<key>/`` holds the files of a corpus and ``meta.json``, which describes it and has the size and a
checksum of each file; ``<key>.lock`` is held while building, and a build happens in ``<key>.building-*``, renamed at its end.
"""

import errno
import json
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from resbench.tasks.corpus import open_corpus

FORMAT = 2
"""Part of every key: raise it when the files of a corpus change their meaning."""

CHECK_WHOLE_BYTES = 256 << 20
"""Files up to this size are checksummed whole; of larger ones, evenly spread blocks adding up to it."""
CHECK_BLOCK_BYTES = 1 << 20

log = logging.getLogger(__name__)


def default_cache_dir() -> Path:
    """``$RESBENCH_CACHE``, else ``$XDG_CACHE_HOME/resbench``, else ``~/.cache/resbench``."""
    if chosen := os.environ.get("RESBENCH_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "resbench"


Opened = TypeVar("Opened")


def load_or_build(
    cache_dir: Path,
    key: str,
    build: Callable[[Path], dict[str, Any]],
    open: Callable[[Path, dict[str, Any]], Opened] = open_corpus,  # type: ignore[assignment]
) -> Opened:
    """Open the corpus called `key`; if it is missing or damaged, build it, while other processes wait for it.

    Args:
        cache_dir: root of the cache; created if it does not exist.
        key: file name that stands for everything the corpus depends on.
        build: writes the files of a corpus into the empty directory it is given and returns their description.
        open: makes of a directory and the description in it what is returned.

    Raises:
        OSError: the cache directory cannot be created or written, or the disk is full.
        Whatever `build` raises; nothing of the build is left behind.
    """
    directory = cache_dir / "tokens"
    if (corpus := _open(directory / key, open)) is not None:
        return corpus
    _make_writable(directory)
    with _lock(directory / f"{key}.lock"):
        if (corpus := _open(directory / key, open)) is not None:
            return corpus
        for leftover in directory.glob(f"{key}.building-*"):  # we hold the lock: whoever wrote these is dead
            shutil.rmtree(leftover, ignore_errors=True)
        _build(directory, key, build)
    corpus = _open(directory / key, open)
    assert corpus is not None
    return corpus


def _build(directory: Path, key: str, build: Callable[[Path], dict[str, Any]]) -> None:
    fresh = Path(tempfile.mkdtemp(prefix=f"{key}.building-", dir=directory))
    try:
        description = build(fresh)
        files = {file.name: _measure(file) for file in sorted(fresh.iterdir())}
        (fresh / "meta.json").write_text(
            json.dumps({"format": FORMAT, "files": files, "corpus": description}, indent=1)
        )
        fresh.chmod(0o755)  # mkdtemp's directories are private; a cache may be shared
        if (directory / key).exists():
            (directory / key).rename(tempfile.mkdtemp(prefix=f"{key}.building-", dir=directory))
        fresh.rename(directory / key)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(
                error.errno, f"no space left for the token cache in {directory}; {_CHOOSE_ANOTHER}"
            ) from error
        raise
    finally:
        for leftover in directory.glob(f"{key}.building-*"):
            shutil.rmtree(leftover, ignore_errors=True)


_CHOOSE_ANOTHER = (
    "set data.init_args.cache_dir or the environment variable RESBENCH_CACHE to a directory you can write to"
)


def _make_writable(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise type(error)(
            error.errno, f"cannot create the token cache ({reason}); {_CHOOSE_ANOTHER}", str(directory)
        ) from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, f"the token cache is not writable; {_CHOOSE_ANOTHER}", str(directory))


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    # The operating system frees the lock when its holder dies, however it dies.
    lock = FileLock(path, mode=0o644)
    try:
        lock.acquire(timeout=0.5)
    except Timeout:
        log.warning("another process is building %s; waiting for it", path.with_suffix(""))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _open(directory: Path, open: Callable[[Path, dict[str, Any]], Opened]) -> Opened | None:
    """The corpus in `directory`, or None if there is none that is whole."""
    if not directory.exists():
        return None
    try:
        meta = json.loads((directory / "meta.json").read_text())
        if meta["format"] != FORMAT:
            raise ValueError(f"format {meta['format']}")
        for name, expected in meta["files"].items():
            if (found := _measure(directory / name)) != expected:
                raise ValueError(f"{name}: expected {expected}, found {found}")
        return open(directory, meta["corpus"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("the token cache %s is damaged (%s); building it again", directory, error)
        return None


def _measure(file: Path) -> dict[str, int]:
    """Size in bytes and CRC-32 of a file."""
    size = file.stat().st_size
    blocks: Iterable[int] = range(0, size, CHECK_BLOCK_BYTES)
    if size > CHECK_WHOLE_BYTES:
        count = CHECK_WHOLE_BYTES // CHECK_BLOCK_BYTES
        blocks = [i * (size - CHECK_BLOCK_BYTES) // (count - 1) for i in range(count)]  # first and last included
    checksum = 0
    with file.open("rb") as stream:
        for start in blocks:
            stream.seek(start)
            checksum = zlib.crc32(stream.read(CHECK_BLOCK_BYTES), checksum)
    return {"bytes": size, "crc32": checksum}
