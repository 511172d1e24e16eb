"""The default task: Python source code, which every machine that can run this has on it, with nothing to download."""

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


class PythonSource(LanguageTask):
    """Source code of the running interpreter's standard library, byte by byte (257 tokens: a byte, or the end of a file).

    Files are taken in the order of their paths, each content once, and go to train or validation by a hash of their content.
    Left out: tests and installed packages (of the standard library), hidden directories, files that are empty, larger than a
    megabyte, binary or not UTF-8.

    Args:
        root: a directory of Python files to read in place of the standard library; all of it is read, site-packages too.

    Raises:
        FileNotFoundError, NotADirectoryError: `root` is not a directory.
        ValueError: there is no usable Python file below `root`.
    """

    name = "python-source"

    def __init__(self, root: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = Path(root).expanduser().resolve() if root else Path(sysconfig.get_path("stdlib")).resolve()
        self._is_stdlib = not root
        self._skipped = SKIPPED_DIRECTORIES | SKIPPED_IN_STDLIB if self._is_stdlib else SKIPPED_DIRECTORIES
        if not self.root.exists():
            raise FileNotFoundError(f"data.init_args.root: no such directory: {self.root}")
        if not self.root.is_dir():
            raise NotADirectoryError(
                f"data.init_args.root: {self.root} is a file; expected a directory of Python files"
            )

    def recipe(self) -> dict[str, Any]:
        return {"root": str(self.root), "files": self._files}

    def source(self) -> dict[str, str | int | float]:
        interpreter = f"{platform.python_implementation()} {platform.python_version()}"
        origin = f"standard library of {interpreter}" if self._is_stdlib else str(self.root)
        documents = self._corpus.facts
        return {"source": origin, "n_files": int(documents["train_documents"]) + int(documents["validation_documents"])}

    def expected_bytes(self) -> int:
        return sum(size for _, size, _ in self._files)

    def collect(self, corpus: DocumentSink) -> None:
        for relative, _, _ in self._files:
            try:
                content = (self.root / relative).read_bytes()
            except OSError:  # gone or closed to us since it was listed
                continue
            if _is_text(content):
                corpus.add(content)
        if not any(corpus.documents.values()):
            raise ValueError(
                f"data.init_args.root: no Python source below {self.root} ({len(self._files)} *.py files looked at)"
            )

    @cached_property
    def _files(self) -> list[tuple[str, int, int]]:
        """Path relative to the root, size in bytes, modification time in ns of each file, in the order of the paths."""
        return sorted(self._walk(self.root))

    def _walk(self, directory: Path) -> Iterator[tuple[str, int, int]]:
        for path, directories, names in os.walk(directory):
            directories[:] = [d for d in directories if d not in self._skipped and not d.startswith(".")]
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
