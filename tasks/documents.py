"""Reading documents out of `datasets` sources: local files one by one, or a dataset of the hub, in a fixed order.

`datasets` is imported only when something is read: a run on cached tokens needs neither it nor a network.
"""

import glob
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

Format = Literal["text", "json", "parquet"]
SUFFIXES: dict[str, Format] = {
    ".txt": "text", ".md": "text", ".json": "json", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet",
}  # fmt: skip

HUB_TIMEOUT_S = 10.0
VALIDATION_NAMES = ("validation", "valid", "val", "dev")

log = logging.getLogger(__name__)


def local_files(key: str, patterns: str | list[str]) -> list[Path]:
    """The files that paths and glob patterns stand for, each pattern's in alphabetical order.

    Raises:
        FileNotFoundError: a pattern matches no file.
        IsADirectoryError: a path is a directory.
    """
    files: list[Path] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        found = [Path(name) for name in sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True))]
        if found and not any(file.is_file() for file in found):
            raise IsADirectoryError(
                f"data.init_args.{key}: {pattern} is a directory; name its files, as in {pattern}/*"
            )
        if not found:
            raise FileNotFoundError(f"data.init_args.{key}: no such file: {pattern} (looked from {Path.cwd()})")
        files += [file.resolve() for file in found if file.is_file()]
    return list(dict.fromkeys(files))


def format_of(files: list[Path]) -> Format:
    """The format that all the files' names say.

    Raises:
        ValueError: a name says none, or they differ.
    """
    formats = {SUFFIXES.get(file.suffix.lower()) for file in files}
    if len(formats) == 1 and (only := formats.pop()) is not None:
        return only
    raise ValueError(
        f"data.init_args.format: cannot be told from the names of {', '.join(file.name for file in files[:5])}; "
        "set it to text, json or parquet"
    )


def read_files(files: list[Path], format: Format, column: str, sample_by: str) -> Iterator[bytes]:
    """The documents of local files.

    Raises:
        ValueError: a file cannot be read as `format`, is not UTF-8, or has no text in `column`.
    """
    column = "text" if format == "text" else column  # `datasets` calls the one column of text files so
    for row, where in read_rows(files, format, sample_by):
        try:
            yield from _texts([row], column, where)
        except _BadColumn as error:
            raise ValueError(str(error)) from None


def read_rows(files: list[Path], format: Format, sample_by: str = "document") -> Iterator[tuple[dict[str, Any], str]]:
    """The rows of local files, and which file each is from.

    Raises:
        ValueError: a file cannot be read as `format`.
    """
    from datasets import IterableDataset

    # Not load_dataset, which for local files too asks a server on the internet to count the use.
    options = {"sample_by": sample_by} if format == "text" else {}
    read = {
        "text": IterableDataset.from_text,
        "json": IterableDataset.from_json,
        "parquet": IterableDataset.from_parquet,
    }
    for file in files:
        if file.stat().st_size == 0:
            continue
        try:
            rows = read[format](glob.escape(str(file)), **options)
            for row in rows:
                yield row, str(file)
        except Exception as error:  # pyarrow, json, codecs and `datasets` each have their own
            raise ValueError(
                f"data.init_args.data_files: cannot read {file} as {format}: {_first_line(error)}. Is it whole, and of that format?"
            ) from error


def open_dataset(
    path: str,
    config_name: str | None,
    revision: str | None,
    data_files: str | list[str] | None,
    streaming: bool,
) -> Mapping[str, Iterable[Mapping[str, Any]]]:
    """The splits of a dataset on the hub, or in a local directory.

    Raises:
        ValueError: there is no such dataset, configuration or file in it.
        ConnectionError: the hub cannot be reached, or offline mode is on and the dataset is not in the local cache.
    """
    from datasets import config, load_dataset

    offline = bool(config.HF_HUB_OFFLINE)
    if Path(path).is_dir():
        path = str(Path(path).resolve())
    elif offline:
        streaming = False  # the cache holds prepared datasets, which cannot be streamed
    else:
        _ask_hub(path, revision)
    try:
        return load_dataset(path, config_name, revision=revision, data_files=data_files, streaming=streaming)
    except (ConnectionError, FileNotFoundError) as error:
        if not offline:
            raise type(error)(f"data.init_args.path={path}: {_first_line(error)}") from error
        raise ConnectionError(
            f"data.init_args.path={path}: offline mode is on (HF_HUB_OFFLINE or HF_DATASETS_OFFLINE) and the dataset is not in "
            f"the local cache of `datasets`. Load it once with streaming: false while online, unset the variable, or use local "
            "files with data.init_args.data_files."
        ) from error
    except Exception as error:
        raise ValueError(
            f"data.init_args.path={path} (config_name={config_name}, revision={revision}): {error}"
        ) from error


def read_split(rows: Iterable[Mapping[str, Any]], column: str, where: str) -> Iterator[bytes]:
    """The documents of one split of a dataset.

    Raises:
        ValueError: there is no text in `column`.
        ConnectionError: reading failed.
    """
    try:
        yield from _texts(rows, column, where)
    except _BadColumn as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # network, decompression, schema: all libraries' own
        raise ConnectionError(f"reading {where} failed: {_first_line(error)}") from error


class SharedRows:
    """One part of the rows of a source, read in groups and resumable: what `resbench.tasks.stream` reads."""

    def __init__(self, rows: Any, column: str, where: str) -> None:
        self._rows, self._column, self._where = rows, column, where

    def iter(self, batch_size: int) -> Iterator[list[bytes]]:
        """The documents of ``batch_size`` rows at a time. Raises ValueError for a file that cannot be read or has no such column."""
        groups = iter(self._rows.iter(batch_size=batch_size))
        while True:
            try:
                group = next(groups, None)
            except Exception as error:  # pyarrow, json, network, decompression: all libraries' own
                raise ValueError(f"data.init_args: reading {self._where} failed: {_first_line(error)}") from error
            if group is None:
                return
            try:
                keys, columns = list(group), list(group.values())
                rows = (dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True))
                yield list(_texts(rows, self._column, self._where))
            except _BadColumn as error:
                raise ValueError(str(error)) from None

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = self._rows.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rows.load_state_dict(state)


def open_part(
    files: list[Path],
    format: Format,
    sample_by: str,
    hub: tuple[str, str | None, str | None, str | list[str] | None, str] | None,
    column: str,
    index: int,
    count: int,
) -> SharedRows:
    """Part ``index`` of ``count`` of the rows of local files, or of ``hub`` (path, config_name, revision, data_files, split).

    Whole files go to a part where there are at least as many as parts; otherwise a part is every count-th row, and each reads all files.
    Raises as `open_dataset`.
    """
    from datasets import IterableDataset
    from datasets.distributed import split_dataset_by_node

    rows: Any
    if hub is None:
        options = {"sample_by": sample_by} if format == "text" else {}
        read = {
            "text": IterableDataset.from_text,
            "json": IterableDataset.from_json,
            "parquet": IterableDataset.from_parquet,
        }
        whole = [glob.escape(str(file)) for file in files if file.stat().st_size > 0]
        rows, where = read[format](whole, **options), ", ".join(str(file) for file in files[:3])
        column = "text" if format == "text" else column
    else:
        path, config_name, revision, data_files, split = hub
        rows, where = open_dataset(path, config_name, revision, data_files, streaming=True)[split], f"{path} ({split})"
        if not isinstance(rows, IterableDataset):  # offline: the cache holds prepared datasets
            rows = rows.to_iterable_dataset(num_shards=min(count, len(rows)))
    if rows.column_names is not None and column in rows.column_names:
        rows = rows.select_columns([column])
    if rows.num_shards >= count:
        return SharedRows(rows.shard(num_shards=count, index=index), column, where)
    return SharedRows(split_dataset_by_node(rows, rank=index, world_size=count), column, where)


def validation_name(names: Iterable[str], train: str) -> str | None:
    """Which of a dataset's splits is its validation split, going by the name; None if none is."""
    return next((name for name in VALIDATION_NAMES if name in names and name != train), None)


class _BadColumn(Exception):
    """A row without text where text was expected; told apart from what the readers raise."""


def _texts(rows: Iterable[Mapping[str, Any]], column: str, where: str) -> Iterator[bytes]:
    for row in rows:
        if column not in row:
            columns = ", ".join(map(str, row)) or "none"
            raise _BadColumn(f"data.init_args.column={column!r}: no such column in {where}; its columns: {columns}")
        text = row[column]
        if text is None:
            continue
        if not isinstance(text, str):
            texts = ", ".join(str(name) for name, value in row.items() if isinstance(value, str)) or "none"
            raise _BadColumn(
                f"data.init_args.column={column!r}: {where} has {type(text).__name__} there, not text; its text columns: {texts}"
            )
        yield text.encode("utf-8", errors="replace")  # a lone surrogate has no UTF-8


def _ask_hub(path: str, revision: str | None) -> None:
    """Fail within seconds, and say why, where `datasets` would retry for half a minute first."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().dataset_info(path, revision=revision, timeout=HUB_TIMEOUT_S)
    except HfHubHTTPError as error:
        if error.response.status_code not in (401, 403, 404):
            raise _unreachable(path, error) from error
        raise ValueError(
            f"data.init_args.path={path}: the hub has no such dataset (revision {revision or 'main'}), or it is private: "
            f"check the name, or log in with `hf auth login`. The hub said: {_first_line(error)}"
        ) from error
    except ValueError as error:  # not the form of a dataset's name
        raise ValueError(
            f"data.init_args.path={path}: no such directory, nor a name on the hub: {_first_line(error)}"
        ) from error
    except Exception as error:  # the HTTP client's own, which changes from version to version
        raise _unreachable(path, error) from error


def _unreachable(path: str, error: Exception) -> ConnectionError:
    return ConnectionError(
        f"data.init_args.path={path}: the Hugging Face hub cannot be reached ({_first_line(error)}). Check the network and "
        "HF_ENDPOINT; or set HF_HUB_OFFLINE=1 to use what `datasets` has in its local cache; or use local files with "
        "data.init_args.data_files; or data.class_path python-source, which needs no network."
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
