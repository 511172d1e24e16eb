"""The write, ``x'[o] = sum_i res[o, i] x[i] + post[o] y``, and what the next read needs of x': its projection on phi and its squares.

The write owns BT whole tokens per program and walks their columns with all n streams of the tile in registers. The projection owns BT tokens
and a range of columns, and runs on tensor cores; phi comes as TERMS bf16 parts that add up to it, so that the products carry 8 bits of it
each, or as float32 with three TF32 products for other dtypes. Both in one kernel cost more than x' read twice: the tile would change its layout
between the mixing and the product (NOTES.md).
"""
# mypy: ignore-errors
# (Triton's language in Python's syntax: tuples grow, arguments have no annotations.)

import triton
import triton.language as tl

from resbench.kernels.triton.product import dot


@triton.jit(do_not_specialize=["total"])
def split_kernel(phi_ptr, parts_ptr, total, TERMS: tl.constexpr, BLOCK: tl.constexpr):
    """phi [total] float32 -> parts [TERMS, total] bf16 that add up to phi to 8 bits each."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    phi = tl.load(phi_ptr + at, mask=at < total, other=0.0).to(tl.float32)
    for term in tl.static_range(TERMS):
        part = phi.to(tl.bfloat16)
        tl.store(parts_ptr + term * total.to(tl.int64) + at, part, mask=at < total)
        phi -= part.to(tl.float32)


@triton.jit(do_not_specialize=["M"])
def write_kernel(
    x_ptr,  # [M, n, C]
    y_ptr,  # [M, C]
    post_ptr,  # [M, n] float32
    res_ptr,  # [M, n, n] float32
    joined_ptr,  # [M, n, C], written
    M,
    n: tl.constexpr,
    C: tl.constexpr,
    MIXES: tl.constexpr,
    BT: tl.constexpr,
    BC: tl.constexpr,
    STAGES: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BT + tl.arange(0, BT)
    live = rows < M
    post = ()
    res = ()
    for o in tl.static_range(n):
        post = post + (tl.load(post_ptr + rows * n + o, mask=live, other=0.0)[:, None],)
    if MIXES:
        for e in tl.static_range(n * n):
            res = res + (tl.load(res_ptr + rows * (n * n) + e, mask=live, other=0.0)[:, None],)
    for start in tl.range(0, C, BC, num_stages=STAGES):
        columns = start + tl.arange(0, BC)
        inside = live[:, None]
        if C % BC != 0:
            inside = inside & (columns < C)[None, :]
        at = rows[:, None] * (n * C) + columns[None, :]
        streams = ()
        for i in tl.static_range(n):
            streams = streams + (tl.load(x_ptr + at + i * C, mask=inside, other=0.0).to(tl.float32),)
        y = tl.load(y_ptr + rows[:, None] * C + columns[None, :], mask=inside, other=0.0).to(tl.float32)
        for o in tl.static_range(n):
            total = post[o] * y
            if MIXES:
                for i in tl.static_range(n):
                    total += res[o * n + i] * streams[i]
            else:
                total += streams[o]
            tl.store(joined_ptr + at + o * C, total.to(joined_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["M"])
def project_kernel(
    x_ptr,  # [M, n, C]
    phi_ptr,  # [TERMS, K, n C] bf16 or, without TERMS, [K, n C] float32
    projected_ptr,  # [splits, M, KP] float32, written
    squares_ptr,  # [splits, SQUARES, M] float32, written
    M,
    n: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    KP: tl.constexpr,  # K rounded up to what a tensor-core product takes
    SPAN: tl.constexpr,  # columns of one split
    TERMS: tl.constexpr,
    SQUARES: tl.constexpr,  # 1: over all streams; n: one sum per stream
    BT: tl.constexpr,
    BC: tl.constexpr,
    STAGES: tl.constexpr,
):
    split = tl.program_id(1)
    rows = tl.program_id(0).to(tl.int64) * BT + tl.arange(0, BT)
    live = rows < M
    k = tl.arange(0, KP)
    projected = tl.zeros([BT, KP], tl.float32)
    squares = ()
    for _ in tl.static_range(SQUARES):
        squares = squares + (tl.zeros([BT, BC], tl.float32),)
    first = split * SPAN
    for start in tl.range(first, tl.minimum(first + SPAN, C), BC, num_stages=STAGES):
        columns = start + tl.arange(0, BC)
        inside = live[:, None]
        filled = k[:, None] < K
        if C % BC != 0:
            inside = inside & (columns[None, :] < C)
            filled = filled & (columns[None, :] < C)
        at = rows[:, None] * (n * C) + columns[None, :]
        found = ()
        one = squares[0]
        for j in tl.static_range(n):
            x = tl.load(x_ptr + at + j * C, mask=inside, other=0.0)
            wide = x.to(tl.float32)
            if SQUARES == 1:
                one += wide * wide
            else:
                found = found + (squares[j] + wide * wide,)
            phi_at = k[:, None] * (n * C) + j * C + columns[None, :]
            if TERMS > 0:
                for term in tl.static_range(TERMS):
                    phi = tl.load(phi_ptr + term * (K * n * C) + phi_at, mask=filled, other=0.0)
                    projected = dot(x, tl.trans(phi), projected)
            else:
                phi = tl.load(phi_ptr + phi_at, mask=filled, other=0.0)
                projected = dot(wide, tl.trans(phi).to(tl.float32), projected)
        if SQUARES == 1:
            squares = (one,)
        else:
            squares = found
    tl.store(projected_ptr + (split * M + rows[:, None]) * KP + k[None, :], projected, mask=live[:, None])
    for s in tl.static_range(SQUARES):
        tl.store(squares_ptr + (split * SQUARES + s) * M + rows, tl.sum(squares[s], 1), mask=live)
