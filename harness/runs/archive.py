"""The file that carries runs between stores: a zip archive of JSON and of small artifacts, every member listed with its size and SHA-256.

::

    manifest.json                          # format, schema version, and for each other member its size and hash
    runs/<origin>/run.json                 # experiment, status, times, parameters, tags, datasets, artifacts left out
    runs/<origin>/metrics.json             # {name: [[value, time in ms, step], ...]}
    runs/<origin>/artifacts/<path>         # text, tables and pictures

``origin`` is the id of the run in the store it was made in, and stays with it through any number of stores. Nothing in the file is ever executed
or unpickled: JSON is parsed and checked, artifacts are copied byte by byte, and only those of the kinds in `KINDS`.
"""

import hashlib
import json
import math
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

FORMAT: Final = "resbench-runs"
SCHEMA: Final = 1
MANIFEST = "manifest.json"
KINDS = frozenset(
    {".csv", ".jpeg", ".jpg", ".json", ".jsonl", ".log", ".md", ".parquet", ".png", ".svg", ".tsv", ".txt", ".yaml"}
    | {".yml"}
)
"""Artifacts that are data to look at. Checkpoints, pickles, scripts and archives do not travel."""
MEMBER_LIMIT = 1 << 30
"""Bytes of the largest member; what claims to be larger is refused before it is unpacked."""
_ID = re.compile(r"[0-9a-zA-Z_-]{1,64}")


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


R = TypeVar("R", bound=_Record)


class Member(_Record):
    size: int = Field(ge=0, le=MEMBER_LIMIT)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(_Record):
    format: Literal["resbench-runs"]
    schema_version: Literal[1]
    resbench: str
    runs: list[str]
    members: dict[str, Member]


class DatasetRecord(_Record):
    name: str
    digest: str
    source_type: str
    source: str
    data_schema: str | None
    profile: str | None
    tags: dict[str, str]


class RunRecord(_Record):
    """What MLflow knows of a run, less its metrics and artifacts. Times are in milliseconds since 1970."""

    origin: str
    experiment: str
    status: Literal["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"]
    start_time: int | None
    end_time: int | None
    params: dict[str, str]
    tags: dict[str, str]
    datasets: list[DatasetRecord]
    left_out: dict[str, str]
    """Artifact -> why it is not in the file."""


def _number(value: Any) -> Any:
    return float(value) if value in ("nan", "inf", "-inf") else value


def _json_number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


Number = Annotated[float, BeforeValidator(_number), PlainSerializer(_json_number)]


class Metrics(_Record):
    points: dict[str, list[tuple[Number, int, int]]]
    """Name -> (value, time in ms, step). Values JSON has no number for are the strings nan, inf and -inf."""


def check_path(name: str) -> str:
    """A member's or artifact's path, if it is relative, normal and stays inside. Raises ValueError."""
    path = PurePosixPath(name)
    ordinary = all(part not in ("", ".", "..") for part in name.split("/"))
    printable = name.isprintable() and not set(name) & set('\\:*?"<>|')
    if not name or path.is_absolute() or not ordinary or not printable or len(name) > 500:
        raise ValueError(f"{name!r} is not a plain relative path")
    return name


class Writer:
    """Write a run file; it appears under its name only once it is whole."""

    def __init__(self, path: Path, resbench: str) -> None:
        self._path, self._resbench = path, resbench
        self._partial = path.with_name(path.name + ".partial")
        self._members: dict[str, Member] = {}
        self._runs: list[str] = []

    def __enter__(self) -> "Writer":
        self._zip = zipfile.ZipFile(self._partial, "w", zipfile.ZIP_DEFLATED)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            manifest = Manifest(
                format=FORMAT,
                schema_version=SCHEMA,
                resbench=self._resbench,
                runs=self._runs,
                members=self._members,
            )
            self._write(MANIFEST, manifest.model_dump_json(indent=1).encode())
        self._zip.close()
        if kind is None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink(missing_ok=True)

    def add(self, record: RunRecord, metrics: Metrics, artifacts: Iterator[tuple[str, bytes]]) -> None:
        folder = f"runs/{record.origin}"
        self._runs.append(record.origin)
        for path, content in artifacts:
            self._member(f"{folder}/artifacts/{check_path(path)}", content)
        self._member(f"{folder}/metrics.json", metrics.model_dump_json().encode())
        self._member(f"{folder}/run.json", record.model_dump_json(indent=1).encode())

    def _member(self, name: str, content: bytes) -> None:
        self._members[name] = Member(size=len(content), sha256=hashlib.sha256(content).hexdigest())
        self._write(name, content)

    def _write(self, name: str, content: bytes) -> None:
        # A fixed date, so that the same runs make the same file.
        self._zip.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)


class Archive:
    """A run file that was checked from end to end when this returns.

    Raises ValueError naming the file and what is wrong: not a run file, another schema version, a member that is missing, unlisted, altered, of
    a kind that does not travel, or whose path would leave its place. Raises FileNotFoundError if there is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, UnicodeError, NotImplementedError) as error:
            raise ValueError(f"{path} is not a file that `resbench runs export` wrote: {error}") from error
        try:
            self._manifest = self._read_manifest()
            self._check_members()
            self.records = {origin: self._parse(RunRecord, f"runs/{origin}/run.json") for origin in self._manifest.runs}
            for origin, record in self.records.items():
                if record.origin != origin:
                    raise self._bad(f"runs/{origin}/run.json says it is run {record.origin!r}")
                self.metrics(origin)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, UnicodeError) as error:
            raise self._bad(str(error)) from error

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def metrics(self, origin: str) -> Metrics:
        return self._parse(Metrics, f"runs/{origin}/metrics.json")

    def artifacts(self, origin: str) -> Iterator[tuple[str, bytes]]:
        """Path and content of each of a run's artifacts."""
        folder = f"runs/{origin}/artifacts/"
        for name in self._manifest.members:
            if name.startswith(folder):
                yield name.removeprefix(folder), self._read(name)

    def content_hash(self, origin: str) -> str:
        """SHA-256 over a run's members, the same wherever and whenever the same run is exported."""
        folder = f"runs/{origin}/"
        parts = {name: member.sha256 for name, member in self._manifest.members.items() if name.startswith(folder)}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _read_manifest(self) -> Manifest:
        if MANIFEST not in self._zip.namelist():
            raise ValueError(f"{self.path} is not a file that `resbench runs export` wrote: it has no {MANIFEST}")
        if self._zip.getinfo(MANIFEST).file_size > MEMBER_LIMIT:
            raise self._bad(f"{MANIFEST} is too large")
        content = self._zip.read(MANIFEST)
        try:
            found = json.loads(content)
        except ValueError as error:
            raise self._bad(f"{MANIFEST}: {error}") from error
        version = found.get("schema_version") if isinstance(found, dict) else None
        if isinstance(version, int) and version > SCHEMA:
            raise ValueError(
                f"{self.path} has schema version {version}, this resbench reads up to {SCHEMA}: update resbench"
            )
        return self._validated(Manifest, content, MANIFEST)

    def _check_members(self) -> None:
        entries = self._zip.infolist()
        names = [entry.filename for entry in entries if entry.filename != MANIFEST]
        listed = self._manifest.members
        if len(entries) != len({entry.filename for entry in entries}):
            raise self._bad("a member is there twice")
        if different := sorted(set(names) ^ listed.keys()):
            raise self._bad(f"{different[0]!r} is {'not listed' if different[0] in names else 'missing'}")
        if unfit := [origin for origin in self._manifest.runs if not _ID.fullmatch(origin)]:
            raise self._bad(f"{unfit[0]!r} is not a run id")
        for entry in entries:
            name = entry.filename
            try:
                check_path(name)
            except ValueError as error:
                raise self._bad(str(error)) from None
            if stat.S_ISLNK(entry.external_attr >> 16):
                raise self._bad(f"{name!r} is a link")
            if name == MANIFEST:
                continue
            self._check_place(name)
            if entry.file_size != listed[name].size:
                raise self._bad(f"{name!r} has {entry.file_size} bytes, {listed[name].size} are listed")
            if hashlib.sha256(self._read(name)).hexdigest() != listed[name].sha256:
                raise self._bad(f"{name!r} was altered: its SHA-256 is not the listed one")

    def _check_place(self, name: str) -> None:
        parts = name.split("/")
        known = len(parts) >= 3 and parts[0] == "runs" and parts[1] in self._manifest.runs
        if known and len(parts) == 3 and parts[2] in ("run.json", "metrics.json"):
            return
        if not known or len(parts) < 4 or parts[2] != "artifacts":
            raise self._bad(f"{name!r} belongs to no listed run")
        if PurePosixPath(name).suffix.lower() not in KINDS:
            raise self._bad(f"{name!r} is of a kind that does not travel (allowed: {', '.join(sorted(KINDS))})")

    def _read(self, name: str) -> bytes:
        return self._zip.read(name)

    def _parse(self, kind: type[R], name: str) -> R:
        if name not in self._manifest.members:
            raise self._bad(f"{name!r} is missing")
        return self._validated(kind, self._read(name), name)

    def _validated(self, kind: type[R], content: bytes, name: str) -> R:
        try:
            return kind.model_validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise self._bad(f"{name}: {place}: {first['msg']}") from error

    def _bad(self, what: str) -> ValueError:
        return ValueError(
            f"{self.path} is damaged or was tampered with: {what}. Nothing was read from it; export again"
        )
