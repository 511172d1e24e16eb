"""``resbench::boundary``: everything between two branches as one autograd node, and its backward pass as another operation.

Its parts (write alone, coefficients alone, read alone) are the same node with the rest switched off. Outputs that a call does not have are
empty tensors, because a torch operation's outputs cannot be None.
"""

from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op("resbench::boundary", mutates_args=())
def boundary(
    x: Tensor,
    y: Tensor | None,
    post: Tensor | None,
    res: Tensor | None,
    pre: Tensor | None,
    phi: Tensor | None,
    scale: Tensor | None,
    bias: Tensor | None,
    weight: Tensor | None,
    gates: str,
    reads: bool,
    norms: bool,
    iterations: int,
    eps: float,
    norm_eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x [M, n, C], y [M, C], post and pre [M, n], res [M, n, n], phi [K, n C], weight [C] -> (x', u, pre, post, res, kept, inverse)."""
    from resbench.kernels.launches import forward
    from resbench.kernels.launches.plan import Boundary

    plan = Boundary(y is not None, res is not None, gates, reads, norms, iterations, eps, norm_eps)
    rest = [None if t is None else t.contiguous() for t in (y, post, res, pre, phi, scale, bias, weight)]
    with torch.cuda.device_of(x):
        out = forward.forward(plan, x.contiguous(), *rest)
    own = out.coefficients
    coefficients = (None,) * 4 if own is None else (own.pre, own.post, own.res, own.kept)
    found = (out.joined, out.u, *coefficients, out.inverse)
    joined, u, found_pre, found_post, found_res, kept, inverse = (x.new_empty(0) if t is None else t for t in found)
    return joined, u, found_pre, found_post, found_res, kept, inverse


@boundary.register_fake
def _(
    x: Tensor,
    y: Tensor | None,
    post: Tensor | None,
    res: Tensor | None,
    pre: Tensor | None,
    phi: Tensor | None,
    scale: Tensor | None,
    bias: Tensor | None,
    weight: Tensor | None,
    gates: str,
    reads: bool,
    norms: bool,
    iterations: int,
    eps: float,
    norm_eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    M, n, C = x.shape
    wide = torch.float32
    absent = [x.new_empty(0) for _ in range(7)]
    if y is not None:
        absent[0] = x.new_empty(M, n, C)
    if reads:
        absent[1] = x.new_empty(M, C)
        if norms:
            absent[6] = x.new_empty(M, dtype=wide)
    if gates != "none":
        assert phi is not None
        K = phi.shape[0]
        absent[2], absent[3] = x.new_empty(M, n, dtype=wide), x.new_empty(M, n, dtype=wide)
        if 2 * n < K:
            absent[4] = x.new_empty(M, n, n, dtype=wide)
        absent[5] = x.new_empty(K + (n if gates.startswith("hc") else 1), M, dtype=wide)
    joined, u, found_pre, found_post, found_res, kept, inverse = absent
    return joined, u, found_pre, found_post, found_res, kept, inverse


@torch.library.custom_op("resbench::boundary_backward", mutates_args=())
def boundary_backward(
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
    gates: str,
    norms: bool,
    iterations: int,
    eps: float,
    norm_eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of (x, y, post, res, pre, phi, scale, bias, weight); empty where there is none."""
    from resbench.kernels.launches import backward
    from resbench.kernels.launches.plan import Boundary

    plan = Boundary(y is not None, res is not None, gates, du is not None, norms, iterations, eps, norm_eps)
    tensors = (y, post, res, joined, pre, phi, scale, bias, weight, kept, inverse, dout, du, dpre, dpost, dres)
    rest = [None if t is None else t.contiguous() for t in tensors]
    with torch.cuda.device_of(x):
        out = backward.backward(plan, x.contiguous(), *rest)
    found = (out.x, out.y, out.post, out.res, out.pre, out.phi, out.scale, out.bias, out.weight)
    dx, dy, dp, dr, dpre_in, dphi, dscale, dbias, dweight = (x.new_empty(0) if t is None else t for t in found)
    return dx, dy, dp, dr, dpre_in, dphi, dscale, dbias, dweight


@boundary_backward.register_fake
def _(
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
    gates: str,
    norms: bool,
    iterations: int,
    eps: float,
    norm_eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    M, n, _ = x.shape
    projects = gates != "none"

    def like(tensor: Tensor | None, wanted: bool = True) -> Tensor:
        if tensor is None or not wanted:
            return x.new_empty(0)
        return torch.empty_like(tensor, memory_format=torch.contiguous_format)

    given_pre = x.new_empty(M, n, dtype=torch.float32) if not projects and du is not None else x.new_empty(0)
    return (
        like(x),
        like(y),
        like(post),
        like(res),
        given_pre,
        like(phi, projects),
        like(scale, projects),
        like(bias, projects),
        like(weight, du is not None and norms),
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, y, post, res, pre, phi, scale, bias, weight, gates, reads, norms, iterations, eps, norm_eps = inputs
    joined, _, found_pre, _, _, kept, inverse = output
    ctx.flags = gates, norms, iterations, eps, norm_eps
    ctx.present = tuple(t is not None for t in inputs[:9])
    ctx.reads = reads
    projects = gates != "none"
    ctx.save_for_backward(
        x,
        y,
        post,
        res,
        joined if y is not None and (reads or projects) else None,
        found_pre if projects else pre,
        phi,
        scale,
        bias,
        weight,
        kept if projects else None,
        inverse if reads and norms else None,
    )
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    dout, du, dpre, dpost, dres, _, _ = cotangents
    gates, norms = ctx.flags[:2]
    projects = gates != "none"
    found = torch.ops.resbench.boundary_backward(
        *ctx.saved_tensors,
        dout if ctx.present[1] else None,
        du if ctx.reads else None,
        dpre if projects else None,
        dpost if projects else None,
        dres if projects else None,
        *ctx.flags,
    )
    reached = du is not None
    wanted = (True, True, True, True, not projects and reached, projects, projects, projects, norms and reached)
    gradients = [
        gradient if here and reaches else None
        for gradient, here, reaches in zip(found, ctx.present, wanted, strict=True)
    ]
    return (*gradients, None, None, None, None, None, None)


boundary.register_autograd(_backward, setup_context=_setup)
