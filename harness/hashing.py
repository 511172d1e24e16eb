"""Hashes of a run's configuration: what it is an instance of, without its seed and without where it writes. Plain data only."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

NOT_CONFIGURATION = (
    "seed_everything",
    "output_dir",
    "resume",
    "profile",
    "tracking",
    "data.init_args.seed",
    "data.init_args.cache_dir",
    "data.init_args.num_workers",
    "trainer.enable_progress_bar",
)
"""Keys that do not change what a run is an instance of: its seed, where it writes, how it is shown."""


def config_hash(config: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that are equal exactly for resolved configurations that differ at most in `NOT_CONFIGURATION`."""
    return hashlib.sha256(json.dumps(configuration(config), sort_keys=True).encode()).hexdigest()[:16]


def configuration(config: Mapping[str, Any]) -> dict[str, Any]:
    """What `config_hash` is of: the configuration as plain data, without `NOT_CONFIGURATION`."""
    kept: dict[str, Any] = json.loads(json.dumps(config, default=str))
    without(kept, NOT_CONFIGURATION)
    return kept


def without(tree: dict[str, Any], keys: Iterable[str]) -> None:
    """Drop dotted keys from a nested configuration, in place."""
    for key in keys:
        *parents, last = key.split(".")
        node: Any = tree
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.pop(last, None)
