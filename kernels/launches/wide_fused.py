"""Launches of the Gluon kernels for n = 8: the projection, the whole backward pass between two branches, and the gradient of phi.

They take what `fused.py` takes for n in {2, 4}: bf16 streams and widths that are multiples of 8.
"""

import torch
from torch import Tensor

from resbench.kernels import tiles
from resbench.kernels.launches import fused
from resbench.kernels.launches.plan import Boundary, cdiv

STREAMS = 8


def takes(x: Tensor, *others: Tensor | None) -> bool:
    """Whether the kernels can work on streams x [M, 8, C] and these other tensors of the streams' dtype."""
    return x.shape[1] == STREAMS and fused.suits(x, *others) and fused.available()


def project(x: Tensor, parts_of_phi: Tensor, KP: int) -> tuple[Tensor, Tensor, int]:
    """Partial projections [splits, M, KP] of x [M, 8, C] on phi as two bf16 parts [2, K, 8 C], and sums of squares [splits, 1, M]."""
    from resbench.kernels.gluon import project as kernel

    M, n, C = x.shape
    K = parts_of_phi.shape[1]
    tile = tiles.wide_project_tile(n * C, M)
    span = cdiv(cdiv(n * C, 64), tile.parts)
    splits = cdiv(cdiv(n * C, 64), span)
    projected = torch.empty(splits, M, KP, device=x.device, dtype=torch.float32)
    squares = torch.empty(splits, 1, M, device=x.device, dtype=torch.float32)
    kernel.wide_project_kernel[(splits, cdiv(M, tile.tokens))](
        x,
        parts_of_phi,
        projected,
        squares,
        M,
        span,
        WIDTH=n * C,
        K=K,
        KP=KP,
        WARPS=tile.warps,
        STAGES=tile.stages,
        num_warps=tile.warps,
    )
    return projected, squares, splits


def learn(joined: Tensor, g: Tensor, K: int) -> Tensor:
    """Partial sums [ranges, K, 8 C] of the gradient of phi; the number of tokens is a multiple of 8."""
    from resbench.kernels.gluon import learn as kernel

    M, n, C = joined.shape
    tile = tiles.wide_learn_tile(n * C, M)
    blocks = cdiv(M, kernel.TOKENS)
    extent = cdiv(blocks, tile.parts)
    ranges = cdiv(blocks, extent)
    dphi = torch.empty(ranges, K, n * C, device=joined.device, dtype=torch.float32)
    kernel.wide_learn_kernel[(cdiv(n * C, tile.columns), ranges)](
        joined,
        g,
        dphi,
        M // 8,
        extent,
        WIDTH=n * C,
        K=K,
        COLUMNS=tile.columns,
        WARPS=tile.warps,
        STAGES=tile.stages,
        num_warps=tile.warps,
    )
    return dphi


def gradient(
    plan: Boundary,
    x: Tensor,
    y: Tensor,
    post: Tensor,
    res: Tensor | None,
    dout: Tensor | None,
    du: Tensor | None,
    pre: Tensor | None,
    weight: Tensor | None,
    norm: Tensor | None,
    g: Tensor | None,
    q: Tensor | None,
    phi: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x and y, and partial sums [parts, M, 8 + 64] (without mixing [.., 8]) of those of post and res."""
    from resbench.kernels.gluon import wide_gradient as kernel

    M, n, C = x.shape
    parts = tiles.gradient_parts(C)
    KP = 16 if g is None else g.shape[0]
    size = n + (n * n if plan.mixes else 0)
    dx, dy = torch.empty_like(x), torch.empty_like(y)
    sums = torch.empty(parts, M, size, device=x.device, dtype=torch.float32)
    kernel.wide_gradient_kernel[(parts, cdiv(M, kernel.TOKENS))](
        x,
        y,
        post,
        res,
        dout,
        du,
        pre,
        weight,
        norm,
        g,
        q,
        fused.packed(phi, n, C, KP, 0) if phi is not None else None,
        dx,
        dy,
        sums,
        M,
        C=C,
        K=16 if phi is None else phi.shape[0],
        KP=KP,
        MIXES=plan.mixes,
        PROJECTS=phi is not None,
        SQUARES=1 if q is None else q.shape[0],
        READS=du is not None,
        NORMS=plan.norms,
        WEIGHS=du is not None and plan.norms and weight is not None,
        OUT=dout is not None,
        PARTS=parts,
        num_warps=kernel.WARPS,
        maxnreg=128,
    )
    return dx, dy, sums
