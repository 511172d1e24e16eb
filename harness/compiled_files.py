"""Compiled files that a killed process left behind half-written, and their removal.

The linker writes a shared library under its final name, and the compile cache takes any file of that name for a finished one. A process killed
meanwhile so breaks every later compilation of the same code; a library that only asks whether the CPU has some instructions does worse, and turns
them off in silence.
"""

import struct
import sys
from pathlib import Path

from filelock import FileLock, Timeout

HEADER = struct.Struct("<16x2HIQQQI6H")
"""Of an ELF file, 64 bits: https://refspecs.linuxfoundation.org/elf/gabi4+/ch4.eheader.html."""


def cut_short(library: Path) -> bool:
    """Whether a shared library ends before its section table does, which linkers write last. Raises OSError where it cannot be read."""
    with library.open("rb") as file:
        head = file.read(HEADER.size)
    if len(head) < HEADER.size or head[:4] != b"\x7fELF":
        return True
    *_, sections_at, _, _, _, _, section_size, sections, _ = HEADER.unpack(head)
    return sections_at == 0 or library.stat().st_size < sections_at + section_size * sections


def remove_broken(cache: Path) -> list[Path]:
    """Remove what was cut short from a cache of torch's inductor and return it. A file that another process is compiling now is left alone."""
    removed: list[Path] = []
    if sys.platform != "linux":  # elsewhere libraries have other formats
        return removed
    for library in cache.glob("??/*.so"):
        try:
            if not cut_short(library):
                continue
            with FileLock(cache / "locks" / f"{library.name.partition('.')[0]}.lock", timeout=0):  # inductor's own
                if cut_short(library):
                    library.unlink()
                    removed.append(library)
        except (OSError, Timeout):  # gone meanwhile, being written, or of somebody else
            continue
    return removed
