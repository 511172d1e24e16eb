"""ResNet's boundary: ``x' = x + y`` and RMSNorm(x') in one pass forward, one pass backward. Without y it is RMSNorm alone.

The backward pass runs one program per share of the rows, so the weight's gradient leaves as one partial sum per program, added in a fixed order.
"""
# mypy: ignore-errors
# (Triton's language in Python's syntax: tuples grow, arguments have no annotations.)

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["M"])
def add_norm_kernel(
    x_ptr,  # [M, C]
    y_ptr,
    weight_ptr,
    joined_ptr,  # [M, C], written (ADDS)
    u_ptr,  # [M, C], written
    M,
    eps,
    C: tl.constexpr,
    ADDS: tl.constexpr,
    WEIGHS: tl.constexpr,
    BT: tl.constexpr,
    BC: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BT + tl.arange(0, BT)
    columns = tl.arange(0, BC)
    inside = (rows < M)[:, None] & (columns < C)[None, :]
    at = rows[:, None] * C + columns[None, :]
    x = tl.load(x_ptr + at, mask=inside, other=0.0)
    if ADDS:
        x = (x.to(tl.float32) + tl.load(y_ptr + at, mask=inside, other=0.0).to(tl.float32)).to(x_ptr.dtype.element_ty)
        tl.store(joined_ptr + at, x, mask=inside)
    x = x.to(tl.float32)
    u = x * (1.0 / tl.sqrt(tl.sum(x * x, 1) / C + eps))[:, None]
    if WEIGHS:
        u = u * tl.load(weight_ptr + columns, mask=columns < C, other=0.0).to(tl.float32)[None, :]
    tl.store(u_ptr + at, u.to(u_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["M", "SHARE"])
def add_norm_backward_kernel(
    joined_ptr,  # [M, C]
    weight_ptr,
    dout_ptr,  # [M, C], the gradient of x' from outside (OUT)
    du_ptr,  # [M, C]
    dx_ptr,  # [M, C], written
    dweight_ptr,  # [programs, C] float32, written
    M,
    SHARE,  # rows per program, a multiple of BT
    eps,
    C: tl.constexpr,
    OUT: tl.constexpr,
    WEIGHS: tl.constexpr,
    BT: tl.constexpr,
    BC: tl.constexpr,
    STAGES: tl.constexpr,
):
    part = tl.program_id(0)
    columns = tl.arange(0, BC)
    within = columns < C
    weight = tl.full([1, BC], 1.0, tl.float32)
    if WEIGHS:
        weight = tl.load(weight_ptr + columns, mask=within, other=0.0).to(tl.float32)[None, :]
    dweight = tl.zeros([BT, BC], tl.float32)
    for start in tl.range(part * SHARE, tl.minimum((part + 1) * SHARE, M), BT, num_stages=STAGES):
        rows = (start + tl.arange(0, BT)).to(tl.int64)
        inside = (rows < M)[:, None] & within[None, :]
        at = rows[:, None] * C + columns[None, :]
        x = tl.load(joined_ptr + at, mask=inside, other=0.0).to(tl.float32)
        du = tl.load(du_ptr + at, mask=inside, other=0.0).to(tl.float32)
        inverse = (1.0 / tl.sqrt(tl.sum(x * x, 1) / C + eps))[:, None]
        normed = x * inverse
        dweight += du * normed
        du = du * weight
        dx = (du - normed * (tl.sum(du * normed, 1) / C)[:, None]) * inverse
        if OUT:
            dx += tl.load(dout_ptr + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=inside)
    if WEIGHS:
        tl.store(dweight_ptr + part * C + columns, tl.sum(dweight, 0), mask=within)
