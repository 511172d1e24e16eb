"""Configurations in a submission: bounded plain data, each under the hash that it has. Whether one may be run is asked in `rerunnable`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import yaml

from resbench.harness.hashing import config_hash, configuration
from resbench.harness.names import CONFIG_ARTIFACT
from resbench.results.source import RunSource

MOST_CONFIGS = 2000
MOST_VALUES = 300
"""Values in one configuration; a real one has about 60."""
DEEPEST = 8
LONGEST = 300
"""Characters of a text in a configuration."""
LARGEST = 1e16

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,60}")


def load_configs(source: RunSource, runs: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """The configuration behind every `config_hash` of these runs, from the first run of each that kept it unchanged; without seeds and places.

    A run whose artifact is missing, or no longer the configuration that its hash is of, gives none.
    """
    found: dict[str, dict[str, Any]] = {}
    for run in runs.to_dict(orient="records"):
        digest = run["config_hash"]
        if pd.isna(digest) or digest in found:
            continue
        content = source.artifact(str(run["run_id"]), CONFIG_ARTIFACT)
        try:
            config = yaml.safe_load(content) if content is not None else None
        except yaml.YAMLError:
            continue
        if isinstance(config, dict) and config_hash(config) == digest:
            found[str(digest)] = configuration(config)
    return found


def unsound(configs: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What is wrong with configurations as data, a sentence each; nothing if each is small, plain and the one that its hash says."""
    if len(configs) > MOST_CONFIGS:
        yield f"configs: {len(configs)}; at most {MOST_CONFIGS}"
        return
    for digest, config in configs.items():
        where = f"configs[{digest[:16]}]"
        for count, (path, value) in enumerate(_walk(config, where, 0)):
            if problem := f"more than {MOST_VALUES} values" if count >= MOST_VALUES else _problem(value):
                yield f"{path[:120]}: {problem}"
                break
        else:
            if config_hash(config) != digest:
                yield f"{where}: this configuration has the hash {config_hash(config)}: it is not the one that the runs name"


def _walk(value: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Every key and every value that is neither a mapping nor a list, with its place; what is too deep comes as an exception to be shown."""
    if depth > DEEPEST:
        yield path, ValueError(f"nested deeper than {DEEPEST}")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not (isinstance(key, str) and _KEY.fullmatch(key)):
                yield path, ValueError(f"the key {str(key)[:60]!r} is no name of an option")
            yield from _walk(item, f"{path}.{str(key)[:60]}", depth + 1)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for position, item in enumerate(value):
            yield from _walk(item, f"{path}[{position}]", depth + 1)
    else:
        yield path, value


def _problem(value: Any) -> str:
    if isinstance(value, ValueError):
        return str(value)
    if isinstance(value, str) and (len(value) > LONGEST or not value.isprintable()):
        return f"a text of {len(value)} characters; at most {LONGEST}, all printable"
    if isinstance(value, bool | str | None):
        return ""
    if isinstance(value, int | float) and math.isfinite(value) and abs(value) <= LARGEST:
        return ""
    return f"{repr(value)[:60]} is no value of an option"
