"""Launches of what stands between the product with W_qkv and attention."""

import torch
from torch import Tensor

from resbench.kernels import tiles
from resbench.kernels.launches.plan import cdiv, shares
from resbench.kernels.launches.totals import total
from resbench.kernels.triton import rotary


def forward(
    qkv: Tensor, query_weight: Tensor, key_weight: Tensor, table: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """qkv [M, 3, H, D], M a multiple of the table's positions -> queries, keys and values [M, H, D]."""
    M, _, H, D = qkv.shape
    query, key, value = (qkv.new_empty(M, H, D) for _ in range(3))
    tile = tiles.rotary_tile(D)
    if M:
        rotary.rotary_kernel[(cdiv(M * H, tile.tokens),)](
            qkv,
            query_weight,
            key_weight,
            table,
            query,
            key,
            value,
            M * H,
            1 if table is None else table.shape[1],
            eps,
            H=H,
            D=D,
            ROTATES=table is not None,
            ROWS=tile.tokens,
            HALF=tile.columns,
            num_warps=tile.warps,
        )
    return query, key, value


def backward(
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
    M, _, H, D = qkv.shape
    dqkv = torch.empty_like(qkv)
    tile = tiles.rotary_tile(D)
    share, programs = shares(M * H, tile.tokens, tiles.PARTIAL_GRADIENTS)
    partial = torch.empty(programs, 2, D, device=qkv.device, dtype=torch.float32)
    if M:
        rotary.rotary_backward_kernel[(programs,)](
            qkv,
            query_weight,
            key_weight,
            table,
            dquery,
            dkey,
            dvalue,
            dqkv,
            partial,
            M * H,
            share,
            1 if table is None else table.shape[1],
            eps,
            H=H,
            D=D,
            ROTATES=table is not None,
            ROWS=tile.tokens,
            HALF=tile.columns,
            num_warps=tile.warps,
        )
    return dqkv, total(partial, query_weight.new_empty(2, D), M)
