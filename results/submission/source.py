"""Submissions as a source of runs: a leaderboard built from what strangers sent. No histories and no profiles: a submission has none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from resbench.results.runs import COLUMNS, FINAL
from resbench.results.source import Point, RawRun
from resbench.results.submission.plausible import implausible
from resbench.results.submission.reading import Refused, read_submission
from resbench.results.submission.schema import Submission, SubmittedRun


class SubmissionSource:
    """The runs of submission files, each checked as `resbench leaderboard check` does. A study that two files have is told apart by submitter.

    Raises `Refused` (a ValueError) for a file that is refused, naming it, and for two files with the same run.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.name = ", ".join(map(str, files))
        self._submissions = [_accepted(file) for file in files]
        owners: dict[str, Path] = {}
        for file, submission in zip(files, self._submissions, strict=True):
            for run in submission.runs:
                if (other := owners.setdefault(run.run_id, file)) is not file:
                    raise Refused([f"{file} and {other} both have the run {run.run_id}: leave one of the files out"])

    def runs(self) -> Iterator[RawRun]:
        studies = [submission.study for submission in self._submissions]
        for submission in self._submissions:
            study = submission.study
            if studies.count(study) > 1:
                study = f"{study} by {submission.submitter}"
            for run in submission.runs:
                yield _raw(run, study)

    def history(self, run_id: str, metric: str) -> list[Point]:
        return []

    def artifacts(self, run_id: str, folder: str = "") -> list[str]:
        return []

    def artifact(self, run_id: str, path: str) -> bytes | None:
        return None


def _accepted(file: Path) -> Submission:
    try:
        submission = read_submission(file)
        if reasons := implausible(submission):
            raise Refused(reasons)
    except Refused as refused:
        raise Refused([f"{file}: {reason}" for reason in refused.reasons]) from refused
    return submission


def _raw(run: SubmittedRun, study: str) -> RawRun:
    """The run as MLflow would have it: every field where `COLUMNS` reads it."""
    values = run.model_dump() | {"study": study, "phase": FINAL}
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    metrics: dict[str, float] = {}
    for column in COLUMNS:
        value = values.get(column.name)
        if value is None or column.source == "run":
            continue
        if column.source == "metric":
            metrics[column.key] = float(value)
        else:
            (params if column.source == "param" else tags)[column.key] = str(value)
    return RawRun(run.run_id, f"{run.cell}, seed {run.seed}", study, "FINISHED", None, params, tags, metrics)
