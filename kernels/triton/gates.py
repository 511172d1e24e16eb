"""From projections to coefficients and back, one token per lane: mHC's gates and Sinkhorn, HC's scaled tanh.

`kept` [K + SQUARES, M] holds what the backward pass needs, token-contiguous: the normalised projections ``projected / rms`` and the inverse
RMS. The backward writes ``g`` [KP, M] = d loss / d (projection of x'), q = the coefficient with which the norm returns x' itself, and per program
the partial sums of the gradients of scale and bias, added later in a fixed order. With SPLIT_MIXING the mixing coefficients are left to
`wide_sinkhorn.py`.
"""
# mypy: ignore-errors
# (Triton's language in Python's syntax: tuples grow, arguments have no annotations.)

import triton
import triton.language as tl

from resbench.kernels.triton.sinkhorn import sinkhorn, sinkhorn_backward


@triton.constexpr_function
def group_of(k, n):
    """Which of alpha's entries scales mHC's coefficient k: 0 pre, 1 post, 2 res."""
    return int(k >= n) + int(k >= 2 * n)


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def tanh(x):
    """Accurate near zero as well: (1 - e) / (1 + e) with e = exp(-2|x|), by its odd series below 0.02."""
    size = tl.abs(x)
    e = tl.exp(-2.0 * size)
    far = (1.0 - e) / (1.0 + e)
    square = x * x
    near = size * (1.0 - square * (1.0 / 3.0 - square * (2.0 / 15.0)))
    value = tl.where(size < 0.02, near, far)
    return tl.where(x < 0, -value, value)


@triton.jit
def normalise(
    projected_ptr,  # [SPLITS, M, KP]
    squares_ptr,  # [SPLITS, SQUARES, M]
    kept_ptr,  # [K + SQUARES, M], written
    rows,
    live,
    M,
    eps,
    width,  # numbers behind one sum of squares
    K: tl.constexpr,
    KP: tl.constexpr,
    SPLITS: tl.constexpr,
    SQUARES: tl.constexpr,
):
    """Add up the splits, divide by the RMS and keep the result, for this program to read again a coefficient at a time."""
    for s in tl.static_range(SQUARES):
        square = tl.load(squares_ptr + s * M + rows, mask=live, other=1.0)
        for split in tl.static_range(1, SPLITS):
            square += tl.load(squares_ptr + (split * SQUARES + s) * M + rows, mask=live, other=0.0)
        tl.store(kept_ptr + (K + s) * M + rows, 1.0 / tl.sqrt(square / width + eps), mask=live)
    tl.debug_barrier()  # another thread of this program may read what this one stored
    for first in tl.static_range(0, K, 32):
        k = first + tl.arange(0, 32 if KP >= 32 else KP)
        mask = live[:, None] & (k < K)[None, :]
        total = tl.load(projected_ptr + rows[:, None] * KP + k[None, :], mask=mask, other=0.0)
        for split in tl.static_range(1, SPLITS):
            total += tl.load(projected_ptr + (split * M + rows[:, None]) * KP + k[None, :], mask=mask, other=0.0)
        stream = k // (K // SQUARES)
        inverse = tl.load(kept_ptr + (K + stream[None, :]) * M + rows[:, None], mask=mask, other=0.0)
        tl.store(kept_ptr + k[None, :] * M + rows[:, None], total * inverse, mask=mask)
    tl.debug_barrier()


@triton.jit(do_not_specialize=["M", "C", "iterations"])
def mhc_gates_kernel(
    projected_ptr,  # [SPLITS, M, KP]
    squares_ptr,  # [SPLITS, 1, M]
    alpha_ptr,
    bias_ptr,
    pre_ptr,
    post_ptr,
    res_ptr,
    kept_ptr,  # [K + 1, M], written
    M,
    iterations,
    eps,
    C,
    n: tl.constexpr,
    K: tl.constexpr,
    KP: tl.constexpr,
    SPLITS: tl.constexpr,
    MIXES: tl.constexpr,
    SPLIT_MIXING: tl.constexpr,
    ITERATES: tl.constexpr,
    BT: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BT + tl.arange(0, BT)
    live = rows < M
    M64 = M.to(tl.int64)
    normalise(projected_ptr, squares_ptr, kept_ptr, rows, live, M64, eps, n * C, K, KP, SPLITS, 1)
    found = ()  # all loads before the first use, so that they overlap
    for k in tl.static_range(2 * n if SPLIT_MIXING else K):
        found = found + (tl.load(kept_ptr + k * M64 + rows, mask=live, other=0.0),)
    logits = ()
    for k in tl.static_range(2 * n if SPLIT_MIXING else K):
        value = tl.load(alpha_ptr + group_of(k, n)).to(tl.float32) * found[k] + tl.load(bias_ptr + k).to(tl.float32)
        if k < n:
            tl.store(pre_ptr + rows * n + k, sigmoid(value), mask=live)
        elif k < 2 * n:
            tl.store(post_ptr + rows * n + (k - n), 2.0 * sigmoid(value), mask=live)
        else:
            logits = logits + (value,)
    if MIXES and not SPLIT_MIXING:
        matrix = sinkhorn(logits, iterations, n, ITERATES)
        for e in tl.static_range(n * n):
            tl.store(res_ptr + rows * (n * n) + e, matrix[e], mask=live)


@triton.jit(do_not_specialize=["M", "C", "iterations", "parts"])
def mhc_gates_backward_kernel(
    kept_ptr,  # [K + 1, M]
    alpha_ptr,
    bias_ptr,
    dpre_ptr,  # [n, M], from the read
    outer_dpre_ptr,  # [M, n], from whoever else used pre (OUTER)
    dpost_ptr,  # [M, n]
    dres_ptr,  # [M, n, n]
    sums_ptr,  # scratch [iterations - 1, 2n, M]
    share_ptr,  # [M], what the mixing coefficients add to q (SPLIT_MIXING with MIXED)
    g_ptr,  # [KP, M], written
    q_ptr,  # [1, M], written
    partial_ptr,  # [2 K, parts] written: d alpha per coefficient, then d bias
    M,
    parts,
    iterations,
    C,
    n: tl.constexpr,
    K: tl.constexpr,
    KP: tl.constexpr,
    MIXES: tl.constexpr,
    SPLIT_MIXING: tl.constexpr,
    ITERATES: tl.constexpr,
    READS: tl.constexpr,
    OUTER: tl.constexpr,
    POSTS: tl.constexpr,
    MIXED: tl.constexpr,
    BT: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BT + tl.arange(0, BT)
    live = rows < M
    M64 = M.to(tl.int64)
    OWN: tl.constexpr = 2 * n if SPLIT_MIXING else K
    inverse = tl.load(kept_ptr + K * M64 + rows, mask=live, other=0.0)
    kept = ()  # all loads before the first use, so that they overlap
    incoming = ()
    for k in tl.static_range(OWN):
        kept = kept + (tl.load(kept_ptr + k * M64 + rows, mask=live, other=0.0),)
        d = tl.zeros([BT], tl.float32)
        if k < n:
            if READS:
                d += tl.load(dpre_ptr + k * M64 + rows, mask=live, other=0.0)
            if OUTER:
                d += tl.load(outer_dpre_ptr + rows * n + k, mask=live, other=0.0)
        elif k < 2 * n:
            if POSTS:
                d += tl.load(dpost_ptr + rows * n + (k - n), mask=live, other=0.0)
        else:
            if MIXED:
                d += tl.load(dres_ptr + rows * (n * n) + (k - 2 * n), mask=live, other=0.0)
        incoming = incoming + (d,)
    gradient = ()
    logits = ()
    dmatrix = ()
    for k in tl.static_range(OWN):
        value = tl.load(alpha_ptr + group_of(k, n)).to(tl.float32) * kept[k] + tl.load(bias_ptr + k).to(tl.float32)
        if k < 2 * n:
            gate = sigmoid(value)
            gradient = gradient + (incoming[k] * (1.0 if k < n else 2.0) * gate * (1.0 - gate),)
        else:
            logits = logits + (value,)
            dmatrix = dmatrix + (incoming[k],)
    if MIXES and not SPLIT_MIXING:
        if MIXED:
            dmatrix = sinkhorn_backward(logits, dmatrix, sums_ptr + rows, M64, live, iterations, n, ITERATES)
        gradient = gradient + dmatrix
    share = tl.zeros([BT], tl.float32)
    if SPLIT_MIXING and MIXED:
        share += tl.load(share_ptr + rows, mask=live, other=0.0)
    for k in tl.static_range(OWN):
        scaled = gradient[k] * tl.load(alpha_ptr + group_of(k, n)).to(tl.float32)
        share += scaled * kept[k]
        tl.store(g_ptr + k * M64 + rows, (scaled * inverse).to(g_ptr.dtype.element_ty), mask=live)
        counted = tl.where(live, gradient[k], 0.0)
        tl.store(partial_ptr + k * parts + tl.program_id(0), tl.sum(counted * kept[k], 0))
        tl.store(partial_ptr + (K + k) * parts + tl.program_id(0), tl.sum(counted, 0))
    for k in tl.static_range(K, KP):
        tl.store(g_ptr + k * M64 + rows, tl.zeros([BT], g_ptr.dtype.element_ty), mask=live)
    tl.store(q_ptr + rows, -share * inverse * inverse / (n * C), mask=live)


@triton.jit(do_not_specialize=["M", "C"])
def hc_gates_kernel(
    projected_ptr,  # [SPLITS, M, KP], row j (n + 2) + c: stream j, coefficient c (pre, post, then one per output stream)
    squares_ptr,  # [SPLITS, n, M]
    scale_ptr,  # [2]
    static_ptr,  # [n, n + 2]
    pre_ptr,
    post_ptr,
    res_ptr,
    kept_ptr,  # [K + n, M], written
    M,
    eps,
    C,
    n: tl.constexpr,
    K: tl.constexpr,
    KP: tl.constexpr,
    SPLITS: tl.constexpr,
    TANH: tl.constexpr,
    BT: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BT + tl.arange(0, BT)
    live = rows < M
    M64 = M.to(tl.int64)
    normalise(projected_ptr, squares_ptr, kept_ptr, rows, live, M64, eps, C, K, KP, SPLITS, n)
    for j in tl.static_range(n):
        for c in tl.static_range(n + 2):
            k = j * (n + 2) + c
            normed = tl.load(kept_ptr + k * M64 + rows, mask=live, other=0.0)
            dynamic = tanh(normed) if TANH else normed
            value = (
                tl.load(static_ptr + k).to(tl.float32)
                + tl.load(scale_ptr + (1 if c == 1 else 0)).to(tl.float32) * dynamic
            )
            if c == 0:
                tl.store(pre_ptr + rows * n + j, value, mask=live)
            elif c == 1:
                tl.store(post_ptr + rows * n + j, value, mask=live)
            else:
                tl.store(res_ptr + rows * (n * n) + (c - 2) * n + j, value, mask=live)


@triton.jit(do_not_specialize=["M", "C", "parts"])
def hc_gates_backward_kernel(
    kept_ptr,  # [K + n, M]
    scale_ptr,
    dpre_ptr,  # [n, M]
    outer_dpre_ptr,  # [M, n]
    dpost_ptr,  # [M, n]
    dres_ptr,  # [M, n, n]
    g_ptr,  # [KP, M], written
    q_ptr,  # [n, M], written
    partial_ptr,  # [2 K, parts], written: d scale per coefficient, then d static
    M,
    parts,
    C,
    n: tl.constexpr,
    K: tl.constexpr,
    KP: tl.constexpr,
    TANH: tl.constexpr,
    READS: tl.constexpr,
    OUTER: tl.constexpr,
    POSTS: tl.constexpr,
    MIXED: tl.constexpr,
    BT: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BT + tl.arange(0, BT)
    live = rows < M
    M64 = M.to(tl.int64)
    for j in tl.static_range(n):
        inverse = tl.load(kept_ptr + (K + j) * M64 + rows, mask=live, other=0.0)
        share = tl.zeros([BT], tl.float32)
        for c in tl.static_range(n + 2):
            k = j * (n + 2) + c
            normed = tl.load(kept_ptr + k * M64 + rows, mask=live, other=0.0)
            d = tl.zeros([BT], tl.float32)
            if c == 0:
                if READS:
                    d += tl.load(dpre_ptr + j * M64 + rows, mask=live, other=0.0)
                if OUTER:
                    d += tl.load(outer_dpre_ptr + rows * n + j, mask=live, other=0.0)
            elif c == 1:
                if POSTS:
                    d += tl.load(dpost_ptr + rows * n + j, mask=live, other=0.0)
            else:
                if MIXED:
                    d += tl.load(dres_ptr + rows * (n * n) + (c - 2) * n + j, mask=live, other=0.0)
            dynamic = tanh(normed) if TANH else normed
            slope = (1.0 - dynamic * dynamic) if TANH else tl.full([BT], 1.0, tl.float32)
            scaled = d * tl.load(scale_ptr + (1 if c == 1 else 0)).to(tl.float32) * slope
            share += scaled * normed
            tl.store(g_ptr + k * M64 + rows, (scaled * inverse).to(g_ptr.dtype.element_ty), mask=live)
            tl.store(partial_ptr + k * parts + tl.program_id(0), tl.sum(tl.where(live, d * dynamic, 0.0), 0))
            tl.store(partial_ptr + (K + k) * parts + tl.program_id(0), tl.sum(tl.where(live, d, 0.0), 0))
        tl.store(q_ptr + j * M64 + rows, -share * inverse * inverse / C, mask=live)
    for k in tl.static_range(K, KP):
        tl.store(g_ptr + k * M64 + rows, tl.zeros([BT], g_ptr.dtype.element_ty), mask=live)


@triton.jit(do_not_specialize=["M", "iterations"])
def sinkhorn_kernel(logits_ptr, out_ptr, M, iterations, n: tl.constexpr, ITERATES: tl.constexpr, BT: tl.constexpr):
    """logits [M, n, n] -> matrices [M, n, n]."""
    rows = tl.program_id(0).to(tl.int64) * BT + tl.arange(0, BT)
    live = rows < M
    logits = ()
    for e in tl.static_range(n * n):
        logits = logits + (tl.load(logits_ptr + rows * (n * n) + e, mask=live, other=0.0).to(tl.float32),)
    matrix = sinkhorn(logits, iterations, n, ITERATES)
    for e in tl.static_range(n * n):
        tl.store(out_ptr + rows * (n * n) + e, matrix[e], mask=live)


@triton.jit(do_not_specialize=["M", "iterations"])
def sinkhorn_backward_kernel(
    logits_ptr,
    dout_ptr,
    sums_ptr,
    dlogits_ptr,
    M,
    iterations,
    n: tl.constexpr,
    ITERATES: tl.constexpr,
    BT: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BT + tl.arange(0, BT)
    live = rows < M
    logits = ()
    gradient = ()
    for e in tl.static_range(n * n):
        logits = logits + (tl.load(logits_ptr + rows * (n * n) + e, mask=live, other=0.0).to(tl.float32),)
        gradient = gradient + (tl.load(dout_ptr + rows * (n * n) + e, mask=live, other=0.0).to(tl.float32),)
    found = sinkhorn_backward(logits, gradient, sums_ptr + rows, M.to(tl.int64), live, iterations, n, ITERATES)
    for e in tl.static_range(n * n):
        tl.store(dlogits_ptr + rows * (n * n) + e, found[e].to(dlogits_ptr.dtype.element_ty), mask=live)
