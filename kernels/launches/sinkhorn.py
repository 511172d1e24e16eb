"""Launches of Sinkhorn by itself."""

from typing import Any

import torch
from torch import Tensor

from resbench.kernels import tiles
from resbench.kernels.launches.plan import UNROLLED, cdiv
from resbench.kernels.triton import gates, wide_sinkhorn


def forward(logits: Tensor, iterations: int) -> Tensor:
    """logits [M, n, n] -> matrices [M, n, n] float32."""
    M, n, _ = logits.shape
    out = torch.empty(M, n, n, device=logits.device, dtype=torch.float32)
    kernel = gates.sinkhorn_kernel if n <= UNROLLED else wide_sinkhorn.wide_sinkhorn_kernel
    tile, options = shape(n, iterations)
    if M:
        kernel[(cdiv(M, tile.tokens),)](logits, out, M, iterations, **options)
    return out


def backward(logits: Tensor, dout: Tensor, iterations: int) -> Tensor:
    """The gradient of the logits, in their dtype."""
    M, n, _ = logits.shape
    dlogits = torch.empty_like(logits)
    scratch = torch.empty(max(1, iterations - 1), 2 * n, M, device=logits.device, dtype=torch.float32)
    kernel = gates.sinkhorn_backward_kernel if n <= UNROLLED else wide_sinkhorn.wide_sinkhorn_backward_kernel
    tile, options = shape(n, iterations)
    if M:
        kernel[(cdiv(M, tile.tokens),)](logits, dout, scratch, dlogits, M, iterations, **options)
    return dlogits


def shape(n: int, iterations: int) -> tuple[tiles.Tile, dict[str, Any]]:
    """The tile, and what both kernels are compiled for."""
    tile = tiles.gates_tile() if n <= UNROLLED else tiles.wide_tile()
    return tile, {"n": n, "ITERATES": iterations > 0, "BT": tile.tokens, "num_warps": tile.warps}
