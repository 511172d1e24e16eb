"""Partial sums added in a fixed order: what makes parameter gradients the same bits every time without atomics."""
# mypy: ignore-errors
# (Triton's language in Python's syntax: tuples grow, arguments have no annotations.)

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["parts", "size"])
def total_kernel(partial_ptr, out_ptr, parts, size, BP: tl.constexpr, BLOCK: tl.constexpr):
    """Column sums of partial [parts, size] float32 -> out [size] in its dtype."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BP, BLOCK], tl.float32)
    for start in range(0, parts, BP):
        part = start + tl.arange(0, BP)
        inside = (part < parts)[:, None] & (at < size)[None, :]
        total += tl.load(partial_ptr + part[:, None] * size.to(tl.int64) + at[None, :], mask=inside, other=0.0)
    tl.store(out_ptr + at, tl.sum(total, 0).to(out_ptr.dtype.element_ty), mask=at < size)


@triton.jit(do_not_specialize=["parts"])
def gate_totals_kernel(
    partial_ptr,  # [parts, 2 K] float32: per coefficient, the gradient of its scale, then of its bias
    dscale_ptr,  # [2 or 3], written
    dbias_ptr,  # [K], written
    parts,
    n: tl.constexpr,
    K: tl.constexpr,
    KP: tl.constexpr,
    GROUPS: tl.constexpr,
    STREAMWISE: tl.constexpr,  # HC's order of coefficients; else mHC's
    BP: tl.constexpr,
):
    k = tl.arange(0, KP)
    scales = tl.zeros([BP, KP], tl.float32)
    biases = tl.zeros([BP, KP], tl.float32)
    for start in range(0, parts, BP):
        part = start + tl.arange(0, BP)
        inside = (part < parts)[:, None] & (k < K)[None, :]
        at = part[:, None] * (2 * K) + k[None, :]
        scales += tl.load(partial_ptr + at, mask=inside, other=0.0)
        biases += tl.load(partial_ptr + at + K, mask=inside, other=0.0)
    tl.store(dbias_ptr + k, tl.sum(biases, 0).to(dbias_ptr.dtype.element_ty), mask=k < K)
    scale = tl.sum(scales, 0)
    if STREAMWISE:
        group = (k % (n + 2) == 1).to(tl.int32)
    else:
        group = (k >= n).to(tl.int32) + (k >= 2 * n).to(tl.int32)
    for s in tl.static_range(GROUPS):
        tl.store(dscale_ptr + s, tl.sum(tl.where(group == s, scale, 0.0), 0).to(dscale_ptr.dtype.element_ty))
