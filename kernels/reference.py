"""The definition of every operation in plain torch: exact in float64, differentiable by autograd, no shortcuts.

Notation (mHC, arXiv 2512.24880): a token carries n streams of width C, ``x[..., n, C]``. A sublayer F reads
``u = sum_j pre[j] x[j]`` and writes ``x'[o] = sum_i res[o, i] x[i] + post[o] F(u)``; ``res`` is indexed [out, in] as applied.
Coefficients are computed in float32 (float64 for float64 streams); streams keep their own dtype and are rounded once, on output.
"""

from typing import Literal

import torch
from torch import Tensor

Order = Literal["columns-first", "rows-first"]
Start = Literal["exp", "softmax"]


def compute_dtype(x: Tensor) -> torch.dtype:
    """float64 for float64 input, else float32: the dtype coefficients and accumulations use."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def rms_norm(x: Tensor, weight: Tensor | None, eps: float = 1e-6) -> Tensor:
    """RMSNorm over the last axis (Zhang & Sennrich 2019): ``x / sqrt(mean(x^2) + eps) * weight``.

    x: [..., C] any float dtype; weight: [C] or None. Returns x's shape and dtype.
    """
    wide = x.to(compute_dtype(x))
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    if weight is not None:
        normed = normed * weight.to(wide.dtype)
    return normed.to(x.dtype)


def add_rms_norm(x: Tensor, y: Tensor, weight: Tensor | None, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """The ResNet boundary: ``x' = x + y`` and the next branch's input ``rms_norm(x')``. Shapes [..., C]; returns both in x's dtype."""
    wide = x.to(compute_dtype(x)) + y.to(compute_dtype(x))
    joined = wide.to(x.dtype)
    return joined, rms_norm(joined, weight, eps)


def rotary(
    qkv: Tensor, query_weight: Tensor, key_weight: Tensor, table: Tensor | None, eps: float = 1e-6
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as attention takes them: queries and keys RMS-normalised (QK-norm, arXiv 2010.04245) and rotated by their position
    (RoPE, arXiv 2104.09864), all heads alike.

    qkv: [..., T, 3, H, D]; weights: [D]; table: cos and sin [2, >= T, D / 2], or None not to rotate. Returns three [..., T, H, D] in qkv's dtype.
    """
    wide = qkv.to(compute_dtype(qkv))
    query, key = rms_norm(wide[..., 0, :, :], query_weight, eps), rms_norm(wide[..., 1, :, :], key_weight, eps)
    if table is not None:
        query, key = rotate(query, table[:, : qkv.shape[-4], None]), rotate(key, table[:, : qkv.shape[-4], None])
    return query.to(qkv.dtype), key.to(qkv.dtype), qkv[..., 2, :, :]


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate pairs (d, d + D / 2) of x [..., D] by angles with cos and sin in table [2, ..., D / 2]; same shape and dtype."""
    cos, sin = table.to(x.dtype)
    left, right = x.chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, left * sin + right * cos], dim=-1)


def sinkhorn(
    logits: Tensor, iterations: int = 20, *, order: Order = "columns-first", start: Start = "exp", eps: float = 0.0
) -> Tensor:
    """Sinkhorn-Knopp: ``M_0 = exp(logits)``, then ``iterations`` times normalise columns and rows (mHC eq. 9).

    logits: [..., n, n] indexed [out, in]. Returns the same shape, in the compute dtype. ``order`` says which axis goes first
    (paper: columns, so rows sum to one exactly and the finite-iteration error is on the columns). ``start="softmax"`` begins from
    a row softmax plus ``eps``, as some implementations do. ``eps`` is added to each sum.

    The first pair is done on logarithms: an exponential of max-shifted logits can leave a whole row at zero. After it every sum lies
    in [1/n, n], so the rest is plain arithmetic. With ``iterations=0`` the result is ``exp(logits - max(logits))``.
    """
    logits = logits.to(compute_dtype(logits))
    first, second = (-2, -1) if order == "columns-first" else (-1, -2)
    if start == "softmax":
        matrix = torch.softmax(logits, -1) + eps
        pairs = iterations
    elif iterations == 0 or eps > 0:
        matrix = torch.exp(logits - logits.amax((-2, -1), keepdim=True))
        pairs = iterations
    else:
        log_m = logits - logits.logsumexp(first, keepdim=True)
        matrix = torch.exp(log_m - log_m.logsumexp(second, keepdim=True))
        pairs = iterations - 1
    for _ in range(pairs):
        matrix = matrix / (matrix.sum(first, keepdim=True) + eps)
        matrix = matrix / (matrix.sum(second, keepdim=True) + eps)
    return matrix


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
) -> tuple[Tensor, Tensor, Tensor | None]:
    """mHC's input-dependent coefficients (eqs. 7-8, 14-19): ``Ht = alpha * (vec(x) phi^T) / r + bias``, ``r = sqrt(mean(vec(x)^2) + eps)``.

    x: [..., n, C]; phi: [n*n + 2n, n*C] with rows pre, post, then res row-major [out, in]; alpha: [3]; bias: [n*n + 2n].
    Returns pre = sigmoid [..., n], post = 2 sigmoid [..., n], res = sinkhorn [..., n, n] in the compute dtype. With 2n rows in phi
    (and alpha [2]) there is no mixing and res is None, which ``mhc_post`` reads as the identity.
    """
    n = x.shape[-2]
    flat = x.flatten(-2).to(compute_dtype(x))
    with torch.autocast(x.device.type, enabled=False):
        inverse_rms = torch.rsqrt(flat.square().mean(-1, keepdim=True) + eps)
        projected = flat @ phi.to(flat.dtype).T * inverse_rms
    scaled = projected * spread(alpha, n, len(bias)).to(flat.dtype) + bias.to(flat.dtype)
    pre, post = torch.sigmoid(scaled[..., :n]), 2 * torch.sigmoid(scaled[..., n : 2 * n])
    if len(bias) == 2 * n:
        return pre, post, None
    logits = scaled[..., 2 * n :].unflatten(-1, (n, n))
    return pre, post, sinkhorn(logits, iterations, order=order, start=start, eps=sinkhorn_eps)


def spread(alpha: Tensor, n: int, rows: int) -> Tensor:
    """One scale per group of coefficients (pre, post, res) repeated over the group: [2 or 3] -> [rows]."""
    groups = [alpha[0].expand(n), alpha[1].expand(n)]
    if rows > 2 * n:
        groups.append(alpha[2].expand(rows - 2 * n))
    return torch.cat(groups)


def hc_coefficients(
    x: Tensor,
    norm_weight: Tensor | None,
    weight: Tensor | None,
    scale: Tensor | None,
    static: Tensor,
    tanh: bool = True,
    eps: float = 1e-6,
) -> tuple[Tensor, Tensor, Tensor]:
    """Hyper-Connections' coefficients (arXiv 2409.19606, eqs. 10-13), one row per stream: ``static + scale * tanh(rms_norm(x) weight^T)``.

    x: [..., n, C]; norm_weight: [C]; weight: [n + 2, C] with rows pre (A_m), post (B), then one per output stream (A_r); scale: [2] =
    (s_alpha for pre and res, s_beta for post); static: [n, n + 2], row = input stream (for post: the stream written), same columns.
    ``weight=None`` is static HC. Returns pre [..., n], post [..., n], res [..., n, n] indexed [out, in] in the compute dtype.
    """
    n = x.shape[-2]
    coefficients = static.to(compute_dtype(x)).expand(*x.shape[:-1], n + 2)
    if weight is not None:
        assert scale is not None
        normed = rms_norm(x.to(compute_dtype(x)), norm_weight, eps)
        with torch.autocast(x.device.type, enabled=False):
            dynamic = normed @ weight.to(normed.dtype).T
        dynamic = torch.tanh(dynamic) if tanh else dynamic
        scales = torch.cat([scale[:1], scale[1:], scale[:1].expand(n)]).to(normed.dtype)
        coefficients = coefficients + scales * dynamic
    return coefficients[..., 0], coefficients[..., 1], coefficients[..., 2:].transpose(-1, -2)


def mhc_pre(x: Tensor, pre: Tensor) -> Tensor:
    """The read, ``u = sum_j pre[j] x[j]``. x: [..., n, C]; pre: [..., n]. Returns [..., C] in x's dtype."""
    wide = x.to(compute_dtype(x))
    return (pre.to(wide.dtype).unsqueeze(-1) * wide).sum(-2).to(x.dtype)


def mhc_post(x: Tensor, y: Tensor, post: Tensor, res: Tensor | None) -> Tensor:
    """The write, ``x'[o] = sum_i res[o, i] x[i] + post[o] y``. x: [..., n, C]; y: [..., C]; post: [..., n]; res: [..., n, n] or None (identity).

    Returns [..., n, C] in x's dtype.
    """
    wide = x.to(compute_dtype(x))
    with torch.autocast(x.device.type, enabled=False):
        mixed = wide if res is None else res.to(wide.dtype) @ wide
    return (mixed + post.to(wide.dtype).unsqueeze(-1) * y.to(wide.dtype).unsqueeze(-2)).to(x.dtype)


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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """From one sublayer to the next: the write of l, the coefficients and the read of l + 1, and the branch's RMSNorm.

    ``post`` and ``res`` are sublayer l's; phi, alpha, bias and norm_weight [C] are l + 1's. Returns x' [..., n, C], the normalised branch
    input [..., C], and l + 1's pre, post and res.
    """
    joined = mhc_post(x, y, post, res)
    pre, next_post, next_res = mhc_coefficients(
        joined, phi, alpha, bias, iterations, eps, order=order, start=start, sinkhorn_eps=sinkhorn_eps
    )
    return joined, rms_norm(mhc_pre(joined, pre), norm_weight, norm_eps), pre, next_post, next_res


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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``mhc_boundary`` with Hyper-Connections' coefficients; ``norm_weight`` is the branch's, ``coefficient_norm_weight`` the connection's."""
    joined = mhc_post(x, y, post, res)
    pre, next_post, next_res = hc_coefficients(joined, coefficient_norm_weight, weight, scale, static, tanh, eps)
    return joined, rms_norm(mhc_pre(joined, pre), norm_weight, norm_eps), pre, next_post, next_res
