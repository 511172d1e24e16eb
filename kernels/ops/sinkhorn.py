"""``resbench::sinkhorn`` and its backward pass as torch operations."""

from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op("resbench::sinkhorn", mutates_args=())
def sinkhorn(logits: Tensor, iterations: int) -> Tensor:
    """logits [M, n, n] -> matrices [M, n, n] float32."""
    from resbench.kernels.launches import sinkhorn as launch

    return launch.forward(logits.contiguous(), iterations)


@sinkhorn.register_fake
def _(logits: Tensor, iterations: int) -> Tensor:
    return torch.empty_like(logits, dtype=torch.float32, memory_format=torch.contiguous_format)


@torch.library.custom_op("resbench::sinkhorn_backward", mutates_args=())
def sinkhorn_backward(logits: Tensor, dout: Tensor, iterations: int) -> Tensor:
    """The gradient of the logits."""
    from resbench.kernels.launches import sinkhorn as launch

    return launch.backward(logits.contiguous(), dout.contiguous(), iterations)


@sinkhorn_backward.register_fake
def _(logits: Tensor, dout: Tensor, iterations: int) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    logits, ctx.iterations = inputs
    ctx.save_for_backward(logits)


def _backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None]:
    (logits,) = ctx.saved_tensors
    return torch.ops.resbench.sinkhorn_backward(logits, dout, ctx.iterations), None


sinkhorn.register_autograd(_backward, setup_context=_setup)
