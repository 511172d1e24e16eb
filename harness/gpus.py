"""The GPUs of this machine as NVML sees them, which initialises nothing of CUDA: processes forked afterwards can still use them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Gpu:
    """``uuid`` is what `CUDA_VISIBLE_DEVICES` takes and means the same GPU in every process; ``capability`` is CUDA's, such as (9, 0)."""

    uuid: str
    name: str
    memory_gib: float
    capability: tuple[int, int]


def inventory() -> tuple[Gpu, ...]:
    """The GPUs this process may use, in the order of nvidia-smi or of ``CUDA_VISIBLE_DEVICES``; none without NVIDIA's driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except (ImportError, pynvml.NVMLError):
        return ()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        wanted = os.environ.get(VISIBLE)
        found = [_read(pynvml, handle) for handle in handles]
        slices = [entry for entry in (wanted or "").split(",") if entry.strip().startswith("MIG-")]
        found += [_read(pynvml, pynvml.nvmlDeviceGetHandleByUUID(entry.strip())) for entry in slices]
        return visible(found, wanted, len(handles))
    finally:
        pynvml.nvmlShutdown()


def visible(found: Sequence[Gpu], wanted: str | None, whole: int | None = None) -> tuple[Gpu, ...]:
    """What CUDA would show of ``found`` with ``CUDA_VISIBLE_DEVICES=wanted`` (None where it is not set).

    As CUDA does, entries are numbers or beginnings of UUIDs, and the first one that means no GPU ends the list. whole: how many of ``found`` are GPUs
    with a number, not slices of one.
    """
    numbered = found[:whole]
    if wanted is None:
        return tuple(numbered)
    chosen: list[Gpu] = []
    for entry in (part.strip() for part in wanted.split(",")):
        if entry.isdigit() and int(entry) < len(numbered):
            gpu = numbered[int(entry)]
        else:
            matching = [one for one in found if entry and not entry.isdigit() and one.uuid.startswith(entry)]
            if len(matching) != 1:
                break
            gpu = matching[0]
        if gpu in chosen:  # CUDA shows nothing at all then
            return ()
        chosen.append(gpu)
    return tuple(chosen)


def _read(nvml: Any, handle: Any) -> Gpu:
    whole = handle
    if getattr(nvml, "nvmlDeviceIsMigDeviceHandle", None) and nvml.nvmlDeviceIsMigDeviceHandle(handle):
        whole = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)  # a slice has its GPU's capability
    return Gpu(
        uuid=nvml.nvmlDeviceGetUUID(handle),
        name=nvml.nvmlDeviceGetName(whole),
        memory_gib=nvml.nvmlDeviceGetMemoryInfo(handle).total / 2**30,
        capability=tuple(nvml.nvmlDeviceGetCudaComputeCapability(whole)),
    )
