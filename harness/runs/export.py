"""From a store into a run file."""

import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

import yaml

from resbench.harness.runs.archive import KINDS, DatasetRecord, Metrics, RunRecord, Writer, check_path
from resbench.harness.runs.restore import CONTENT, IMPORT_TAGS, ORIGIN, SKETCH
from resbench.harness.runs.select import Found

if TYPE_CHECKING:
    from mlflow import MlflowClient

PARENT = "mlflow.parentRunId"
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://\S+$", re.IGNORECASE)


@dataclass
class Exported:
    """``left_out``: artifacts that did not fit or do not travel, by run."""

    runs: int = 0
    artifacts: int = 0
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)


def export_runs(
    client: "MlflowClient", found: Sequence[Found], path: Path, artifact_limit: int, *, placeless: bool = False
) -> Exported:
    """Write runs to ``path``, with their artifacts of at most ``artifact_limit`` bytes each.

    The parent of a run is named by its origin, as the run itself is. ``placeless`` leaves out every parameter, tag and key of a configuration
    whose value is a place on this machine (see `is_place`). Raises OSError if the file cannot be written, and ValueError for a run that is here as
    a sketch.
    """
    for item in found:
        if item.run.data.tags.get(CONTENT, "").startswith(SKETCH):
            raise ValueError(
                f"run {item.run.info.run_id} is here without its histories: a piece of a sweep brought it along. Export from where it was made, "
                "use the piece's STATE/runs-*.zip, or import that file here first, with `resbench runs import`"
            )
    exported = Exported()
    origins = {item.run.info.run_id: _origin(item) for item in found}
    with Writer(path, version("resbench")) as writer:
        for item in found:
            run = item.run
            small, left_out = _artifacts(client, run.info.run_id, artifact_limit)
            tags = {name: value for name, value in run.data.tags.items() if name not in IMPORT_TAGS}
            if PARENT in tags:
                tags[PARENT] = origins.get(tags[PARENT], tags[PARENT])
            params = dict(run.data.params)
            if placeless:
                tags, params = ({k: v for k, v in values.items() if not is_place(v)} for values in (tags, params))
            record = RunRecord(
                origin=origins[run.info.run_id],
                experiment=item.experiment,
                status=run.info.status,
                start_time=run.info.start_time,
                end_time=run.info.end_time,
                params=dict(sorted(params.items())),
                tags=dict(sorted(tags.items())),
                datasets=_datasets(item),
                left_out=left_out,
            )
            points = {
                name: [(p.value, p.timestamp, p.step) for p in client.get_metric_history(run.info.run_id, name)]
                for name in sorted(run.data.metrics)
            }
            for history in points.values():
                history.sort(key=lambda point: (point[2], point[1]))
            contents = _contents(client, run.info.run_id, small)
            if placeless:
                contents = ((name, _without_places(name, content)) for name, content in contents)
            writer.add(record, Metrics(points=points), contents)
            exported.runs += 1
            exported.artifacts += len(small)
            if left_out:
                exported.left_out[record.origin] = left_out
    return exported


def is_place(value: object) -> bool:
    """Whether a value is an absolute path or the address of a store: true on the machine it comes from, and meant for nobody else."""
    if not isinstance(value, str):
        return False
    return PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute() or bool(_ADDRESS.match(value))


def _without_places(name: str, content: bytes) -> bytes:
    """A configuration without the keys that hold a place, for which their defaults then stand; any other artifact as it is."""
    if PurePosixPath(name).suffix not in (".yaml", ".yml"):
        return content
    whole = yaml.safe_load(content)
    kept = _pruned(whole)
    # Written anew only where something went, since that costs the comments.
    return content if kept == whole else yaml.safe_dump(kept, sort_keys=False, allow_unicode=True).encode()


def _pruned(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _pruned(item) for key, item in value.items() if not is_place(item)}
    return [_pruned(item) for item in value if not is_place(item)] if isinstance(value, list) else value


def _origin(item: Found) -> str:
    return str(item.run.data.tags.get(ORIGIN) or item.run.info.run_id)


def _datasets(item: Found) -> list[DatasetRecord]:
    inputs = item.run.inputs.dataset_inputs if item.run.inputs else []
    return [
        DatasetRecord(
            name=given.dataset.name,
            digest=given.dataset.digest,
            source_type=given.dataset.source_type,
            source=given.dataset.source,
            data_schema=given.dataset.schema,
            profile=given.dataset.profile,
            tags={tag.key: tag.value for tag in given.tags},
        )
        for given in inputs
    ]


def _artifacts(client: "MlflowClient", run_id: str, limit: int) -> tuple[list[str], dict[str, str]]:
    small: list[str] = []
    left_out: dict[str, str] = {}
    folders: list[str | None] = [None]
    while folders:
        for entry in client.list_artifacts(run_id, folders.pop()):
            if entry.is_dir:
                folders.append(entry.path)
            elif PurePosixPath(entry.path).suffix.lower() not in KINDS:
                left_out[entry.path] = "not of a kind that travels"
            elif (entry.file_size or 0) > limit:
                left_out[entry.path] = f"{entry.file_size} bytes"
            else:
                small.append(check_path(entry.path))
    return sorted(small), dict(sorted(left_out.items()))


def _contents(client: "MlflowClient", run_id: str, paths: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    with tempfile.TemporaryDirectory(prefix="resbench-export-") as folder:
        for path in paths:
            yield path, Path(client.download_artifacts(run_id, path, folder)).read_bytes()
