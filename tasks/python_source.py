"""The default task: Python source code, which every machine that can run this has on it, with nothing to download."""

import importlib.util
import os
import platform
import sysconfig
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from resbench.tasks.corpus import DocumentSink
from resbench.tasks.language import LanguageTask

SKIPPED_DIRECTORIES = frozenset({"__pycache__", "node_modules"})
SKIPPED_IN_STDLIB = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test"})
"""Installed packages are not the library, and many distributions of Python leave its tests out."""

GENERATED_PREFIX = "_sysconfigdata"
"""The standard library's one generated module: it spells out how and where this interpreter was compiled."""

MAX_FILE_BYTES = 1_000_000
"""Larger files are tables written by programs, not code written by people."""


SYMBOLS = {
    "stdlib": "the running interpreter's standard library",
    "site-packages": "the folder that PyTorch is installed in",
}
"""Folders that every machine has, by name; their content differs from machine to machine, which the fingerprint tells."""


class PythonSource(LanguageTask):
    """Source code of the running interpreter's standard library, byte by byte (257 tokens: a byte, or the end of a file).

    Files are taken in the order of their paths, each content once, and go to train or validation by a hash of their content.
    Left out: tests and installed packages (of the standard library), resbench itself (of installed packages), hidden directories, files that are
    empty, larger than a megabyte, binary or not UTF-8.

    Args:
        root: what to read in place of the standard library: a directory of Python files, all of which is read; ``site-packages``, the packages
            installed beside PyTorch; ``stdlib``; or a list of these.
        min_megabytes: refuse a corpus with fewer million bytes, so that a study is not run on less text than it says.

    Raises:
        FileNotFoundError, NotADirectoryError: a directory of `root` is none.
        ValueError: `root` is an empty list or names a directory twice; there is no usable Python file, or too little text.
    """

    name = "python-source"

    def __init__(self, root: str | list[str] | None = None, min_megabytes: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        named = ["stdlib"] if root is None else [root] if isinstance(root, str) else list(root)
        if not named:
            raise ValueError(
                "data.init_args.root: an empty list; name at least one directory, or leave it out for the standard library"
            )
        self.min_megabytes = min_megabytes
        self._named = named
        self.roots = [(_directory(name), _skipped(name)) for name in named]
        if len({path for path, _ in self.roots}) < len(self.roots):
            raise ValueError(f"data.init_args.root: {', '.join(named)}: a directory twice")

    def recipe(self) -> dict[str, Any]:
        return {"root": [str(path) for path, _ in self.roots], "files": self._files}

    def source(self) -> dict[str, str | int | float]:
        interpreter = f"{platform.python_implementation()} {platform.python_version()}"
        origins = {
            "stdlib": f"standard library of {interpreter}",
            "site-packages": f"packages installed for {interpreter}",
        }
        documents = self._corpus.facts
        return {
            "source": ", ".join(
                origins.get(name, str(path)) for name, (path, _) in zip(self._named, self.roots, strict=True)
            ),
            "n_files": int(documents["train_documents"]) + int(documents["validation_documents"]),
        }

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        found = self.train_tokens + self.val_tokens
        if found < self.min_megabytes * 1_000_000:
            raise ValueError(
                f"data.init_args.min_megabytes={self.min_megabytes}: {', '.join(self._named)} has {found / 1e6:.1f} million bytes of Python source, "
                "each file once. Name more directories in data.init_args.root, or ask for less."
            )

    def expected_bytes(self) -> int:
        return sum(size for _, _, size, _ in self._files)

    def collect(self, corpus: DocumentSink) -> None:
        for place, relative, _, _ in self._files:
            try:
                content = (self.roots[place][0] / relative).read_bytes()
            except OSError:  # gone or closed to us since it was listed
                continue
            if _is_text(content):
                corpus.add(content)
        if not any(corpus.documents.values()):
            below = ", ".join(str(path) for path, _ in self.roots)
            raise ValueError(
                f"data.init_args.root: no Python source below {below} ({len(self._files)} *.py files looked at)"
            )

    @cached_property
    def _files(self) -> list[tuple[int, str, int, int]]:
        """Which root, path relative to it, size in bytes, modification time in ns of each file, in the order of the roots and paths."""
        return [
            (place, *found)
            for place, (root, skipped) in enumerate(self.roots)
            for found in sorted(_walk(root, skipped))
        ]


def _directory(name: str) -> Path:
    """A directory by its path or its name in `SYMBOLS`."""
    if name == "stdlib":
        return Path(sysconfig.get_path("stdlib")).resolve()
    if name == "site-packages":
        found = importlib.util.find_spec("torch")
        assert found is not None
        assert found.origin is not None
        return Path(found.origin).resolve().parent.parent
    path = Path(name).expanduser().resolve()
    if not path.exists():
        raise FileNotFoundError(
            f"data.init_args.root: no such directory: {path} (nor is it one of {', '.join(SYMBOLS)})"
        )
    if not path.is_dir():
        raise NotADirectoryError(f"data.init_args.root: {path} is a file; expected a directory of Python files")
    return path


def _skipped(name: str) -> frozenset[str]:
    """Directories left out below a root."""
    return SKIPPED_DIRECTORIES | {"stdlib": SKIPPED_IN_STDLIB, "site-packages": frozenset({"resbench"})}.get(
        name, frozenset()
    )


def _walk(directory: Path, skipped: frozenset[str]) -> Iterator[tuple[str, int, int]]:
    for path, directories, names in os.walk(directory):
        directories[:] = [d for d in directories if d not in skipped and not d.startswith(".")]
        relative = Path(path).relative_to(directory)
        for name in names:
            if not name.endswith(".py") or name.startswith(GENERATED_PREFIX):
                continue
            try:
                stat = os.stat(os.path.join(path, name))
            except OSError:  # a dangling link
                continue
            if 0 < stat.st_size <= MAX_FILE_BYTES:
                yield (relative / name).as_posix(), stat.st_size, stat.st_mtime_ns


def _is_text(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return b"\0" not in content
