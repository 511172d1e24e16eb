"""The boundary forward as a sequence of kernel launches on plain contiguous tensors: write, coefficients, read."""

import torch
from torch import Tensor

from resbench.kernels import tiles
from resbench.kernels.launches import fused
from resbench.kernels.launches.coefficients import coefficients
from resbench.kernels.launches.plan import Boundary, Coefficients, Outputs, cdiv
from resbench.kernels.triton import read, write


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
    found = None
    if plan.gates == "none":
        if joined is not None:
            launch_write(plan, x, y, post, res, joined)
    else:
        assert phi is not None
        assert scale is not None
        assert bias is not None
        found = Coefficients.empty(plan, M, n, phi.shape[0], x.device)
        if joined is not None and M and fused.takes(x, y):
            assert y is not None
            assert post is not None
            fused.write_project(plan, x, y, post, res, phi, scale, bias, joined, found)
        else:
            if joined is not None:
                launch_write(plan, x, y, post, res, joined)
            if M:
                coefficients(plan, x if joined is None else joined, phi, scale, bias, found)
        pre = found.pre
    u = inverse = None
    if plan.reads:
        u = x.new_empty(M, C)
        inverse = torch.empty(M, device=x.device, dtype=torch.float32) if plan.norms else None
        tile = tiles.read_tile(C)
        if M:
            read.read_kernel[(cdiv(M, tile.tokens),)](
                x if joined is None else joined,
                pre,
                weight,
                u,
                inverse,
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
    return Outputs(joined, u, found, inverse)


def launch_write(
    plan: Boundary, x: Tensor, y: Tensor | None, post: Tensor | None, res: Tensor | None, joined: Tensor
) -> None:
    """Fill ``joined``."""
    M, n, C = x.shape
    tile = tiles.write_tile(n, C)
    if not M:
        return
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
