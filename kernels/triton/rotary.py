"""What stands between the product with W_qkv and attention: RMSNorm of every query and key, their rotation, and three tensors out of one.

A row is one head of one token. Both halves of its D entries are loaded side by side, since the rotation pairs entry d with d + D / 2. The backward
pass runs one program per share of the rows, so that the gradients of the norms' weights leave as partial sums, added in a fixed order.
"""
# mypy: ignore-errors
# (Triton's language in Python's syntax: tuples grow, arguments have no annotations.)

import triton
import triton.language as tl


@triton.jit
def place(start, rows_end, ROWS: tl.constexpr, H: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr):
    """Of rows start ...: their tokens, offsets of their first halves in [tokens, 3, H, D] and in [tokens, H, D], and what is inside."""
    rows = (start + tl.arange(0, ROWS)).to(tl.int64)
    d = tl.arange(0, HALF)
    tokens = rows // H
    packed = tokens * (3 * H * D) + (rows % H) * D
    inside = (rows < rows_end)[:, None] & (d < D // 2)[None, :]
    return tokens, packed[:, None] + d[None, :], rows[:, None] * D + d[None, :], inside


@triton.jit
def angles(table_ptr, tokens, T, inside, D: tl.constexpr, HALF: tl.constexpr):
    """cos and sin of every row's position: [ROWS, HALF]."""
    at = (tokens % T)[:, None] * (D // 2) + tl.arange(0, HALF)[None, :]
    return tl.load(table_ptr + at, mask=inside, other=0.0), tl.load(
        table_ptr + T * (D // 2) + at, mask=inside, other=0.0
    )


@triton.jit
def halves(ptr, at, inside, D: tl.constexpr):
    return (
        tl.load(ptr + at, mask=inside, other=0.0).to(tl.float32),
        tl.load(ptr + at + D // 2, mask=inside, other=0.0).to(tl.float32),
    )


@triton.jit
def weights(weight_ptr, D: tl.constexpr, HALF: tl.constexpr):
    d = tl.arange(0, HALF)
    left, right = halves(weight_ptr, d, d < D // 2, D)
    return left[None, :], right[None, :]


@triton.jit(do_not_specialize=["R"])
def rotary_kernel(
    qkv_ptr,  # [R / H, 3, H, D]
    query_weight_ptr,  # [D]
    key_weight_ptr,
    table_ptr,  # [2, T, D / 2] float32: cos and sin (ROTATES)
    query_ptr,  # [R, D], written
    key_ptr,  # [R, D], written
    value_ptr,  # [R, D], written
    R,
    T,
    eps,
    H: tl.constexpr,
    D: tl.constexpr,
    ROTATES: tl.constexpr,
    ROWS: tl.constexpr,
    HALF: tl.constexpr,
):
    tokens, packed, at, inside = place(tl.program_id(0).to(tl.int64) * ROWS, R, ROWS, H, D, HALF)
    if ROTATES:
        cos, sin = angles(table_ptr, tokens, T, inside, D, HALF)
    for which in tl.static_range(2):
        left, right = halves(qkv_ptr + which * H * D, packed, inside, D)
        inverse = (1.0 / tl.sqrt((tl.sum(left * left, 1) + tl.sum(right * right, 1)) / D + eps))[:, None]
        weight_left, weight_right = weights(query_weight_ptr if which == 0 else key_weight_ptr, D, HALF)
        left, right = left * inverse * weight_left, right * inverse * weight_right
        if ROTATES:
            left, right = left * cos - right * sin, left * sin + right * cos
        out_ptr = query_ptr if which == 0 else key_ptr
        tl.store(out_ptr + at, left.to(out_ptr.dtype.element_ty), mask=inside)
        tl.store(out_ptr + at + D // 2, right.to(out_ptr.dtype.element_ty), mask=inside)
    for half in tl.static_range(2):
        value = tl.load(qkv_ptr + 2 * H * D + packed + half * (D // 2), mask=inside, other=0.0)
        tl.store(value_ptr + at + half * (D // 2), value, mask=inside)


@triton.jit(do_not_specialize=["R", "SHARE"])
def rotary_backward_kernel(
    qkv_ptr,  # [R / H, 3, H, D]
    query_weight_ptr,  # [D]
    key_weight_ptr,
    table_ptr,  # [2, T, D / 2] float32 (ROTATES)
    dquery_ptr,  # [R, D]
    dkey_ptr,  # [R, D]
    dvalue_ptr,  # [R, D]
    dqkv_ptr,  # [R / H, 3, H, D], written
    dweight_ptr,  # [programs, 2, D] float32, written
    R,
    SHARE,  # rows per program, a multiple of ROWS
    T,
    eps,
    H: tl.constexpr,
    D: tl.constexpr,
    ROTATES: tl.constexpr,
    ROWS: tl.constexpr,
    HALF: tl.constexpr,
):
    part = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, HALF)
    end = tl.minimum((part + 1) * SHARE, R)
    for which in tl.static_range(2):
        in_ptr = dquery_ptr if which == 0 else dkey_ptr
        weight_left, weight_right = weights(query_weight_ptr if which == 0 else key_weight_ptr, D, HALF)
        sum_left = tl.zeros([ROWS, HALF], tl.float32)
        sum_right = tl.zeros([ROWS, HALF], tl.float32)
        for start in range(part * SHARE, end, ROWS):
            tokens, packed, at, inside = place(start, end, ROWS, H, D, HALF)
            left, right = halves(qkv_ptr + which * H * D, packed, inside, D)
            inverse = (1.0 / tl.sqrt((tl.sum(left * left, 1) + tl.sum(right * right, 1)) / D + eps))[:, None]
            left, right = left * inverse, right * inverse
            dleft, dright = halves(in_ptr, at, inside, D)
            if ROTATES:
                cos, sin = angles(table_ptr, tokens, T, inside, D, HALF)
                dleft, dright = dleft * cos + dright * sin, dright * cos - dleft * sin
            sum_left += dleft * left
            sum_right += dright * right
            dleft, dright = dleft * weight_left, dright * weight_right
            pull = ((tl.sum(dleft * left, 1) + tl.sum(dright * right, 1)) / D)[:, None]
            out = dqkv_ptr + which * H * D + packed
            tl.store(out, ((dleft - left * pull) * inverse).to(dqkv_ptr.dtype.element_ty), mask=inside)
            tl.store(out + D // 2, ((dright - right * pull) * inverse).to(dqkv_ptr.dtype.element_ty), mask=inside)
            if which == 0:
                for half in tl.static_range(2):
                    dvalue = tl.load(dvalue_ptr + at + half * (D // 2), mask=inside, other=0.0)
                    tl.store(dqkv_ptr + 2 * H * D + packed + half * (D // 2), dvalue, mask=inside)
        where = dweight_ptr + (part * 2 + which) * D + d
        tl.store(where, tl.sum(sum_left, 0), mask=d < D // 2)
        tl.store(where + D // 2, tl.sum(sum_right, 0), mask=d < D // 2)
