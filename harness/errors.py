"""Errors a user can do something about, as one screen on stderr and exit code 2; everything else keeps its traceback.

A run that a scheduler stopped (SIGTERM) ends with exit code 75, EX_TEMPFAIL of sysexits.h: nothing is wrong, start it again later.

Set RESBENCH_DEBUG=1 to see the traceback of every error.
"""

import contextlib
import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

MAX_LINES = 20
USER_ERROR = 2
INTERRUPTED = 130
PREEMPTED = 75


class Preempted(Exception):
    """A run was asked to stop (SIGTERM or SIGUSR1) and did, after ``tokens`` training tokens, with a checkpoint unless it keeps none."""

    def __init__(self, tokens: int, checkpoint: Path | None, run_id: str = "") -> None:
        saved = f"saved in {checkpoint}" if checkpoint is not None else "nothing is saved (every.checkpoint is 0)"
        advice = f"; go on with the same command and --resume {run_id}" if run_id and checkpoint is not None else ""
        super().__init__(f"stopped by a signal after {tokens:,} tokens, {saved}{advice}")
        self.tokens, self.checkpoint, self.run_id = tokens, checkpoint, run_id


class CannotSave(OSError):
    """A checkpoint could not be written: something is wrong with the disk, not with the run."""


@contextlib.contextmanager
def one_screen(command: str = "resbench") -> Iterator[None]:
    """Turn a user's error into a message and ``SystemExit(2)``, Ctrl-C into ``SystemExit(130)`` and `Preempted` into ``SystemExit(75)``.

    A user's errors are ValueError, OSError and ImportError: a value out of range, a file or a server that cannot be reached, a plugin that does
    not import. Anything else is a fault of ours or of a library and passes through.
    """
    try:
        yield
    except BrokenPipeError:  # `resbench list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains again at exit
        raise SystemExit(0) from None
    except KeyboardInterrupt as error:
        if debugging():
            raise
        advice = f"; {error}" if str(error) else ""
        print(f"\n{command}: stopped{advice}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except Preempted as error:
        print(f"{command}: {error}", file=sys.stderr)
        raise SystemExit(PREEMPTED) from None
    except (ValueError, OSError, ImportError) as error:
        if debugging():
            raise
        print(screen(command, error), file=sys.stderr)
        raise SystemExit(USER_ERROR) from None


def debugging() -> bool:
    """Whether the user asked for tracebacks."""
    return os.environ.get("RESBENCH_DEBUG", "") not in ("", "0")


def screen(command: str, error: BaseException) -> str:
    """The message for an error: what it says, wrapped, and cut where it would leave the screen."""
    text = str(error).strip() or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        text = f"{place}{error.strerror}"
    lines = [
        line
        for paragraph in text.splitlines()
        for line in (textwrap.wrap(paragraph, 110, subsequent_indent="  ") or [""])
    ]
    if len(lines) > MAX_LINES:
        lines = [*lines[:MAX_LINES], f"... ({len(lines) - MAX_LINES} more lines; RESBENCH_DEBUG=1 shows everything)"]
    return f"{command}: error: " + "\n".join(lines)
