"""What the hardware could do, to judge what was achieved: peak arithmetic of known GPUs, peak memory of this process."""

import resource
import sys
from pathlib import Path

import torch

from resbench.harness import names

PEAK_BF16_TFLOPS: dict[str, float] = {
    "GB200": 2500.0,
    "B200": 2250.0,
    "B100": 1750.0,
    "H200": 989.5,
    "GH200": 989.5,
    "H100 PCIe": 756.5,
    "H100 NVL": 835.5,
    "H100": 989.5,
    "H800": 989.5,
    "H20": 148.0,
    "A100": 312.0,
    "A800": 312.0,
    "A40": 149.7,
    "A30": 165.0,
    "A10G": 70.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "RTX 5090": 209.5,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
    "RTX 6000 Ada": 364.2,
    "RTX A6000": 154.8,
}
"""Dense bf16 tensor-core peak with float32 accumulation in TFLOP/s, from the makers' data sheets (half of a figure quoted "with sparsity")."""

KIB_PER_GIB = 2**20

_ALLOCATION_FAILED = ("can't allocate memory", "not enough memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")
"""How torch's CPU allocator, CUDA and its libraries say it in a plain RuntimeError."""


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Peak FLOP/s of the device in 16-bit matrix products; None for other precisions, CPUs and GPUs not in the table."""
    if device.type != "cuda" or precision not in ("bf16-mixed", "bf16-true", "bf16", "16-mixed", "16-true", "16", 16):
        return None
    name = torch.cuda.get_device_name(device)
    return peak_of(name)


def peak_of(device_name: str) -> float | None:
    """FLOP/s for a device name such as ``NVIDIA H100 80GB HBM3``; the longest table entry whose words all occur in it."""
    words = device_name.replace("-", " ").split()
    matching = [name for name in PEAK_BF16_TFLOPS if all(word in words for word in name.split())]
    return PEAK_BF16_TFLOPS[max(matching, key=len)] * 1e12 if matching else None


def reset_peak_memory(device: torch.device) -> None:
    """Start a new high-water mark, so that runs in one process do not inherit each other's."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or not allowed: the mark is then the process's
        return


def memory_metrics(device: torch.device, activation_bytes: int | None = None) -> dict[str, float]:
    """Metrics of memory since the last reset: peak, what the allocator reserved for it (GPUs only), and activations where they are known."""
    found = {names.PEAK_GIB: peak_memory_gib(device)}
    if activation_bytes is not None:
        found[names.ACTIVATIONS_GIB] = activation_bytes / 2**30
    if device.type == "cuda":
        found[names.RESERVED_GIB] = torch.cuda.max_memory_reserved(device) / 2**30
    return found


def peak_memory_gib(device: torch.device) -> float:
    """GiB allocated on the GPU at most, or on a CPU the process's largest resident set, since the last reset."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / KIB_PER_GIB
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / KIB_PER_GIB


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory, of the GPU or of the machine, is exhausted."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and any(words in said for words in _ALLOCATION_FAILED)
