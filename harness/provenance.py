"""Where a run's numbers come from: the code, the configuration, the data, the machine."""

import functools
import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from resbench.harness import names

NOT_CONFIGURATION = (
    "seed_everything",
    "output_dir",
    "resume",
    "tracking",
    "data.init_args.seed",
    "data.init_args.cache_dir",
    "data.init_args.num_workers",
    "trainer.enable_progress_bar",
)
"""Keys that do not change what a run is an instance of: its seed, where it writes, how it is shown."""


def provenance_tags(config: Mapping[str, Any], device: torch.device) -> dict[str, str | None]:
    """Tags for the code, the configuration and the machine; None for what cannot be known."""
    commit, dirty = code_state()
    return {
        names.TAG_COMMIT: commit,
        names.TAG_DIRTY: None if dirty is None else str(dirty).lower(),
        names.TAG_CONFIG_HASH: config_hash(config),
        names.TAG_HARDWARE: hardware(device),
        names.TAG_TORCH: torch.__version__,
        names.TAG_TRITON: installed("triton"),
        names.TAG_RESBENCH_VERSION: installed("resbench"),
    }


def config_hash(config: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that are equal exactly for resolved configurations that differ at most in `NOT_CONFIGURATION`."""
    kept = json.loads(json.dumps(config, default=str))
    for key in NOT_CONFIGURATION:
        *parents, last = key.split(".")
        node: Any = kept
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.pop(last, None)
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


@functools.cache
def code_state() -> tuple[str | None, bool | None]:
    """(commit, whether tracked files differ from it) of the checkout this code runs from; (None, None) for an installed copy.

    A copy installed inside somebody's own repository must not be labelled with their commit, so the file has to be one git tracks.
    """
    here = Path(__file__).resolve()
    if _git(here, "ls-files", "--error-unmatch", here.name) is None:
        return None, None
    commit = _git(here, "rev-parse", "HEAD")
    status = _git(here, "status", "--porcelain", "--untracked-files=no")
    return (commit, bool(status)) if commit and status is not None else (None, None)


def _git(file: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(file.parent), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def hardware(device: torch.device) -> str:
    """The GPU's name, or the CPU's model."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return cpu_model()


@functools.cache
def cpu_model() -> str:
    """The CPU's model as the operating system gives it, or its architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip().lower() in ("model name", "hardware") and value.strip():
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def installed(distribution: str) -> str | None:
    """Version of an installed distribution."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
