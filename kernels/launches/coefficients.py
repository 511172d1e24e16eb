"""Coefficients of streams that are read for that purpose: their projection on phi, and the gates."""

from typing import Any

import torch
from torch import Tensor

from resbench.kernels import tiles
from resbench.kernels.launches import wide_fused
from resbench.kernels.launches.plan import UNROLLED, Boundary, Coefficients, cdiv
from resbench.kernels.triton import gates, wide_sinkhorn, write


def coefficients(plan: Boundary, x: Tensor, phi: Tensor, scale: Tensor, bias: Tensor, found: Coefficients) -> None:
    """Fill ``found`` from streams x [M, n, C]."""
    KP = tiles.coefficient_tile(phi.shape[0])
    projected, sums, parts = project(x, phi, x.shape[1] if plan.streamwise else 1, KP, plan.terms)
    gate(plan, x, projected, sums, parts, scale, bias, found)


def gate(
    plan: Boundary,
    x: Tensor,
    projected: Tensor,
    sums: Tensor,
    parts: int,
    scale: Tensor,
    bias: Tensor,
    found: Coefficients,
) -> None:
    """Fill ``found`` from partial projections [parts, M, KP] and sums of squares [parts, squares, M]."""
    M, n, C = x.shape
    K, KP = bias.numel(), projected.shape[2]
    tile = tiles.gates_tile(parts)
    grid = (cdiv(M, tile.tokens),)
    common: dict[str, Any] = {
        "n": n,
        "C": C,
        "K": K,
        "KP": KP,
        "SPLITS": parts,
        "BT": tile.tokens,
        "num_warps": tile.warps,
    }
    given = (projected, sums, scale, bias, found.pre, found.post, found.res, found.kept, M)
    if plan.streamwise:
        gates.hc_gates_kernel[grid](*given, plan.eps, TANH=plan.gates == "hc-tanh", **common)
        return
    apart = n > UNROLLED
    iterates = plan.iterations > 0
    gates.mhc_gates_kernel[grid](
        *given,
        plan.iterations,
        plan.eps,
        MIXES=found.res is not None,
        SPLIT_MIXING=apart,
        ITERATES=iterates,
        **common,
    )
    if found.res is not None and apart:
        tile = tiles.wide_tile()
        wide_sinkhorn.wide_mixing_kernel[(cdiv(M, tile.tokens),)](
            found.kept,
            scale,
            bias,
            found.res,
            M,
            plan.iterations,
            n=n,
            ITERATES=iterates,
            BT=tile.tokens,
            num_warps=tile.warps,
        )


def project(x: Tensor, phi: Tensor, squares: int, KP: int, terms: int) -> tuple[Tensor, Tensor, int]:
    """Partial projections [parts, M, KP] and sums of squares [parts, squares, M] of streams on phi, over ranges of columns."""
    M, n, C = x.shape
    if squares == 1 and wide_fused.takes(x):
        return wide_fused.project(x, split(phi, terms), KP)
    if squares == 1:  # nothing tells the streams apart
        n, C = 1, n * C
    tile = tiles.project_tile(KP, n, C, M, x.element_size())
    span = cdiv(cdiv(C, tile.columns), tile.parts) * tile.columns
    parts = cdiv(C, span)
    projected = torch.empty(parts, M, KP, device=x.device, dtype=torch.float32)
    sums = torch.empty(parts, squares, M, device=x.device, dtype=torch.float32)
    terms = terms if x.dtype == torch.bfloat16 else 0
    write.project_kernel[(cdiv(M, tile.tokens), parts)](
        x,
        split(phi, terms) if terms else phi,
        projected,
        sums,
        M,
        n=n,
        C=C,
        K=phi.shape[0],
        KP=KP,
        SPAN=span,
        TERMS=terms,
        SQUARES=squares,
        BT=tile.tokens,
        BC=tile.columns,
        STAGES=tile.stages,
        num_warps=tile.warps,
    )
    return projected, sums, parts


def split(phi: Tensor, terms: int) -> Tensor:
    """phi as bf16 parts that add up to it: [terms, K, n C]."""
    parts = torch.empty(terms, *phi.shape, device=phi.device, dtype=torch.bfloat16)
    write.split_kernel[(cdiv(phi.numel(), 1024),)](phi, parts, phi.numel(), TERMS=terms, BLOCK=1024)
    return parts
