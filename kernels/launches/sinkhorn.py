"""Launches of Sinkhorn by itself."""

import torch
from torch import Tensor

from resbench.kernels import tiles
from resbench.kernels.launches.plan import cdiv
from resbench.kernels.triton import gates


def forward(logits: Tensor, iterations: int) -> Tensor:
    """logits [M, n, n] -> matrices [M, n, n] float32."""
    M, n, _ = logits.shape
    out = torch.empty(M, n, n, device=logits.device, dtype=torch.float32)
    tile = tiles.gates_tile(M)
    if M:
        gates.sinkhorn_kernel[(cdiv(M, tile.tokens),)](
            logits, out, M, iterations, n=n, ITERATES=iterations > 0, BT=tile.tokens, num_warps=tile.warps
        )
    return out


def backward(logits: Tensor, dout: Tensor, iterations: int) -> Tensor:
    """The gradient of the logits, in their dtype."""
    M, n, _ = logits.shape
    dlogits = torch.empty_like(logits)
    tile = tiles.gates_tile(M)
    scratch = torch.empty(max(1, iterations - 1), 2 * n, M, device=logits.device, dtype=torch.float32)
    if M:
        gates.sinkhorn_backward_kernel[(cdiv(M, tile.tokens),)](
            logits,
            dout,
            scratch,
            dlogits,
            M,
            iterations,
            n=n,
            ITERATES=iterations > 0,
            BT=tile.tokens,
            num_warps=tile.warps,
        )
    return dlogits
