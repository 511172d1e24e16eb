"""Where runs are read from: an MLflow store, or files that `resbench runs export` wrote. Both give the same runs, so results do too.

A file is read where it lies: nothing is imported, no id changes, and so what is built from it is the same to the last byte everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol

from resbench.harness.runs.archive import Archive, RunRecord
from resbench.harness.store import open_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

PAGE = 1000
"""Runs asked of a store at a time."""


@dataclass(frozen=True)
class RawRun:
    """A run as MLflow has it: times in milliseconds since 1970, the last value of every metric, everything else as text."""

    run_id: str
    name: str
    experiment: str
    status: str
    started: int | None
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]


@dataclass(frozen=True)
class Point:
    """A logged value, the step (training tokens) it belongs to and when it was logged, in milliseconds since 1970."""

    step: int
    value: float
    timestamp: int


class RunSource(Protocol):
    """Runs to read. `name` says where they are, for messages."""

    @property
    def name(self) -> str: ...

    def runs(self) -> Iterator[RawRun]:
        """Every run there is."""
        ...

    def history(self, run_id: str, metric: str) -> list[Point]:
        """Every value of a metric; empty if it was not logged."""
        ...

    def artifacts(self, run_id: str, folder: str = "") -> list[str]:
        """Paths of the files in a folder of the run's artifacts, sorted."""
        ...

    def artifact(self, run_id: str, path: str) -> bytes | None:
        """The content of an artifact; None if the run has none of that path."""
        ...


Where = str | Path | RunSource
"""A tracking URI, an exported file, or an open source."""


def open_source(where: Where | list[Path]) -> RunSource:
    """The runs of an MLflow store (a URI), or of exported files (``.zip``) or submissions (``.json``): a path or several of one kind.

    Raises what `open_store` or `Archive` raises for what cannot be read.
    """
    if isinstance(where, str):
        return StoreSource(where)
    if isinstance(where, Path):
        where = [where]
    if not isinstance(where, list):
        return where
    submissions = [file for file in where if file.suffix == ".json"]
    if not submissions:
        return FileSource(where)
    if len(submissions) < len(where):
        raise ValueError(f"{submissions[0]} is a submission, other files are exported runs: give one kind at a time")
    from resbench.results.submission.source import SubmissionSource

    return SubmissionSource(where)


class StoreSource:
    """The runs of an MLflow store."""

    def __init__(self, uri: str) -> None:
        self.name = uri
        self._client: MlflowClient = open_store(uri, must_exist=True)

    def runs(self) -> Iterator[RawRun]:
        experiments = {found.experiment_id: found.name for found in _pages(self._client.search_experiments)}
        if not experiments:
            return
        for run in _pages(self._client.search_runs, experiment_ids=list(experiments)):
            yield RawRun(
                run_id=run.info.run_id,
                name=run.info.run_name,
                experiment=experiments[run.info.experiment_id],
                status=run.info.status,
                started=run.info.start_time,
                params=run.data.params,
                tags=run.data.tags,
                metrics=run.data.metrics,
            )

    def history(self, run_id: str, metric: str) -> list[Point]:
        return [
            Point(point.step, point.value, point.timestamp) for point in self._client.get_metric_history(run_id, metric)
        ]

    def artifacts(self, run_id: str, folder: str = "") -> list[str]:
        entries = self._client.list_artifacts(run_id, folder or None)
        return sorted(entry.path for entry in entries if not entry.is_dir)

    def artifact(self, run_id: str, path: str) -> bytes | None:
        folder = str(PurePosixPath(path).parent)
        if path not in self.artifacts(run_id, "" if folder == "." else folder):
            return None
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # a bar for each small file is noise
        with TemporaryDirectory() as local:
            return Path(self._client.download_artifacts(run_id, path, local)).read_bytes()


class FileSource:
    """The runs of one or several files of `resbench runs export`, under the ids they had where they were made.

    Raises ValueError for a file that is damaged and for two files that hold the same run with another content.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.name = ", ".join(map(str, files))
        self._archives: dict[str, Archive] = {}
        for file in files:
            archive = Archive(file)
            for origin in archive.records:
                other = self._archives.setdefault(origin, archive)
                if other.content_hash(origin) != archive.content_hash(origin):
                    raise ValueError(
                        f"{file} and {other.path} both have run {origin}, and not with the same content: leave one of the files out"
                    )

    def runs(self) -> Iterator[RawRun]:
        for origin in self._archives:
            record = self._record(origin)
            yield RawRun(
                run_id=origin,
                name=record.tags.get("mlflow.runName", ""),
                experiment=record.experiment,
                status=record.status,
                started=record.start_time,
                params=record.params,
                tags=record.tags,
                metrics={
                    name: max(points, key=lambda point: (point.step, point.timestamp)).value
                    for name, points in self._points[origin].items()
                    if points
                },
            )

    def history(self, run_id: str, metric: str) -> list[Point]:
        return self._points[run_id].get(metric, [])

    def artifacts(self, run_id: str, folder: str = "") -> list[str]:
        parent = folder or "."
        return sorted(path for path in self._artifacts[run_id] if str(PurePosixPath(path).parent) == parent)

    def artifact(self, run_id: str, path: str) -> bytes | None:
        return self._artifacts[run_id].get(path)

    def _record(self, origin: str) -> RunRecord:
        return self._archives[origin].records[origin]

    @cached_property
    def _points(self) -> dict[str, dict[str, list[Point]]]:
        return {
            origin: {
                name: [Point(step, value, time_ms) for value, time_ms, step in points]
                for name, points in archive.metrics(origin).points.items()
            }
            for origin, archive in self._archives.items()
        }

    @cached_property
    def _artifacts(self) -> dict[str, dict[str, bytes]]:
        return {origin: dict(archive.artifacts(origin)) for origin, archive in self._archives.items()}


def _pages(search: Callable[..., Any], **query: Any) -> Iterator[Any]:
    token: str | None = None
    while True:
        page = search(**query, max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
