"""mHC's coefficients of a block of tokens from partial projections, inside the program that completed them; one token per lane.

The arithmetic is that of `kernels/triton/gates.py`; Sinkhorn is the same function, compiled for both languages.
"""
# mypy: ignore-errors
# (Gluon's language in Python's syntax: tuples grow, arguments have no annotations.)

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from resbench.kernels.triton.gates import group_of, sigmoid
from resbench.kernels.triton.sinkhorn import sinkhorn


@gluon.jit
def mhc_gates(
    projected_ptr,  # [PARTS, M, KP]
    squares_ptr,  # [PARTS, 1, M]
    alpha_ptr,
    bias_ptr,
    pre_ptr,  # [M, n], written
    post_ptr,  # [M, n], written
    res_ptr,  # [M, n, n], written (K > 2 n)
    kept_ptr,  # [K + 1, M], written
    base,
    M,
    iterations,
    eps,
    BT: gl.constexpr,
    n: gl.constexpr,
    C: gl.constexpr,
    K: gl.constexpr,
    KP: gl.constexpr,
    PARTS: gl.constexpr,
    ITERATES: gl.constexpr,
):
    across: gl.constexpr = gl.BlockedLayout([1, 4], [128 // KP, KP // 4], [4, 1], [1, 0])
    lanes: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    M64 = M.to(gl.int64)
    row = base + gl.arange(0, BT, layout=gl.SliceLayout(1, across))
    k = gl.arange(0, KP, layout=gl.SliceLayout(0, across))
    at = projected_ptr + row[:, None] * KP + k[None, :]
    filled = (row < M)[:, None] & (k < K)[None, :]
    total = gl.load(at, mask=filled, other=0.0)
    for part in gl.static_range(1, PARTS):
        total += gl.load(at + part * M64 * KP, mask=filled, other=0.0)
    passing = gl.allocate_shared_memory(gl.float32, [KP, BT], gl.SwizzledSharedLayout(1, 1, 1, [1, 0]))
    passing.store(gl.permute(total, (1, 0)))
    one_by_one = passing._reinterpret(gl.float32, [KP, BT], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    rows = base + gl.arange(0, BT, layout=lanes)
    live = rows < M
    square = gl.load(squares_ptr + rows, mask=live, other=1.0)
    for part in gl.static_range(1, PARTS):
        square += gl.load(squares_ptr + part * M64 + rows, mask=live, other=0.0)
    inverse = 1.0 / gl.sqrt(square / (n * C) + eps)
    gl.store(kept_ptr + K * M64 + rows, inverse, mask=live)
    logits = ()
    for j in gl.static_range(K):
        normed = one_by_one.index(j).load(lanes) * inverse
        gl.store(kept_ptr + j * M64 + rows, normed, mask=live)
        value = gl.load(alpha_ptr + group_of(j, n)).to(gl.float32) * normed + gl.load(bias_ptr + j).to(gl.float32)
        if j < n:
            gl.store(pre_ptr + rows * n + j, sigmoid(value), mask=live)
        elif j < 2 * n:
            gl.store(post_ptr + rows * n + (j - n), 2.0 * sigmoid(value), mask=live)
        else:
            logits = logits + (value,)
    if 2 * n < K:
        matrix = sinkhorn(logits, iterations, n, ITERATES)
        for e in gl.static_range(n * n):
            gl.store(res_ptr + rows * (n * n) + e, matrix[e], mask=live)
