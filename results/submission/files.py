"""Writing one file whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import NamedTemporaryFile


def write_whole(file: Path, text: str) -> None:
    """Put a file in place in one step; its folder is made. Raises OSError, and then the file is as it was."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile("w", dir=file.parent, prefix=".writing-", delete=False, encoding="utf-8") as staged:
        try:
            staged.write(text)
            staged.close()
            os.chmod(staged.name, 0o644)
            os.replace(staged.name, file)
        except BaseException:
            Path(staged.name).unlink(missing_ok=True)
            raise
