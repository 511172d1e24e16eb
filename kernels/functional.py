"""The operations schemes are written with: Triton kernels where they can run, plain torch elsewhere. `reference` says what each one means.

Every operation takes ``backend``: ``auto`` is Triton for CUDA tensors (and for any tensor under ``TRITON_INTERPRET=1``) and torch otherwise;
``triton`` insists on it; ``torch`` is the reference. The kernels cover n in {1, 2, 3, 4, 8} streams of bfloat16, float16 or float32 and the
paper's Sinkhorn (columns first, exp, no eps); anything else goes to torch.
"""

import functools
import math
import os
import warnings
from typing import Literal, get_args

import torch
from torch import Tensor

from resbench.kernels import reference
from resbench.kernels.launches.plan import UNROLLED
from resbench.kernels.ops.boundary import boundary
from resbench.kernels.ops.norm import add_rms_norm as add_rms_norm_op
from resbench.kernels.ops.rotary import rotary as rotary_op
from resbench.kernels.ops.sinkhorn import sinkhorn as sinkhorn_op
from resbench.kernels.reference import Order, Start

Backend = Literal["auto", "triton", "torch"]

STREAMS = (1, 2, 3, 4, 8)
"""Numbers of streams the kernels are built for: n^2 scalars per token live in registers."""

DTYPES = (torch.bfloat16, torch.float16, torch.float32)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Triton's interpreter was asked for, so the kernels run on the CPU as well. Read once, as Triton does."""


def rms_norm(x: Tensor, weight: Tensor | None, eps: float = 1e-6, *, backend: Backend = "auto") -> Tensor:
    """`reference.rms_norm`: x [..., C]. Under torch.compile ``auto`` is plain torch, which the compiler fuses with its neighbours."""
    compiled = backend == "auto" and torch.compiler.is_compiling()
    if compiled or not use_triton(x, backend) or x.shape[-1] > 16384:
        return reference.rms_norm(x, weight, eps)
    _, u = add_rms_norm_op(x.reshape(rows(x, 1), x.shape[-1]), None, weight, eps)
    return u.reshape(x.shape)


def add_rms_norm(
    x: Tensor, y: Tensor, weight: Tensor | None, eps: float = 1e-6, *, backend: Backend = "auto"
) -> tuple[Tensor, Tensor]:
    """`reference.add_rms_norm`: x, y [..., C] -> (x + y, its RMSNorm)."""
    if not use_triton(x, backend) or x.shape[-1] > 16384:
        return reference.add_rms_norm(x, y, weight, eps)
    flat = (rows(x, 1), x.shape[-1])
    joined, u = add_rms_norm_op(x.reshape(flat), y.reshape(flat), weight, eps)
    return joined.reshape(x.shape), u.reshape(x.shape)


def rotary(
    qkv: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    table: Tensor | None,
    eps: float = 1e-6,
    *,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """`reference.rotary`: qkv [..., T, 3, H, D] -> queries, keys and values [..., T, H, D]."""
    *_, T, _, H, D = qkv.shape
    if not use_triton(qkv, backend) or D > 1024 or D % 2:
        return reference.rotary(qkv, query_weight, key_weight, table, eps)
    angles = None if table is None else table[:, :T].float().contiguous()
    found = rotary_op(qkv.reshape(-1, 3, H, D), query_weight, key_weight, angles, eps)
    query, key, value = (part.reshape(*qkv.shape[:-3], H, D) for part in found)
    return query, key, value


def sinkhorn(
    logits: Tensor,
    iterations: int = 20,
    *,
    order: Order = "columns-first",
    start: Start = "exp",
    eps: float = 0.0,
    backend: Backend = "auto",
) -> Tensor:
    """`reference.sinkhorn`: logits [..., n, n] -> [..., n, n]."""
    n = logits.shape[-1]
    if not (plain(order, start, eps) and use_triton(logits, backend, n)):
        return reference.sinkhorn(logits, iterations, order=order, start=start, eps=eps)
    return sinkhorn_op(logits.reshape(rows(logits, 2), n, n), iterations).reshape(logits.shape)


def mhc_coefficients(
    x: Tensor,
    phi: Tensor,
    alpha: Tensor,
    bias: Tensor,
    iterations: int = 20,
    eps: float = 1e-6,
    *,
    order: Order = "columns-first",
    start: Start = "exp",
    sinkhorn_eps: float = 0.0,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor, Tensor | None]:
    """`reference.mhc_coefficients`: x [..., n, C] -> pre, post [..., n] and res [..., n, n] (None with 2n rows in phi)."""
    n = x.shape[-2]
    if not (plain(order, start, sinkhorn_eps) and use_triton(x, backend, n)):
        return reference.mhc_coefficients(
            x, phi, alpha, bias, iterations, eps, order=order, start=start, sinkhorn_eps=sinkhorn_eps
        )
    found = boundary(flat(x), None, None, None, None, phi, alpha, bias, None, "mhc", False, False, iterations, eps, 0.0)
    return coefficients(found, x, bias.numel() > 2 * n)


def hc_coefficients(
    x: Tensor,
    norm_weight: Tensor | None,
    weight: Tensor | None,
    scale: Tensor | None,
    static: Tensor,
    tanh: bool = True,
    eps: float = 1e-6,
    *,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """`reference.hc_coefficients`: x [..., n, C] -> pre, post [..., n] and res [..., n, n]."""
    n = x.shape[-2]
    if weight is None or not use_triton(x, backend, n):
        return reference.hc_coefficients(x, norm_weight, weight, scale, static, tanh, eps)
    phi = streamwise(weight, norm_weight, n)
    kind = "hc-tanh" if tanh else "hc-linear"
    found = boundary(flat(x), None, None, None, None, phi, scale, static, None, kind, False, False, 0, eps, 0.0)
    pre, post, res = coefficients(found, x, True)
    assert res is not None
    return pre, post, res


def mhc_pre(x: Tensor, pre: Tensor, *, backend: Backend = "auto") -> Tensor:
    """`reference.mhc_pre`: x [..., n, C], pre [..., n] -> [..., C]."""
    n, C = x.shape[-2:]
    if not use_triton(x, backend, n):
        return reference.mhc_pre(x, pre)
    found = boundary(
        flat(x),
        None,
        None,
        None,
        pre.float().reshape(rows(x, 2), n),
        None,
        None,
        None,
        None,
        "none",
        True,
        False,
        0,
        0.0,
        0.0,
    )
    return found[1].reshape(*x.shape[:-2], C)


def normed_read(
    x: Tensor, pre: Tensor, norm_weight: Tensor | None, norm_eps: float = 1e-6, *, backend: Backend = "auto"
) -> Tensor:
    """`mhc_pre` and the branch's RMSNorm in one: x [..., n, C], pre [..., n], norm_weight [C] or None -> [..., C], rounded once."""
    n, C = x.shape[-2:]
    if not use_triton(x, backend, n):
        return reference.rms_norm(reference.mhc_pre(x, pre), norm_weight, norm_eps)
    given = pre.float().reshape(rows(x, 2), n)
    found = boundary(
        flat(x), None, None, None, given, None, None, None, norm_weight, "none", True, True, 0, 0.0, norm_eps
    )
    return found[1].reshape(*x.shape[:-2], C)


def mhc_post(x: Tensor, y: Tensor, post: Tensor, res: Tensor | None, *, backend: Backend = "auto") -> Tensor:
    """`reference.mhc_post`: x [..., n, C], y [..., C], post [..., n], res [..., n, n] or None -> [..., n, C]."""
    n = x.shape[-2]
    if not use_triton(x, backend, n):
        return reference.mhc_post(x, y, post, res)
    found = boundary(*written(x, y, post, res), None, None, None, None, None, "none", False, False, 0, 0.0, 0.0)
    return found[0].reshape(x.shape)


def mhc_boundary(
    x: Tensor,
    y: Tensor,
    post: Tensor,
    res: Tensor | None,
    phi: Tensor,
    alpha: Tensor,
    bias: Tensor,
    norm_weight: Tensor | None,
    iterations: int = 20,
    eps: float = 1e-6,
    norm_eps: float = 1e-6,
    *,
    order: Order = "columns-first",
    start: Start = "exp",
    sinkhorn_eps: float = 0.0,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """`reference.mhc_boundary` -> x' [..., n, C], the normalised branch input [..., C], and the next pre, post and res."""
    n, C = x.shape[-2:]
    if not (plain(order, start, sinkhorn_eps) and use_triton(x, backend, n)):
        return reference.mhc_boundary(
            x,
            y,
            post,
            res,
            phi,
            alpha,
            bias,
            norm_weight,
            iterations,
            eps,
            norm_eps,
            order=order,
            start=start,
            sinkhorn_eps=sinkhorn_eps,
        )
    found = boundary(
        *written(x, y, post, res), None, phi, alpha, bias, norm_weight, "mhc", True, True, iterations, eps, norm_eps
    )
    return found[0].reshape(x.shape), found[1].reshape(*x.shape[:-2], C), *coefficients(found, x, bias.numel() > 2 * n)


def mhc_read(
    x: Tensor,
    phi: Tensor,
    alpha: Tensor,
    bias: Tensor,
    norm_weight: Tensor | None,
    iterations: int = 20,
    eps: float = 1e-6,
    norm_eps: float = 1e-6,
    *,
    order: Order = "columns-first",
    start: Start = "exp",
    sinkhorn_eps: float = 0.0,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """`mhc_boundary` before the first sublayer, where nothing is written yet -> the branch's normalised input [..., C], pre, post and res.

    One node of autograd for up to four streams, so that the gradient of x is written once. More of them do not fit on chip with all that and are
    two nodes; nothing is rounded to the streams' dtype between them.
    """
    n, C = x.shape[-2:]
    if n > UNROLLED or not (plain(order, start, sinkhorn_eps) and use_triton(x, backend, n)):
        pre, post, res = mhc_coefficients(
            x, phi, alpha, bias, iterations, eps, order=order, start=start, sinkhorn_eps=sinkhorn_eps, backend=backend
        )
        return normed_read(x, pre, norm_weight, norm_eps, backend=backend), pre, post, res
    found = boundary(
        flat(x), None, None, None, None, phi, alpha, bias, norm_weight, "mhc", True, True, iterations, eps, norm_eps
    )
    return found[1].reshape(*x.shape[:-2], C), *coefficients(found, x, bias.numel() > 2 * n)


def hc_boundary(
    x: Tensor,
    y: Tensor,
    post: Tensor,
    res: Tensor,
    coefficient_norm_weight: Tensor | None,
    weight: Tensor | None,
    scale: Tensor | None,
    static: Tensor,
    norm_weight: Tensor | None,
    tanh: bool = True,
    eps: float = 1e-6,
    norm_eps: float = 1e-6,
    *,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`reference.hc_boundary` -> x' [..., n, C], the normalised branch input [..., C], and the next pre, post and res."""
    n, C = x.shape[-2:]
    if not use_triton(x, backend, n):
        return reference.hc_boundary(
            x, y, post, res, coefficient_norm_weight, weight, scale, static, norm_weight, tanh, eps, norm_eps
        )
    if weight is None:  # the coefficients are the same for every token
        pre, next_post, next_res = reference.hc_coefficients(x, None, None, None, static)
        found = boundary(
            *written(x, y, post, res),
            pre.float().reshape(rows(x, 2), n),
            None,
            None,
            None,
            norm_weight,
            "none",
            True,
            True,
            0,
            0.0,
            norm_eps,
        )
    else:
        phi = streamwise(weight, coefficient_norm_weight, n)
        kind = "hc-tanh" if tanh else "hc-linear"
        found = boundary(
            *written(x, y, post, res), None, phi, scale, static, norm_weight, kind, True, True, 0, eps, norm_eps
        )
        pre, next_post, dynamic_res = coefficients(found, x, True)
        assert dynamic_res is not None
        next_res = dynamic_res
    return found[0].reshape(x.shape), found[1].reshape(*x.shape[:-2], C), pre, next_post, next_res


def use_triton(x: Tensor, backend: Backend, n: int | None = None) -> bool:
    """Whether the kernels take this call; warns once per number of streams they were not built for.

    Raises ValueError for an unknown backend, and for ``triton`` where it cannot run.
    """
    if backend not in get_args(Backend):
        raise ValueError(f"backend={backend!r}: expected one of {', '.join(get_args(Backend))}")
    if backend == "torch":
        return False
    if not (x.is_cuda or INTERPRETED):
        if backend == "triton":
            raise ValueError(
                f"backend='triton' with a tensor on {x.device}: needs a CUDA tensor, or TRITON_INTERPRET=1 in the environment"
            )
        return False
    if x.dtype not in DTYPES:
        if backend == "triton":
            raise ValueError(
                f"backend='triton' with {x.dtype}: expected bfloat16, float16 or float32; use backend='torch'"
            )
        return False
    if n is not None and n not in STREAMS:
        if not torch.compiler.is_compiling():
            warn_unsupported(n)
        return False
    return True


@functools.cache
def warn_unsupported(n: int) -> None:
    warnings.warn(
        f"no Triton kernels for {n} streams (they exist for {', '.join(map(str, STREAMS))}): using torch, which is slower",
        stacklevel=3,
    )


def plain(order: Order, start: Start, eps: float) -> bool:
    """The paper's Sinkhorn, the one the kernels compute."""
    return order == "columns-first" and start == "exp" and eps == 0.0


def rows(x: Tensor, trailing: int) -> int:
    """Number of tokens: the product of all axes but the last ``trailing``."""
    return math.prod(x.shape[:-trailing])


def flat(x: Tensor) -> Tensor:
    """[..., n, C] -> [M, n, C]."""
    return x.reshape(rows(x, 2), *x.shape[-2:])


def written(x: Tensor, y: Tensor, post: Tensor, res: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The write's operands with one axis of tokens, coefficients in float32."""
    n, C = x.shape[-2:]
    M = rows(x, 2)
    mixing = None if res is None else res.float().reshape(M, n, n)
    return flat(x), y.reshape(M, C), post.float().reshape(M, n), mixing


def coefficients(found: tuple[Tensor, ...], x: Tensor, mixes: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """pre, post and res of a boundary's outputs with x's axes."""
    n = x.shape[-2]
    lead = x.shape[:-2]
    return (
        found[2].reshape(*lead, n),
        found[3].reshape(*lead, n),
        found[4].reshape(*lead, n, n) if mixes else None,
    )


def streamwise(weight: Tensor, norm_weight: Tensor | None, n: int) -> Tensor:
    """HC's projection [n + 2, C], shared by the streams, as one of all streams: [n (n + 2), n C], zero off the diagonal blocks."""
    shared = weight.float() if norm_weight is None else weight.float() * norm_weight.float()
    blocks = torch.eye(n, device=weight.device)[:, None, :, None] * shared[None, :, None, :]
    return blocks.reshape(n * weight.shape[0], n * weight.shape[1])
