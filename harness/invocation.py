"""How the user would type a command here, so that the commands resbench prints can be pasted."""

import shlex
import shutil
import sys
from pathlib import Path

from resbench.harness.store import default_tracking_uri


def command(*words: str) -> str:
    """``resbench WORD ...``; with the path of this environment's `resbench` when the plain name would run another one or none."""
    own = Path(sys.executable).parent / "resbench"
    found = shutil.which("resbench")
    if not own.exists() or (found and Path(found).samefile(own)):
        return shlex.join(["resbench", *words])
    near = own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own
    return shlex.join([str(near), *words])


def store_options(uri: str) -> tuple[str, ...]:
    """``--tracking-uri URI``, or nothing where that is what commands in this folder take by default."""
    return () if uri == default_tracking_uri("runs") else ("--tracking-uri", uri)
