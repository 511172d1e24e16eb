"""How much of a GPU's memory a run will take, worked out without one: one forward pass over tensors that have shapes and no data.

Activations are what the forward pass leaves allocated for the backward pass, which is how `ActivationMemory` measures them on a GPU; the fused
kernels keep far less than torch's operations. Where sublayers are computed again in the backward pass, one block of them is added at the share
of what it would have kept. Not foreseen: temporaries of single operations, the allocator's gaps, and what torch.compile saves instead (usually less).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from resbench.harness.config import RunCLI, parse, world_size
from resbench.harness.quiet import quiet_libraries
from resbench.harness.record import check_inputs
from resbench.kernels import functional
from resbench.tasks.task import inputs_of

CONTEXT_GIB = 0.75
"""Assumed for what every process on a GPU takes before its first tensor: CUDA's context, libraries' workspaces."""


@dataclass(frozen=True)
class MemoryEstimate:
    """GiB on each of a run's devices."""

    weights: float
    gradients: float
    moments: float
    activations: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.moments + self.activations + CONTEXT_GIB

    def __str__(self) -> str:
        parts = f"activations {self.activations:.1f}, weights {self.weights:.1f}, gradients {self.gradients:.1f}, AdamW's moments {self.moments:.1f}"
        return f"{self.total:.1f} GiB ({parts}, CUDA {CONTEXT_GIB:.1f})"


def estimate_memory(argv: list[str]) -> MemoryEstimate:
    """What a run with these arguments of `resbench fit` needs on a GPU; on a machine without one, float32 is taken for the GPUs' default.

    Raises ValueError for a bad configuration, and whatever a network raises that cannot run without data.
    """
    with quiet_libraries():
        cli = parse(argv)
        stated = str(cli.config.trainer.precision)
        precision = "bf16-mixed" if stated == "32-true" and not torch.cuda.is_available() else stated
        activations, parameters, block = _forward(cli, precision)
        if block > 0:
            whole, _, _ = _forward(parse([*argv, "--model.backbone.recompute=0"]), precision)
            activations += max(0.0, whole - activations) * block
    ranks = world_size(cli.config.trainer)
    sharded = ranks if cli.config.trainer.strategy == "fsdp2" else 1
    bytes_each = 2 if precision in ("bf16-true", "16-true") else 4
    weights = parameters * bytes_each / 2**30 / sharded
    gradients = weights * (2 if ranks > sharded else 1)  # ddp holds them a second time, in its buckets
    return MemoryEstimate(weights, gradients, 2 * weights, activations / 2**30)


def _forward(cli: RunCLI, precision: str) -> tuple[float, int, float]:
    """Bytes that a forward pass leaves allocated, the number of parameters, and the share of the sublayers recomputed at a time."""
    check_inputs(cli)
    data: Any = cli.datamodule
    with FakeTensorMode():
        network: Any = cli.model.build(data.vocab_size, data.context_length)
        if precision in ("bf16-true", "16-true"):
            network.to(torch.bfloat16)
        batch = _batch(data)
        mixed = torch.autocast("cpu", torch.bfloat16, enabled=precision.endswith("-mixed"))
        with _Allocated() as allocated, mixed, as_on_a_gpu():
            loss = cli.model.loss(batch)
        left = allocated.bytes()
        del loss
    sublayers = len(getattr(network, "branches", ()))
    block = getattr(network, "recompute", 0) / sublayers if sublayers else 0.0
    return left, sum(p.numel() for p in network.parameters()), min(1.0, block)


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Inside, operations go to the kernels as they would on a GPU; tensors without data only ask for the shapes of their results."""
    before, functional.INTERPRETED = functional.INTERPRETED, True
    try:
        yield
    finally:
        functional.INTERPRETED = before


def _batch(data: Any) -> dict[str, Tensor]:
    """A training batch of one process, without data."""
    B, T = data.batch_size, data.context_length
    shapes = {"tokens": (B, T), "documents": (B, T), "images": (B, 3, T, T)}
    batch = {
        name: torch.zeros(shapes[name], dtype=torch.float32 if name == "images" else torch.int64)
        for name in inputs_of(data)
    }
    return {**batch, "targets": torch.zeros((B,) if "images" in batch else (B, T), dtype=torch.int64)}


class _Allocated(TorchDispatchMode):
    """Counts the storages that operations make inside, for as long as anything holds them."""

    def __init__(self) -> None:
        super().__init__()
        self._made = WeakIdKeyDictionary()
        self._given = WeakIdKeyDictionary()

    def bytes(self) -> float:
        return float(sum(self._made.values()))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self._made:
                self._given[storage] = True
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self._given:
                self._made[storage] = storage.nbytes()
        return result
