"""The boundary forward as a sequence of kernel launches on plain contiguous tensors: write, project, gates, read."""

from typing import Any

import torch
from torch import Tensor

from resbench.kernels import tiles
from resbench.kernels.launches import fused
from resbench.kernels.launches.plan import UNROLLED, Boundary, Outputs, cdiv
from resbench.kernels.triton import gates, read, wide_sinkhorn, write


def forward(
    plan: Boundary,
    x: Tensor,
    y: Tensor | None,
    post: Tensor | None,
    res: Tensor | None,
    pre: Tensor | None,
    phi: Tensor | None,
    scale: Tensor | None,
    bias: Tensor | None,
    weight: Tensor | None,
) -> Outputs:
    """x [M, n, C], y [M, C], post and pre [M, n], res [M, n, n], phi [K, n C], weight [C]; all contiguous. M may be 0."""
    M, n, C = x.shape
    joined = torch.empty_like(x) if plan.writes else None
    kept = new_post = new_res = None
    projects = plan.gates != "none"
    K = KP = squares = 1
    wide: dict[str, Any] = {"device": x.device, "dtype": torch.float32}
    if projects:
        assert phi is not None
        K = phi.shape[0]
        KP = tiles.coefficient_tile(K)
        squares = n if plan.streamwise else 1
    source = x if joined is None else joined
    parts = 1
    projected = sums = None
    if plan.writes and projects and M and fused.takes(x, y):
        assert y is not None
        assert post is not None
        assert phi is not None
        assert joined is not None
        projected, sums, parts = fused.write_project(plan, x, y, post, res, phi, joined, KP)
    else:
        if plan.writes and M:
            launch_write(plan, x, y, post, res, joined)
        if projects:
            assert phi is not None
            projected, sums, parts = project(source, phi, squares, KP, plan.terms)
    if projects:
        assert bias is not None
        mixes = plan.streamwise or 2 * n < K
        pre, new_post = torch.empty(M, n, **wide), torch.empty(M, n, **wide)
        new_res = torch.empty(M, n, n, **wide) if mixes else None
        kept = torch.empty(K + squares, M, **wide)
        gate = tiles.gates_tile(parts)
        grid = (cdiv(M, gate.tokens),)
        common: dict[str, Any] = {
            "n": n,
            "C": C,
            "K": K,
            "KP": KP,
            "SPLITS": parts,
            "BT": gate.tokens,
            "num_warps": gate.warps,
        }
        if M and plan.streamwise:
            gates.hc_gates_kernel[grid](
                projected,
                sums,
                scale,
                bias,
                pre,
                new_post,
                new_res,
                kept,
                M,
                plan.eps,
                TANH=plan.gates == "hc-tanh",
                **common,
            )
        elif M:
            gates.mhc_gates_kernel[grid](
                projected,
                sums,
                scale,
                bias,
                pre,
                new_post,
                new_res,
                kept,
                M,
                plan.iterations,
                plan.eps,
                MIXES=mixes,
                SPLIT_MIXING=n > UNROLLED,
                ITERATES=plan.iterations > 0,
                **common,
            )
        if M and mixes and not plan.streamwise and n > UNROLLED:
            wide_tile = tiles.wide_tile()
            wide_sinkhorn.wide_mixing_kernel[(cdiv(M, wide_tile.tokens),)](
                kept,
                scale,
                bias,
                new_res,
                M,
                plan.iterations,
                n=n,
                ITERATES=plan.iterations > 0,
                BT=wide_tile.tokens,
                num_warps=wide_tile.warps,
            )
    u = None
    if plan.reads:
        u = x.new_empty(M, C)
        tile = tiles.read_tile(C)
        if M:
            read.read_kernel[(cdiv(M, tile.tokens),)](
                source,
                pre,
                weight,
                u,
                M,
                plan.norm_eps,
                n=n,
                C=C,
                NORMS=plan.norms,
                WEIGHS=weight is not None,
                BT=tile.tokens,
                BC=tile.columns,
                CHUNKS=tile.parts,
                num_warps=tile.warps,
            )
    return Outputs(joined, u, pre if projects else None, new_post, new_res, kept)


def launch_write(
    plan: Boundary, x: Tensor, y: Tensor | None, post: Tensor | None, res: Tensor | None, joined: Tensor | None
) -> None:
    """Fill ``joined``."""
    M, n, C = x.shape
    tile = tiles.write_tile(n, C)
    write.write_kernel[(cdiv(M, tile.tokens),)](
        x,
        y,
        post,
        res,
        joined,
        M,
        n=n,
        C=C,
        MIXES=plan.mixes,
        BT=tile.tokens,
        BC=tile.columns,
        STAGES=tile.stages,
        num_warps=tile.warps,
    )


def project(x: Tensor, phi: Tensor, squares: int, KP: int, terms: int) -> tuple[Tensor, Tensor, int]:
    """Partial projections [parts, M, KP] and sums of squares [parts, squares, M] of streams on phi, over ranges of columns."""
    M, n, C = x.shape
    if squares == 1:  # nothing tells the streams apart
        n, C = 1, n * C
    tile = tiles.project_tile(KP, n, C, M, x.element_size())
    span = cdiv(cdiv(C, tile.columns), tile.parts) * tile.columns
    parts = cdiv(C, span)
    projected = torch.empty(parts, M, KP, device=x.device, dtype=torch.float32)
    sums = torch.empty(parts, squares, M, device=x.device, dtype=torch.float32)
    if M:
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
