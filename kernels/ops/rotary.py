"""``resbench::rotary`` and its backward pass as torch operations: opaque to compilers, known to autograd."""

from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op("resbench::rotary", mutates_args=())
def rotary(
    qkv: Tensor, query_weight: Tensor, key_weight: Tensor, table: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """qkv [M, 3, H, D] -> queries and keys, normalised and rotated, and values [M, H, D]; token m is at position m mod T of table [2, T, D / 2]."""
    from resbench.kernels.launches import rotary as launch

    return launch.forward(qkv.contiguous(), query_weight, key_weight, table, eps)


@rotary.register_fake
def _(
    qkv: Tensor, query_weight: Tensor, key_weight: Tensor, table: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    M, _, H, D = qkv.shape
    return qkv.new_empty(M, H, D), qkv.new_empty(M, H, D), qkv.new_empty(M, H, D)


@torch.library.custom_op("resbench::rotary_backward", mutates_args=())
def rotary_backward(
    qkv: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    table: Tensor | None,
    dquery: Tensor,
    dkey: Tensor,
    dvalue: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """The gradients of qkv and, [2, D], of both weights."""
    from resbench.kernels.launches import rotary as launch

    gradients = (dquery.contiguous(), dkey.contiguous(), dvalue.contiguous())
    return launch.backward(qkv.contiguous(), query_weight, key_weight, table, *gradients, eps)


@rotary_backward.register_fake
def _(
    qkv: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    table: Tensor | None,
    dquery: Tensor,
    dkey: Tensor,
    dvalue: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    dqkv = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    return dqkv, query_weight.new_empty(2, *query_weight.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, dquery: Tensor, dkey: Tensor, dvalue: Tensor) -> tuple[Tensor | None, ...]:
    dqkv, dweights = torch.ops.resbench.rotary_backward(*ctx.saved_tensors, dquery, dkey, dvalue, ctx.eps)
    return dqkv, dweights[0], dweights[1], None, None


rotary.register_autograd(_backward, setup_context=_setup)
