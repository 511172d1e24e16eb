"""Peaks by device name, and the memory high-water mark."""

import torch

from resbench.harness.hardware import peak_flops, peak_memory_gib, peak_of, reset_peak_memory


def test_the_most_specific_entry_wins() -> None:
    assert peak_of("NVIDIA H100 80GB HBM3") == 989.5e12
    assert peak_of("NVIDIA H100 PCIe") == 756.5e12
    assert peak_of("NVIDIA H200") == 989.5e12
    assert peak_of("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_of("NVIDIA L40S") == 362e12
    assert peak_of("Some Other Chip") is None


def test_no_peak_for_a_cpu() -> None:
    assert peak_flops(torch.device("cpu"), "bf16-mixed") is None


def test_peak_memory_starts_again_after_a_reset() -> None:
    device = torch.device("cpu")
    reset_peak_memory(device)
    before = peak_memory_gib(device)
    ballast = torch.ones(64 * 2**20 // 4)
    with_ballast = peak_memory_gib(device)
    assert with_ballast >= before + 0.05
    del ballast
    reset_peak_memory(device)
    assert peak_memory_gib(device) <= with_ballast
