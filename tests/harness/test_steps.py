"""What a training step does and does not do: no wait for the device but at readings, every millisecond in one part, clipping in the optimizer."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from harness_support import Watch, history
from torch import nn
from torch._functorch._aot_autograd.autograd_cache import check_cacheable
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from resbench.architectures.registry import available
from resbench.harness import names
from resbench.harness.breakdown import ActivationMemory, StepBreakdown
from resbench.harness.compilation import share_caches
from resbench.harness.config import parse
from resbench.harness.fit import fit
from resbench.harness.module import clip

Argv = Callable[..., list[str]]


def test_no_step_waits_for_the_device_but_at_readings(argv: Argv) -> None:
    steps = 12
    watched = argv(
        "--trainer.callbacks=harness_support.Watch", f"--budget.tokens={steps * 128}", "--trainer.log_every_n_steps=4"
    )
    assert fit([*watched, "--every.validation=100000", "--every.checkpoint=0"]).outcome == "complete"
    reading = [step % 4 == 0 for step in range(1, steps + 1)]
    assert len(Watch.fetched) == steps
    for step, (count, reads) in enumerate(zip(Watch.fetched, reading, strict=True), 1):
        assert reads or count == 0, f"step {step} fetched {count} values"
    assert sum(Watch.fetched) > 0  # the watch sees the readings


@pytest.mark.gpu
def test_no_step_synchronises_on_a_gpu(argv: Argv) -> None:
    arguments = argv(
        "--trainer.accelerator=gpu",
        "--trainer.log_every_n_steps=40",
        "--trainer.callbacks=harness_support.ForbidsWaiting",
    )
    try:
        assert fit([*arguments, "--every.validation=5120", "--every.checkpoint=0"]).outcome == "complete"
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_parts_of_a_step_on_a_cpu() -> None:
    breakdown = StepBreakdown(torch.device("cpu"))
    for wait in (0.03, 0.0):
        breakdown.ready()
        time.sleep(wait)
        breakdown.start()
        time.sleep(0.01)
        breakdown.reached()
        time.sleep(0.02)
        breakdown.reached()
        breakdown.reached()
    found = breakdown.read(2)
    assert list(found) == ["data", "forward", "backward", "optimizer"]
    assert found["data"] >= 15 > found["optimizer"]
    assert found["forward"] >= 10
    assert found["backward"] >= 20
    assert breakdown.read(2) == {}  # read once


def test_a_wait_that_was_interrupted_is_no_wait_for_data() -> None:
    breakdown = StepBreakdown(torch.device("cpu"))
    breakdown.ready()
    time.sleep(0.02)  # a validation, say
    breakdown.interrupted()
    breakdown.start()
    for _ in range(3):
        breakdown.reached()
    assert "data" not in breakdown.read(1)


def test_activations_are_what_autograd_saves() -> None:
    network = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    memory = ActivationMemory(torch.device("cpu"), network)
    memory.start()
    network(torch.randn(32, 8, requires_grad=True)).sum()
    memory.end()
    # The input [32, 8] for the first weight's gradient, and tanh's result [32, 16], which the second product shares.
    assert memory.read() == 4 * (32 * 8 + 32 * 16)
    memory.start()
    memory.end()
    assert memory.read() == 4 * (32 * 8 + 32 * 16)  # counted in the first pass only


@pytest.mark.parametrize("limit", [0.5, 1e6])
def test_the_fused_optimizer_clips_as_torch_does(argv: Argv, limit: float) -> None:
    """One step of each from the same weights and gradients."""
    weights = []
    for fused in (True, False):
        network = parse(argv()).model.build(257, 32)
        for at, parameter in enumerate(network.parameters()):
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(at))
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, fused=fused)
        norm = nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])
        clip(optimizer, list(network.parameters()), norm / limit)
        optimizer.step()
        assert hasattr(optimizer, "grad_scale") == fused
        weights.append(torch.cat([p.detach().flatten() for p in network.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-5, atol=1e-6)


def test_clipping_can_be_switched_off(argv: Argv, output_dir: Path) -> None:
    losses = []
    for limit in ("null", "1e-9"):
        result = fit(argv(f"--trainer.gradient_clip_val={limit}", "--budget.tokens=1280", "--model.eps=1.0"))
        losses.append(history(output_dir, result.run_id, names.TRAIN_LOSS)[-1][1])
    assert losses[0] < losses[1] - 0.01  # with eps = 1, AdamW takes no steps on gradients that were clipped to nothing


def test_a_scheme_that_breaks_the_graph_is_told_so(argv: Argv) -> None:
    with pytest.raises(ValueError, match=r"model.compile: the network is not one graph.*--model.compile=false"):
        fit(argv("--model.scheme=harness_support.Breaking", "--model.compile=true", "--budget.tokens=256"))


@pytest.mark.parametrize("scheme", sorted(available("scheme")))
def test_every_scheme_trains_as_one_graph(argv: Argv, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward, loss and all, and one that a later process finds as it was traced; without the compiler behind it, which takes a minute for each."""
    graphs: list[torch.fx.GraphModule] = []

    def collect(graph: torch.fx.GraphModule, example_inputs: list[torch.Tensor]) -> Callable[..., object]:
        check_cacheable(graph)  # raises for what it is not
        graphs.append(graph)
        return graph.forward

    compile_ = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda network, **how: compile_(network, backend=collect, fullgraph=how["fullgraph"])
    )
    torch._dynamo.reset()
    module = parse(argv(f"--model.scheme={scheme}", "--model.compile=true", "--model.loss=chunked")).model
    module.build(257, 32)
    module.compile_for(torch.device("cpu"))
    tokens = torch.randint(0, 257, (2, 32))
    batch = {"tokens": tokens, "targets": tokens.roll(-1, 1)}
    for _ in range(2):
        loss = module.loss(batch)
        loss.backward()
    assert len(graphs) == 1
    assert loss.item() == pytest.approx(module.evaluate(batch).item(), rel=1e-5)


@pytest.mark.parametrize("chosen", [None, "torch's", "/my/cache"])
def test_compilers_caches_are_shared_unless_the_user_has_one(
    chosen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESBENCH_CACHE", "/shared")
    monkeypatch.setenv("TRITON_CACHE_DIR", "/triton")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    if chosen is not None:  # torch writes its own default there when it is first used
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", default_cache_dir() if chosen == "torch's" else chosen)
    assert str(share_caches()) == ("/my/cache" if chosen == "/my/cache" else "/shared/inductor")
    assert os.environ["TRITON_CACHE_DIR"] == "/triton"


def test_replayed_graphs_and_gradient_accumulation_are_refused_together(argv: Argv) -> None:
    replayed, accumulated = "--model.compile_mode=reduce-overhead", "--trainer.accumulate_grad_batches=2"
    with pytest.raises(ValueError, match=r"model\.compile_mode=reduce-overhead.*trainer\.accumulate_grad_batches=2"):
        parse(argv(replayed, accumulated))
    parse(argv(replayed))
    parse(argv(accumulated))
