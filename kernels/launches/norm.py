"""Launches of the fused residual add + RMSNorm."""

import torch
from torch import Tensor

from resbench.kernels import tiles
from resbench.kernels.launches.plan import cdiv, shares
from resbench.kernels.launches.totals import total
from resbench.kernels.triton import norm


def forward(x: Tensor, y: Tensor | None, weight: Tensor | None, eps: float) -> tuple[Tensor | None, Tensor]:
    """x, y [M, C] -> (x + y, its RMSNorm); no sum without y."""
    M, C = x.shape
    joined = torch.empty_like(x) if y is not None else None
    u = torch.empty_like(x)
    tile = tiles.norm_tile(C)
    if M:
        norm.add_norm_kernel[(cdiv(M, tile.tokens),)](
            x,
            y,
            weight,
            joined,
            u,
            M,
            eps,
            C=C,
            ADDS=y is not None,
            WEIGHS=weight is not None,
            BT=tile.tokens,
            BC=tile.columns,
            num_warps=tile.warps,
        )
    return joined, u


def backward(
    joined: Tensor, weight: Tensor | None, dout: Tensor | None, du: Tensor, eps: float
) -> tuple[Tensor, Tensor | None]:
    """The gradients of x' (which are those of x and of y) and of the weight."""
    M, C = joined.shape
    dx = torch.empty_like(joined)
    tile = tiles.norm_tile(C)
    share, programs = shares(M, tile.tokens, tiles.PARTIAL_GRADIENTS)
    dweight = torch.empty(programs, C, device=joined.device, dtype=torch.float32) if weight is not None else None
    if M:
        norm.add_norm_backward_kernel[(programs,)](
            joined,
            weight,
            dout,
            du,
            dx,
            dweight,
            M,
            share,
            eps,
            C=C,
            OUT=dout is not None,
            WEIGHS=weight is not None,
            BT=tile.tokens,
            BC=tile.columns,
            STAGES=tile.stages,
            num_warps=tile.warps,
        )
    return dx, total(dweight, weight, M) if dweight is not None and weight is not None else None
