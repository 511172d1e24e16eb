"""phi in the order in which the fused kernels read it, 32 columns at a time: each block is contiguous, and its padding is zero."""
# mypy: ignore-errors
# (Triton's language in Python's syntax: arguments have no annotations.)

import triton
import triton.language as tl


@triton.jit
def pack_kernel(
    phi_ptr,  # [K, n, C]
    packed_ptr,  # [tiles, n, ROOM, KP, 32] bf16 or, without TERMS, [tiles, KP, n, 32] bf16, written
    C,
    n: tl.constexpr,
    K: tl.constexpr,
    KP: tl.constexpr,
    TERMS: tl.constexpr,
):
    """With TERMS: parts that add up to phi, with room for a power of two of them, and the columns in the order of a tensor-core operand
    whose threads hold 8 neighbours each: place 8 i + 2 q + b has column 8 q + 2 i + b.
    """
    tile = tl.program_id(0)
    stream = tl.program_id(1)
    k = tl.arange(0, KP)
    place = tl.arange(0, 32)
    column = tile * 32 + place
    if TERMS > 0:
        column = tile * 32 + 8 * ((place % 8) // 2) + 2 * (place // 8) + place % 2
    mask = (k < K)[:, None] & (column < C)[None, :]
    at = (k[:, None].to(tl.int64) * n + stream) * C + column[None, :]
    phi = tl.load(phi_ptr + at, mask=mask, other=0.0).to(tl.float32)
    if TERMS > 0:
        ROOM: tl.constexpr = TERMS if TERMS < 3 else 4
        for term in tl.static_range(TERMS):
            part = phi.to(tl.bfloat16)
            tl.store(packed_ptr + (((tile * n + stream) * ROOM + term) * KP + k[:, None]) * 32 + place[None, :], part)
            phi -= part.to(tl.float32)
    else:
        out = packed_ptr + ((tile * KP + k[:, None]) * n + stream) * 32 + place[None, :]
        tl.store(out, phi.to(tl.bfloat16))
