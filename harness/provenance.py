"""Where a run's numbers come from: the code, the configuration, the data, the machine."""

import functools
import json
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from resbench.harness import names
from resbench.harness.config import world_size
from resbench.harness.hashing import config_hash, without
from resbench.kernels import functional


def provenance_tags(config: Mapping[str, Any], device: torch.device) -> dict[str, str | None]:
    """Tags for the code, the configuration and the machine; None for what cannot be known."""
    commit, dirty = code_state()
    return {
        names.TAG_COMMIT: commit,
        names.TAG_DIRTY: None if dirty is None else str(dirty).lower(),
        names.TAG_CONFIG_HASH: config_hash(config),
        names.TAG_RESUME_HASH: resume_hash(config),
        names.TAG_HARDWARE: hardware(device),
        names.TAG_KERNELS: kernel_path(config, device),
        names.TAG_TORCH: torch.__version__,
        names.TAG_TRITON: installed("triton"),
        names.TAG_RESBENCH_VERSION: installed("resbench"),
    }


HOW_IT_RUNS = (
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "data.init_args.batch_size",
)
"""Keys a run may be gone on with otherwise, as long as a step takes the same sequences."""


def resume_hash(config: Mapping[str, Any]) -> str:
    """Like `config_hash`, and equal too for runs on another number of processes whose steps take as many sequences in as many micro-batches."""
    kept = json.loads(json.dumps(config, default=str))
    data = kept["data"].get("init_args") or {}
    sequences = int(data.get("batch_size") or 1) * world_size(kept["trainer"])
    without(kept, HOW_IT_RUNS)
    return config_hash({**kept, "sequences_per_micro_batch": sequences})


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


def kernel_path(config: Mapping[str, Any], device: torch.device) -> str:
    """What computes the connections of this configuration on this device (`resbench.kernels.functional` decides the same way call by call)."""
    if device.type != "cuda" and not functional.INTERPRETED:
        return "torch"
    scheme = config["model"]["scheme"].get("init_args") or {}
    streams = scheme.get("n_streams")
    if isinstance(streams, int) and streams not in functional.STREAMS:
        return f"torch (no kernel for {streams} streams)"
    order, start, eps = scheme.get("order"), scheme.get("start"), scheme.get("sinkhorn_eps")
    if not functional.plain(order or "columns-first", start or "exp", float(eps or 0)):
        return "triton (Sinkhorn in torch)"
    return "triton"


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
