"""The memory estimate agrees with what a real forward pass keeps, and asks nothing of CUDA."""

from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import pytest
import torch
from harness_support import Argv

from resbench.harness import config, memory
from resbench.harness.breakdown import ActivationMemory
from resbench.harness.config import parse
from resbench.harness.gpus import Gpu
from resbench.harness.memory import MemoryEstimate, estimate_memory
from resbench.results.runs import load_runs
from resbench.sweeps.packing import estimator
from resbench.sweeps.plan import make_plan
from resbench.sweeps.spec import load_spec

STUDY = Path(__file__).parents[2] / "results" / "published" / "h200-2026"
COUNTS = dict.fromkeys(("params_total", "params_connection", "flops_per_token", "steps", "tokens"), 1)
"""In place of building every network of a plan."""


@pytest.fixture(scope="module")
def peaks() -> "pd.Series[float]":
    """GiB by study and cell, median over the published runs."""
    return load_runs(sorted(STUDY.glob("state/runs-*.zip"))).groupby(["study", "cell"])["peak_gib"].median()


@pytest.mark.parametrize("scheme", ["resnet", "hc", "mhc"])
def test_activations_are_those_of_a_real_forward_pass(argv: Argv, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "as_on_a_gpu", nullcontext)  # the real one here is on a CPU
    arguments = argv(f"--model.scheme={scheme}", "--model.backbone.depth=3")
    found = estimate_memory([*arguments, "--trainer.precision=bf16-mixed"])
    cli = parse(arguments)
    network = cli.model.build(cli.datamodule.vocab_size, cli.datamodule.context_length)
    measured = ActivationMemory(torch.device("cpu"), network)
    batch = {name: torch.zeros(4, 32, dtype=torch.int64) for name in ("tokens", "targets")}
    measured.start()
    with torch.autocast("cpu", torch.bfloat16):
        cli.model.loss(batch)
    measured.end()
    assert found.activations * 2**30 == pytest.approx(measured.read(), rel=0.02)
    parameters = sum(p.numel() for p in network.parameters())
    assert found.weights * 2**30 == 4 * parameters
    # Weights, gradients and AdamW's two moments in float32: 16 bytes each.
    assert (found.total - found.activations - memory.CONTEXT_GIB) * 2**30 == pytest.approx(16 * parameters)


def test_recomputing_takes_less_and_sharding_too(argv: Argv) -> None:
    base = argv("--model.scheme=mhc", "--model.backbone.depth=4")
    whole = estimate_memory(base)
    half, quarter = (estimate_memory([*base, f"--model.backbone.recompute={length}"]) for length in (4, 2))
    # A block of r of L sublayers keeps at most r / L of everything, beside what is kept throughout.
    assert whole.activations > half.activations > quarter.activations > whole.activations / 4
    sharded = estimate_memory([*base, "--trainer.devices=2", "--trainer.strategy=fsdp2"])
    assert sharded.weights == whole.weights / 2
    assert sharded.activations == pytest.approx(whole.activations)


def test_planning_on_a_machine_with_gpus_initialises_no_cuda(argv: Argv, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that did could not fork one that trains."""

    def initialised() -> None:
        raise AssertionError("CUDA was initialised")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "_lazy_init", initialised)
    for capability, precision in (((9, 0), "bf16-mixed"), ((7, 0), "32-true")):
        monkeypatch.setattr(config, "inventory", lambda c=capability: (Gpu("GPU-a", "a", 80.0, c),))
        assert parse([*argv(), "--trainer.accelerator=auto"]).config.trainer.precision == precision
    estimate_memory([*argv(), "--trainer.accelerator=auto", "--trainer.devices=1"])


@pytest.mark.parametrize(
    ("sweep", "cells"),
    [
        ("depth", ["depth=8,scheme=resnet,lr=0.003", "depth=8,scheme=mhc,lr=0.003", "depth=8,scheme=hc,lr=0.003"]),
        ("ladder", ["size=3m,tokens_per_parameter=20,scheme=resnet", "size=3m,tokens_per_parameter=20,scheme=mhc"]),
    ],
)
def test_estimates_are_near_what_runs_on_a_gpu_took(sweep: str, cells: list[str], peaks: "pd.Series[float]") -> None:
    """The published runs: those of the first sweep not compiled, those of the second with the temporaries that torch.compile saves."""
    plan = make_plan(load_spec(STUDY / f"{sweep}.yaml"), lambda argv: COUNTS)
    needs = estimator(estimate_memory)
    ratios = {}
    for cell in plan.cells:
        if cell.cell.id in cells:
            found = needs(cell)
            assert isinstance(found, MemoryEstimate), found
            ratios[cell.cell.id] = (found.total - memory.CONTEXT_GIB) / peaks[f"h200-{sweep}", cell.cell.id]
    assert set(ratios) == set(cells)
    assert all(0.85 < ratio < 1.2 for ratio in ratios.values()), ratios


def test_a_large_network_is_estimated_on_many_threads(argv: Argv) -> None:
    """Its weights are drawn by threads, which tensors without data do not bear."""
    threads = torch.get_num_threads()
    torch.set_num_threads(8)
    try:
        found = estimate_memory(argv("--model.backbone.depth=24"))
    finally:
        torch.set_num_threads(threads)
    assert found.activations > 0
