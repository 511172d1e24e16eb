"""Reading a submission file as what a stranger sent: bounded in size and depth, plain JSON only, every refusal a sentence."""

from __future__ import annotations

import json
import stat
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from resbench.results.columns import printable
from resbench.results.submission.configs import MOST_CONFIGS, unsound
from resbench.results.submission.schema import MOST_RUNS, Submission, SubmittedRun, digest_of

MOST_BYTES = 16 * 2**20
"""5000 runs take less than half of this."""

MOST_REASONS = 20


class Refused(ValueError):
    """A submission that is not one; `reasons` says why, one sentence each, safe to print."""

    def __init__(self, reasons: list[str]) -> None:
        shown = reasons[:MOST_REASONS]
        if len(reasons) > MOST_REASONS:
            shown.append(f"and {len(reasons) - MOST_REASONS} more")
        self.reasons = [printable(reason) for reason in shown]
        super().__init__("; ".join(self.reasons))


def read_submission(file: Path) -> Submission:
    """The submission in a file. Raises `Refused`, or OSError if there is no such file."""
    return parse_submission(read_bounded(file))


def read_bounded(file: Path) -> bytes:
    """A file's content, of which no more is read than a submission can have. Raises `Refused`, or OSError if there is no such file."""
    if not stat.S_ISREG(file.stat().st_mode):  # opening a pipe would wait for somebody to write to it
        raise Refused([f"{file} is not a regular file"])
    with file.open("rb") as stream:
        raw = stream.read(MOST_BYTES + 1)
    if len(raw) > MOST_BYTES:
        raise Refused(
            [
                f"{file.name}: more than {MOST_BYTES // 2**20} MiB; a submission of 5000 runs takes less than half of that"
            ]
        )
    return raw


def parse_submission(raw: bytes) -> Submission:
    """The submission in these bytes. Raises `Refused`."""
    if raw.startswith((b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        raise Refused(["compressed: a submission is plain JSON, so that its size is known before it is read"])
    try:
        content = json.loads(raw.decode("utf-8"), parse_constant=_constant, object_pairs_hook=_object)
    except Refused:
        raise
    except RecursionError as error:
        raise Refused(["nested too deeply to be a submission"]) from error
    except ValueError as error:
        raise Refused([f"not JSON in UTF-8: {str(error)[:200]}"]) from error
    if not isinstance(content, dict):
        raise Refused([f"a submission is a JSON object, this is a {type(content).__name__}"])
    if crowded := _crowded(content):
        raise Refused([crowded])
    submission = validated(content)
    expected = digest_of(submission.content())
    if problems := list(unsound(submission.configs)):
        raise Refused(problems)
    if submission.digest != expected:
        raise Refused(
            [
                f"digest: {submission.digest[:12]}… does not belong to this content ({expected[:12]}… does): it was changed after it was made"
            ]
        )
    return submission


def _crowded(content: dict[str, Any]) -> str:
    """What there is too much of; empty if nothing. Asked first: a validator would collect millions of errors, at a kilobyte each."""
    for name, members, most in (
        ("", content, len(Submission.model_fields)),
        ("runs", content.get("runs"), MOST_RUNS),
        ("configs", content.get("configs"), MOST_CONFIGS),
    ):
        if isinstance(members, dict | list) and len(members) > 2 * most:
            return f"{name or 'the file'}: {len(members)} entries, at most {most}"
    runs = content.get("runs")
    for position, run in enumerate(runs if isinstance(runs, list) else []):
        if isinstance(run, dict | list) and len(run) > 2 * len(SubmittedRun.model_fields):
            return f"runs[{position}]: {len(run)} entries, at most {len(SubmittedRun.model_fields)}"
    return ""


def validated(content: dict[str, Any]) -> Submission:
    """The content as a submission, its digest not yet compared. Raises `Refused`."""
    try:
        return Submission.model_validate(content)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
        raise Refused([_sentence(problem) for problem in problems]) from error


def _constant(name: str) -> Any:
    raise Refused([f"{name} in the file: every number must be finite"])


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise Refused([f"key {twice[:60]!r} twice in one object: which one counts would depend on the reader"])
    return found


def _sentence(problem: Any) -> str:
    where = ""
    for part in problem["loc"]:
        where += f"[{part}]" if isinstance(part, int) else f".{str(part)[:60]}"
    given = problem.get("input")
    shown = "" if isinstance(given, dict | list) else f" (got {repr(given)[:80]})"
    return f"{where.lstrip('.')}: {problem['msg'][:200]}{shown}"
