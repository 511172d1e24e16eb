"""From a run file into a store. Importing a file again changes nothing; an import that was cut short is done afresh by the next one."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resbench.harness.runs.archive import Archive, RunRecord
from resbench.harness.store import experiment_id

if TYPE_CHECKING:
    from mlflow import MlflowClient

ORIGIN = "resbench.origin"
"""Id of the run in the store it was made in."""
CONTENT = "resbench.content"
"""Hash of what was imported; set last, so a run without it was imported in part only."""
IMPORT_TAGS = (ORIGIN, CONTENT)
SKETCH = "sketch of "
"""Before the hash of a run of which only parameters, tags and last values were imported."""
PARENT = "mlflow.parentRunId"
_BATCH = 1000
_SMALL_BATCH = 100


@dataclass
class Imported:
    """Origins of the runs, by what became of them. ``differing`` ones are in the store with another content, and were left as they are."""

    new: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)


def import_runs(
    client: "MlflowClient", uri: str, archive: Archive, *, replace: bool = False, sketch: bool = False
) -> Imported:
    """Write the runs of a checked file to a store, parents first. ``replace`` deletes runs of another content and imports them anew.

    A run that was made in this very store is known by its id. ``sketch`` leaves histories, datasets and artifacts behind, which take nearly all
    of the time; a whole import takes the place of a sketch.
    """
    result = Imported()
    ids: dict[str, str] = {}
    for record in _parents_first(archive):
        content = archive.content_hash(record.origin)
        present, found = _present(client, record.origin) or (None, None)
        is_sketch = found == SKETCH + content
        if present is not None and (found in (content, "own") or (sketch and is_sketch)):
            ids[record.origin] = present
            result.known.append(record.origin)
            continue
        in_part = found is None or is_sketch
        if present is not None:
            if not in_part and not replace:
                ids[record.origin] = present
                result.differing.append(record.origin)
                continue
            client.delete_run(present)
        ids[record.origin] = _write(client, uri, archive, record, ids, sketch)
        (result.new if in_part else result.replaced).append(record.origin)
    return result


def _present(client: "MlflowClient", origin: str) -> tuple[str, str | None] | None:
    """Id and content of a run of this origin: ``own`` for one made here, None for one imported in part."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(origin)
        if run.info.lifecycle_stage == "active":
            return origin, "own"
    except MlflowException:
        pass
    everywhere = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(everywhere, f"tags.`{ORIGIN}` = '{origin}'") if everywhere else []
    whole = [run for run in found if CONTENT in run.data.tags]
    for run in whole or found:
        return run.info.run_id, run.data.tags.get(CONTENT)
    return None


def _parents_first(archive: Archive) -> list[RunRecord]:
    parents = {record.tags.get(PARENT) for record in archive.records.values()}
    return sorted(archive.records.values(), key=lambda record: record.origin not in parents)


def _write(
    client: "MlflowClient", uri: str, archive: Archive, record: RunRecord, ids: dict[str, str], sketch: bool
) -> str:
    from mlflow.entities import Metric, Param, RunTag

    tags = dict(record.tags)
    if parent := tags.pop(PARENT, None):
        present = ids.get(parent) or next(iter(_present(client, parent) or ()), None)
        if present:  # a parent that stayed behind is not pointed to
            tags[PARENT] = present
    experiment = experiment_id(client, uri, record.experiment)
    run = client.create_run(experiment, start_time=record.start_time, tags={**tags, ORIGIN: record.origin})
    run_id = str(run.info.run_id)
    for params in _chunks([Param(name, value) for name, value in record.params.items()], _SMALL_BATCH):
        client.log_batch(run_id, params=params)
    points = [
        Metric(name, value, time_ms, step)
        for name, history in archive.metrics(record.origin).points.items()
        for value, time_ms, step in (
            sorted(history, key=lambda point: (point[2], point[1]))[-1:] if sketch else history
        )
    ]
    for metrics in _chunks(points, _BATCH):
        client.log_batch(run_id, metrics=metrics)
    if not sketch:
        _log_datasets(client, run_id, record)
        _log_artifacts(client, run_id, archive, record.origin)
    if record.status not in ("RUNNING", "SCHEDULED"):
        client.set_terminated(run_id, record.status, record.end_time)
    content = archive.content_hash(record.origin)
    client.log_batch(run_id, tags=[RunTag(CONTENT, SKETCH + content if sketch else content)])
    return run_id


def _log_datasets(client: "MlflowClient", run_id: str, record: RunRecord) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    if record.datasets:
        inputs = [
            DatasetInput(
                Dataset(given.name, given.digest, given.source_type, given.source, given.data_schema, given.profile),
                [InputTag(key, value) for key, value in given.tags.items()],
            )
            for given in record.datasets
        ]
        client.log_inputs(run_id, inputs)


def _log_artifacts(client: "MlflowClient", run_id: str, archive: Archive, origin: str) -> None:
    with tempfile.TemporaryDirectory(prefix="resbench-import-") as name:
        folder = Path(name)
        for path, content in archive.artifacts(origin):
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        if any(folder.iterdir()):
            client.log_artifacts(run_id, str(folder))


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
