"""The boundary backward as a sequence of kernel launches: sums of the read, gates, the gradient of x' gathered, and scattered to x and y."""

from typing import Any

import torch
from torch import Tensor
from triton import OutOfResources

from resbench.kernels import tiles
from resbench.kernels.launches import fused, wide_fused
from resbench.kernels.launches.plan import UNROLLED, Boundary, Gradients, cdiv, shares
from resbench.kernels.launches.totals import Partial, finish
from resbench.kernels.triton import gates, gather, read, scatter, wide_sinkhorn


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
    inverse: Tensor | None,
    dout: Tensor | None,
    du: Tensor | None,
    dpre: Tensor | None,
    dpost: Tensor | None,
    dres: Tensor | None,
) -> Gradients:
    """Gradients of every input of `forward` from those of its outputs; ``pre`` is the one read with, given or computed, ``inverse`` [M] the
    read's inverse RMS.
    """
    M, n, C = x.shape
    wide: dict[str, Any] = {"device": x.device, "dtype": torch.float32}
    projects = plan.gates != "none"
    reads = plan.reads and du is not None
    if not M:
        inputs = (y, post, res, None if projects or not reads else pre)
        parameters = (*((phi, scale, bias) if projects else (None,) * 3), weight if reads else None)
        return Gradients(torch.zeros_like(x), *map(zeros, inputs + parameters))
    found_dpre = torch.empty(n, M, **wide) if reads else None
    norm = torch.empty(2, M, **wide) if reads and plan.norms else None
    used = du if reads else None
    one_pass = None
    if plan.writes:
        if fused.takes(x, y, dout, used):
            one_pass = fused.gradient
        elif wide_fused.takes(x, y, dout, used):
            one_pass = wide_fused.gradient
    # many streams do not fit on chip together: then the read is kept for the last pass, and those before take one stream at a time
    apart = plan.writes and n > UNROLLED and one_pass is None
    v = x.new_empty(M, C) if apart and norm is not None else None
    source = x if joined is None else joined
    partial = Partial()
    if reads:
        assert du is not None
        assert pre is not None
        assert found_dpre is not None
        partial.weight = read_sums(source, pre, weight if plan.norms else None, du, inverse, found_dpre, norm, v)
    g = q = None
    if projects:
        assert phi is not None
        assert scale is not None
        assert bias is not None
        assert kept is not None
        KP = tiles.coefficient_tile(phi.shape[0])
        g = torch.empty(KP, M, device=x.device, dtype=torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32)
        q = torch.empty(n if plan.streamwise else 1, M, **wide)
        partial.gates = gates_backward(plan, n, C, kept, scale, bias, found_dpre, dpre, dpost, dres, g, q)
    if one_pass is not None:
        assert y is not None
        assert post is not None
        dpost_in = dres_in = None
        dx, dy, partial.sums = one_pass(
            plan, x, y, post, res, dout, used, pre, weight, norm, g, q, phi if projects else None
        )
    else:
        gradient = dout
        if apart and projects:
            assert q is not None
            flat = (M, q.shape[0], n * C // q.shape[0])  # as many streams as there are norms
            gradient = gather_gradient(
                plan, source.view(flat), None if dout is None else dout.view(flat), None, None, None, None, g, q, phi
            )
            gradient = gradient.view(M, n, C)
        elif not apart and (reads or projects):
            gradient = gather_gradient(
                plan, source, dout, used, pre, weight if reads else None, norm, g, q, phi if projects else None
            )
        elif dout is None:
            gradient = torch.zeros_like(x)
        assert gradient is not None
        dx, dy, dpost_in, dres_in = gradient, None, None, None
        if plan.writes:
            assert y is not None
            assert post is not None
            read_back = (used, v, pre, weight, norm) if apart and reads else None
            dx, dy, dpost_in, dres_in = scatter_gradient(plan, x, y, post, res, gradient, read_back)
    if projects:
        assert g is not None
        assert phi is not None
        partial.phi = learn(source, g, phi)
    sums = finish(partial, plan.streamwise, n, scale, bias, weight, post, res, phi)
    return Gradients(
        x=dx,
        y=dy,
        post=sums.post if dpost_in is None else dpost_in,
        res=sums.res if dres_in is None else dres_in,
        pre=None if projects or found_dpre is None else found_dpre.T.contiguous(),
        phi=sums.phi,
        scale=sums.scale,
        bias=sums.bias,
        weight=sums.weight,
    )


def zeros(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else torch.zeros_like(tensor)


def read_sums(
    x: Tensor,
    pre: Tensor,
    weight: Tensor | None,
    du: Tensor,
    inverse: Tensor | None,
    dpre: Tensor,
    norm: Tensor | None,
    v: Tensor | None,
) -> Tensor | None:
    """Fill dpre [n, M], norm [2, M] and v [M, C] (where asked for); returns partial sums [ranges, C] of the gradient of the norm's weight."""
    M, n, C = x.shape
    tile = tiles.read_sums_tile(C)
    extent, ranges = shares(M, tile.tokens, tiles.read_sums_programs(C))
    partial = torch.empty(ranges, C, device=x.device, dtype=torch.float32) if weight is not None else None
    read.read_sums_kernel[(ranges,)](
        x,
        pre,
        weight,
        du,
        inverse,
        dpre,
        norm,
        partial,
        v,
        M,
        extent,
        n=n,
        C=C,
        NORMS=norm is not None,
        WEIGHS=weight is not None,
        KEEPS=v is not None,
        BT=tile.tokens,
        BC=tile.columns,
        CHUNKS=tile.parts,
        num_warps=tile.warps,
    )
    return partial


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
) -> Tensor:
    """The gradient of x'. Raises RuntimeError where a program of eight float32 streams does not fit on the GPU."""
    M, n, C = joined.shape
    gradient = torch.empty_like(joined)
    tile = tiles.gather_tile(1 if g is None else g.shape[0], n, C, M, joined.element_size())
    extent, ranges = shares(M, tile.tokens, tile.parts)
    try:
        gather.gather_kernel[(cdiv(C, tile.columns), ranges)](
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
            M,
            extent,
            n=n,
            C=C,
            K=1 if phi is None else phi.shape[0],
            KP=1 if g is None else g.shape[0],
            PROJECTS=phi is not None,
            SQUARES=1 if q is None else q.shape[0],
            READS=du is not None,
            NORMS=du is not None and plan.norms,
            WEIGHS=weight is not None,
            OUT=dout is not None,
            BT=tile.tokens,
            BC=tile.columns,
            STAGES=tile.stages,
            num_warps=tile.warps,
        )
    except OutOfResources as error:
        raise RuntimeError(
            f"{n} streams in {str(joined.dtype).removeprefix('torch.')}: the kernels need {error.required} bytes of {error.name} a block, and this "
            f"GPU has {error.limit}. Use streams of 16 bits (trainer.precision bf16-mixed) or up to {UNROLLED} streams"
        ) from error
    return gradient


def learn(joined: Tensor, g: Tensor, phi: Tensor) -> Tensor:
    """Partial sums [ranges, K, n C] of the gradient of phi. Many rows of it do not fit beside several streams: then these count as one wide one."""
    M, n, C = joined.shape
    K = phi.shape[0]
    if M % 8 == 0 and wide_fused.takes(joined):
        return wide_fused.learn(joined, g, K)
    if n > UNROLLED:
        n, C = 1, n * C
    tile = tiles.learn_tile(g.shape[0], n, C, M, joined.element_size())
    extent, ranges = shares(M, tile.tokens, tile.parts)
    dphi = torch.empty(ranges, K, n * C, device=joined.device, dtype=torch.float32)
    gather.learn_kernel[(cdiv(C, tile.columns), ranges)](
        joined,
        g,
        dphi,
        M,
        extent,
        n=n,
        C=C,
        K=K,
        KP=g.shape[0],
        BT=tile.tokens,
        BC=tile.columns,
        STAGES=tile.stages,
        num_warps=tile.warps,
    )
    return dphi


def scatter_gradient(
    plan: Boundary,
    x: Tensor,
    y: Tensor,
    post: Tensor,
    res: Tensor | None,
    gradient: Tensor,
    read_back: tuple[Tensor | None, ...] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The gradients of x, y, post and res from that of x'; ``read_back`` (du, v, pre, weight, norm) adds what the read returns to the latter."""
    M, n, C = x.shape
    dx, dy = torch.empty_like(x), torch.empty_like(y)
    dpost, dres = torch.empty_like(post), torch.empty_like(res) if res is not None else None
    tile = tiles.scatter_tile(n, C)
    du, v, pre, weight, norm = read_back or (None, None, None, None, None)
    scatter.scatter_kernel[(cdiv(M, tile.tokens),)](
        x,
        y,
        post,
        res,
        gradient,
        du,
        v,
        pre,
        weight,
        norm,
        dx,
        dy,
        dpost,
        dres,
        M,
        n=n,
        C=C,
        MIXES=plan.mixes,
        READS=du is not None,
        NORMS=norm is not None,
        WEIGHS=norm is not None and weight is not None,
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
) -> Tensor:
    """Fill g [KP, M] and q; returns partial sums [2 K, programs] of the gradients of every coefficient's scale and bias."""
    KP, M = g.shape
    K = bias.numel()
    tile = tiles.gates_tile()
    programs = cdiv(M, tile.tokens)
    mixes = not plan.streamwise and 2 * n < K
    apart = mixes and n > UNROLLED
    partial = torch.empty(2 * K, programs, device=g.device, dtype=torch.float32)
    scratch = share = None
    if mixes:
        pairs = max(1, plan.iterations - 1) if dres is not None else 1
        scratch = torch.empty(pairs, 2 * n, M, device=g.device, dtype=torch.float32)
    if apart:
        share = torch.zeros(M, device=g.device, dtype=torch.float32)
        if dres is None:
            partial[2 * n : K] = 0
            partial[K + 2 * n :] = 0
            g[2 * n : K] = 0
        else:
            wide_tile = tiles.wide_tile()
            wide_sinkhorn.wide_mixing_backward_kernel[(programs,)](
                kept,
                scale,
                bias,
                dres,
                scratch,
                g,
                share,
                partial,
                M,
                plan.iterations,
                programs,
                programs,
                n=n,
                K=K,
                ITERATES=plan.iterations > 0,
                BT=wide_tile.tokens,
                num_warps=wide_tile.warps,
            )
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
            kept,
            scale,
            found_dpre,
            dpre,
            dpost,
            dres,
            g,
            q,
            partial,
            M,
            programs,
            TANH=plan.gates == "hc-tanh",
            **common,
        )
    else:
        gates.mhc_gates_backward_kernel[(programs,)](
            kept,
            scale,
            bias,
            found_dpre,
            dpre,
            dpost,
            dres,
            scratch,
            share,
            g,
            q,
            partial,
            M,
            programs,
            plan.iterations,
            MIXES=mixes,
            SPLIT_MIXING=apart,
            ITERATES=plan.iterations > 0,
            **common,
        )
    return partial


def narrowed(phi: Tensor, dtype: torch.dtype) -> Tensor:
    """phi as the slab kernel multiplies with it: bf16 beside bf16 streams, else float32."""
    return phi.to(torch.bfloat16) if dtype == torch.bfloat16 else phi.float()
