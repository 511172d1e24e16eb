"""`resbench leaderboard publish`: a folder ready for any static host, from a built site, accepted submissions and their verifications.

Everything in it is a function of what goes in, so that the same inputs make the same bytes. The folder appears, or takes the place of an
earlier one of ours, in one step; one that holds anything else is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from resbench.results.submission.plausible import implausible
from resbench.results.submission.reading import Refused, read_submission
from resbench.results.submission.schema import Submission
from resbench.results.submission.verification import Verification, load_verifications

SUMS = "SHA256SUMS"
WORKFLOW = ".github/workflows/pages.yml"
LISTING = "submissions/index.html"
MARK = "published-by-resbench"
"""Names a folder as ours; its content is the version of this layout."""
VERSION = "resbench.publication/1\n"
KEPT = (".git",)
"""What may be in a published folder beside what we wrote, and stays in it."""


def publish(
    folder: Path, site: Path, submissions: Sequence[Path] = (), verifications: Sequence[Path] = ()
) -> dict[str, bytes]:
    """Write the folder and return its files.

    site: a folder that `resbench leaderboard build` wrote; only the files that it lists are taken, and only as it wrote them.
    submissions: files, each checked as `resbench leaderboard check` does; verifications: records about them.

    Raises ValueError (`Refused` for a submission) for what will not be published, OSError for what cannot be read or written.
    """
    _replaceable(folder)
    files = {name: content for name, content in _built(site).items() if name != SUMS}
    accepted = [_accepted(file) for file in submissions]
    records = load_verifications(verifications)
    _belong_together(accepted, records, verifications)
    files |= {f"submissions/{_name(one)}.json": _text(one) for one in accepted}
    files |= {_record_name(record): record.text().encode() for record in records}
    if accepted:
        files[LISTING] = _listing(accepted, records).encode()
        files["index.html"] = _linked(files["index.html"])
    files |= {WORKFLOW: _template("pages.yml"), ".nojekyll": b"", MARK: VERSION.encode()}
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    files[SUMS] = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())).encode()
    _put(folder, files)
    return files


def _replaceable(folder: Path) -> None:
    """Raise ValueError if there is something at this path that is not ours to replace."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ValueError(f"{folder}: not a folder; give another path")
    found = (
        sorted(path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()) if folder.exists() else []
    )
    found = [path for path in found if path.relative_to(folder).parts[0] not in KEPT]
    if not found:
        return
    mark = folder / MARK
    if not mark.is_file() or mark.read_text(encoding="utf-8") != VERSION:
        raise ValueError(
            f"{folder}: not empty, and not written by `resbench leaderboard publish`; give an empty or new folder"
        )
    listed = _sums(folder)
    for path in found:
        name = path.relative_to(folder).as_posix()
        if name == SUMS:
            continue
        if name not in listed:
            raise ValueError(
                f"{path}: not of the earlier `resbench leaderboard publish`; move it elsewhere, it would be lost"
            )
        if path.is_symlink() or hashlib.sha256(path.read_bytes()).hexdigest() != listed[name]:
            raise ValueError(
                f"{path}: changed since it was published; undo that or remove the folder, the change would be lost"
            )


def _built(site: Path) -> dict[str, bytes]:
    """The files of a built site, each as it was written. Raises ValueError otherwise."""
    if not (site / SUMS).is_file() or not (site / "index.html").is_file():
        raise ValueError(
            f"{site}: not a site that `resbench leaderboard build` wrote (no {SUMS} or index.html); build it first"
        )
    files = {}
    for name, digest in _sums(site).items():
        path = site / name
        inside = site.resolve() in path.resolve().parents and not path.is_symlink()
        if not inside or not path.is_file():
            raise ValueError(f"{site / SUMS} lists {name!r}, which is not there; build the site again")
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError(f"{path}: changed since the site was built; build it again")
        files[name] = content
    return files


def _sums(folder: Path) -> dict[str, str]:
    lines = (folder / SUMS).read_text(encoding="utf-8").splitlines() if (folder / SUMS).is_file() else []
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines) if name}


def _accepted(file: Path) -> Submission:
    try:
        submission = read_submission(file)
        if reasons := implausible(submission):
            raise Refused(reasons)
    except Refused as refused:
        raise Refused([f"{file}: {reason}" for reason in refused.reasons]) from refused
    return submission


def _belong_together(accepted: Sequence[Submission], records: Sequence[Verification], files: Sequence[Path]) -> None:
    digests = [submission.digest for submission in accepted]
    for digest in digests:
        if digests.count(digest) > 1:
            raise ValueError(f"the submission {digest[:12]}… was given twice")
    for record, file in zip(records, files, strict=True):
        if record.submission not in digests:
            raise ValueError(f"{file}: about the submission {record.submission[:12]}…, which is not among those given")


def _name(submission: Submission) -> str:
    study = "".join(c if c.isalnum() or c in "-_" else "-" for c in submission.study)[:60].strip("-")
    return f"{study or 'study'}-{submission.digest[:12]}"


def _record_name(record: Verification) -> str:
    return f"submissions/verifications/{record.submission[:12]}-{record.digest[:12]}.json"


def _text(submission: Submission) -> bytes:
    """Written anew from what was read: the bytes of a stranger's file are not passed on."""
    return (json.dumps(submission.content(), indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _listing(accepted: Sequence[Submission], records: Sequence[Verification]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from resbench.results.site.environment import TEMPLATES

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rows: list[Mapping[str, Any]] = []
    for submission in sorted(accepted, key=lambda one: (one.study, one.submitter, one.digest)):
        about = [record for record in records if record.submission == submission.digest]
        complete = sum(run.outcome == "complete" for run in submission.runs)
        rows.append(
            {
                "study": submission.study,
                "submitter": submission.submitter,
                "schemes": ", ".join(sorted({run.scheme for run in submission.runs})),
                "runs": f"{complete} of {len(submission.runs)}",
                "hardware": ", ".join(sorted({run.hardware for run in submission.runs})),
                "digest": submission.digest[:12],
                "file": f"{_name(submission)}.json",
                "records": [
                    {"text": _told(record), "file": _record_name(record).removeprefix("submissions/")}
                    for record in about
                ],
            }
        )
    return environment.get_template("submissions.html").render(rows=rows)


def _told(record: Verification) -> str:
    agreeing = sum(rerun.verdict == "agrees" for rerun in record.reruns)
    return f"{record.verdict}: {agreeing} of {len(record.reruns)} reruns agree, by {record.verifier} on {record.machine.hardware}"


def _linked(index: bytes) -> bytes:
    """The index with a link to the submissions at its end."""
    before, footer, after = index.rpartition(b"<footer>")
    if not footer:
        raise ValueError("the site's index.html has no <footer>: build it with this version of resbench")
    return before + footer + b'\n<p><a href="submissions/index.html">Submissions</a></p>' + after


def _template(name: str) -> bytes:
    from resbench.results.site.environment import TEMPLATES

    return (TEMPLATES / name).read_bytes()


def _put(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files beside the folder and let them take its place; whatever fails, the old folder or the new one is there, whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    old = staging / "old"
    new = staging / "new"
    try:
        for name, content in files.items():
            path = new / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if folder.exists():
            os.rename(folder, old)
        try:
            os.rename(new, folder)
        except OSError:
            if old.exists():
                os.rename(old, folder)
            raise
        for name in KEPT:
            if (old / name).exists():
                os.rename(old / name, folder / name)
    finally:
        if folder.exists() or not old.exists():  # never the only copy
            shutil.rmtree(staging, ignore_errors=True)
