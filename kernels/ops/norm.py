"""``resbench::add_rms_norm`` and its backward pass as torch operations: opaque to compilers, known to autograd."""

from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op("resbench::add_rms_norm", mutates_args=())
def add_rms_norm(x: Tensor, y: Tensor | None, weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """x, y [M, C] -> (x + y, its RMSNorm); the first is empty without y."""
    from resbench.kernels.launches import norm

    joined, u = norm.forward(x.contiguous(), None if y is None else y.contiguous(), weight, eps)
    return x.new_empty(0) if joined is None else joined, u


@add_rms_norm.register_fake
def _(x: Tensor, y: Tensor | None, weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    u = torch.empty_like(x, memory_format=torch.contiguous_format)
    return x.new_empty(0) if y is None else torch.empty_like(u), u


@torch.library.custom_op("resbench::add_rms_norm_backward", mutates_args=())
def add_rms_norm_backward(
    joined: Tensor, weight: Tensor | None, dout: Tensor | None, du: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The gradients of x' and of the weight (empty without one)."""
    from resbench.kernels.launches import norm

    dx, dweight = norm.backward(
        joined.contiguous(), weight, None if dout is None else dout.contiguous(), du.contiguous(), eps
    )
    return dx, joined.new_empty(0) if dweight is None else dweight


@add_rms_norm_backward.register_fake
def _(joined: Tensor, weight: Tensor | None, dout: Tensor | None, du: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    dx = torch.empty_like(joined, memory_format=torch.contiguous_format)
    return dx, joined.new_empty(0) if weight is None else torch.empty_like(weight)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, y, weight, ctx.eps = inputs
    ctx.adds = y is not None
    ctx.y_dtype = y.dtype if ctx.adds else None
    ctx.save_for_backward(output[0] if ctx.adds else x, weight)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dout: Tensor | None, du: Tensor | None) -> tuple[Tensor | None, ...]:
    joined, weight = ctx.saved_tensors
    dout = dout if ctx.adds else None
    if du is None:
        dx, dweight = dout, None
    else:
        dx, found = torch.ops.resbench.add_rms_norm_backward(joined, weight, dout, du, ctx.eps)
        dweight = None if weight is None else found
    dy = dx.to(ctx.y_dtype) if ctx.adds and dx is not None else None
    return dx, dy, dweight, None


add_rms_norm.register_autograd(_backward, setup_context=_setup)
