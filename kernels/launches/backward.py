"""The boundary backward as a sequence of kernel launches: sums of the read, gates, the gradient of x' gathered, and scattered to x and y."""

from typing import Any

import torch
from torch import Tensor

from resbench.kernels import tiles
from resbench.kernels.launches.plan import Boundary, Gradients, cdiv
from resbench.kernels.triton import gates, gather, read, scatter, totals


def backward(
    plan: Boundary,
    x: Tensor,
    y: Tensor | None,
    post: Tensor | None,
    res: Tensor | None,
    joined: Tensor | None,
    pre: Tensor | None,
    phi: Tensor | None,
    scale: Tensor | None,
    bias: Tensor | None,
    weight: Tensor | None,
    kept: Tensor | None,
    dout: Tensor | None,
    du: Tensor | None,
    dpre: Tensor | None,
    dpost: Tensor | None,
    dres: Tensor | None,
) -> Gradients:
    """Gradients of every input of `forward` from those of its outputs; ``pre`` is the one read with, given or computed."""
    M, n, C = x.shape
    wide: dict[str, Any] = {"device": x.device, "dtype": torch.float32}
    projects = plan.gates != "none"
    reads = plan.reads and du is not None
    found_dpre = torch.empty(n, M, **wide) if reads else None
    norm = torch.empty(2, M, **wide) if reads and plan.norms else None
    if reads and M:
        tile = tiles.read_sums_tile(C)
        read.read_sums_kernel[(cdiv(M, tile.tokens),)](
            x if joined is None else joined,
            pre,
            weight,
            du,
            found_dpre,
            norm,
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
    g = q = dscale = dbias = None
    K = KP = squares = 1
    if projects:
        assert phi is not None
        assert scale is not None
        assert bias is not None
        assert kept is not None
        K = phi.shape[0]
        KP = tiles.coefficient_tile(K)
        squares = n if plan.streamwise else 1
        g = torch.empty(M, KP, device=x.device, dtype=torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32)
        q = torch.empty(squares, M, **wide)
        dscale, dbias = torch.zeros_like(scale), torch.zeros_like(bias)
        if M:
            gates_backward(plan, n, C, kept, scale, bias, found_dpre, dpre, dpost, dres, g, q, dscale, dbias)
    gradient, dphi, dweight = dout, None, None
    if reads or projects:
        source = x if joined is None else joined
        gradient, dphi, dweight = gather_gradient(
            plan,
            source,
            dout,
            du if reads else None,
            pre,
            weight if reads else None,
            norm,
            g,
            q,
            phi if projects else None,
        )
    elif dout is None:
        gradient = torch.zeros_like(x)
    assert gradient is not None
    dx, dy, dpost_in, dres_in = gradient, None, None, None
    if plan.writes:
        assert y is not None
        assert post is not None
        dx, dy, dpost_in, dres_in = scatter_gradient(plan, x, y, post, res, gradient)
    dpre_in = None
    if not projects and found_dpre is not None:
        dpre_in = found_dpre.T.contiguous()
    return Gradients(dx, dy, dpost_in, dres_in, dpre_in, dphi, dscale, dbias, dweight)


def gather_gradient(
    plan: Boundary,
    joined: Tensor,
    dout: Tensor | None,
    du: Tensor | None,
    pre: Tensor | None,
    weight: Tensor | None,
    norm: Tensor | None,
    g: Tensor | None,
    q: Tensor | None,
    phi: Tensor | None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The gradients of x', phi and the norm's weight."""
    M, n, C = joined.shape
    wide: dict[str, Any] = {"device": joined.device, "dtype": torch.float32}
    K = KP = squares = 1
    if phi is not None:
        assert q is not None
        K, KP, squares = phi.shape[0], tiles.coefficient_tile(phi.shape[0]), q.shape[0]
    norms = du is not None and plan.norms
    weighs = norms and weight is not None
    gradient = torch.empty_like(joined)

    def walk(tile: tiles.Tile, dphi: Tensor | None, dweight: Tensor | None, extent: int) -> None:
        gather.gather_kernel[(cdiv(C, tile.columns), cdiv(M, extent))](
            joined,
            dout,
            du,
            pre,
            weight,
            norm,
            g,
            q,
            narrowed(phi, joined.dtype) if phi is not None else None,
            gradient,
            dphi,
            dweight,
            M,
            extent,
            n=n,
            C=C,
            K=K,
            KP=KP,
            PROJECTS=phi is not None,
            SQUARES=squares,
            READS=du is not None,
            NORMS=norms,
            WEIGHS=weighs,
            OUT=dout is not None,
            GATHERS=dphi is None,
            LEARNS=dphi is not None,
            BT=tile.tokens,
            BC=tile.columns,
            STAGES=tile.stages,
            num_warps=tile.warps,
        )

    tile = tiles.gather_tile(n, C, M, joined.element_size())
    extent = max(1, cdiv(cdiv(M, tile.tokens), tile.parts)) * tile.tokens
    dweight = torch.empty(max(1, cdiv(M, extent)), C, **wide) if weighs else None
    if M:
        walk(tile, None, dweight, extent)
    dphi = None
    if phi is not None:
        tile = tiles.learn_tile(n, C, M, joined.element_size())
        extent = max(1, cdiv(cdiv(M, tile.tokens), tile.parts)) * tile.tokens
        dphi = torch.empty(max(1, cdiv(M, extent)), K, n * C, **wide)
        if M:
            walk(tile, dphi, None, extent)
    return (
        gradient,
        total(dphi, phi, M) if dphi is not None and phi is not None else None,
        total(dweight, weight, M) if dweight is not None and weight is not None else None,
    )


def scatter_gradient(
    plan: Boundary, x: Tensor, y: Tensor, post: Tensor, res: Tensor | None, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The gradients of x, y, post and res from that of x'."""
    M, n, C = x.shape
    dx, dy = torch.empty_like(x), torch.empty_like(y)
    dpost, dres = torch.empty_like(post), torch.empty_like(res) if res is not None else None
    tile = tiles.scatter_tile(n, C)
    if M:
        scatter.scatter_kernel[(cdiv(M, tile.tokens),)](
            x,
            y,
            post,
            res,
            gradient,
            dx,
            dy,
            dpost,
            dres,
            M,
            n=n,
            C=C,
            MIXES=plan.mixes,
            LATE=tile.parts > 1,
            BT=tile.tokens,
            BC=tile.columns,
            STAGES=tile.stages,
            num_warps=tile.warps,
        )
    return dx, dy, dpost, dres


def gates_backward(
    plan: Boundary,
    n: int,
    C: int,
    kept: Tensor,
    scale: Tensor,
    bias: Tensor,
    found_dpre: Tensor | None,
    dpre: Tensor | None,
    dpost: Tensor | None,
    dres: Tensor | None,
    g: Tensor,
    q: Tensor,
    dscale: Tensor,
    dbias: Tensor,
) -> None:
    """Fill g, q and the gradients of scale and bias."""
    M, KP = g.shape
    K = bias.numel()
    tile = tiles.gates_tile(M)
    programs = cdiv(M, tile.tokens)
    partial = torch.empty(programs, 2 * K, device=g.device, dtype=torch.float32)
    common: dict[str, Any] = {
        "n": n,
        "C": C,
        "K": K,
        "KP": KP,
        "READS": found_dpre is not None,
        "OUTER": dpre is not None,
        "POSTS": dpost is not None,
        "MIXED": dres is not None,
        "BT": tile.tokens,
        "num_warps": tile.warps,
    }
    if plan.streamwise:
        gates.hc_gates_backward_kernel[(programs,)](
            kept, scale, found_dpre, dpre, dpost, dres, g, q, partial, M, TANH=plan.gates == "hc-tanh", **common
        )
    else:
        mixes = 2 * n < K
        pairs = max(1, plan.iterations - 1) if mixes and dres is not None else 1
        scratch = torch.empty(pairs, 2 * n, M, device=g.device, dtype=torch.float32)
        gates.mhc_gates_backward_kernel[(programs,)](
            kept,
            scale,
            bias,
            found_dpre,
            dpre,
            dpost,
            dres,
            scratch,
            g,
            q,
            partial,
            M,
            plan.iterations,
            MIXES=mixes,
            ITERATES=plan.iterations > 0,
            **common,
        )
    totals.gate_totals_kernel[(1,)](
        partial,
        dscale,
        dbias,
        programs,
        n=n,
        K=K,
        KP=KP,
        GROUPS=scale.numel(),
        STREAMWISE=plan.streamwise,
        BP=64,
    )


def narrowed(phi: Tensor, dtype: torch.dtype) -> Tensor:
    """phi as the slab kernel multiplies with it: bf16 beside bf16 streams, else float32."""
    return phi.to(torch.bfloat16) if dtype == torch.bfloat16 else phi.float()


def total(partial: Tensor, like: Tensor, tokens: int) -> Tensor:
    """Sum over the first axis in a fixed order, in the shape and dtype of ``like``."""
    if tokens == 0:
        return torch.zeros_like(like)
    out = torch.empty_like(like)
    parts = partial.shape[0]
    totals.total_kernel[(cdiv(out.numel(), 256),)](
        partial, out, parts, out.numel(), BP=min(16, tiles.power_of_two(parts)), BLOCK=256
    )
    return out
