"""Partial sums added in a fixed order: what makes parameter gradients the same bits every time without atomics."""
# mypy: ignore-errors
# (Triton's language in Python's syntax: tuples grow, arguments have no annotations.)

import triton
import triton.language as tl


@triton.jit
def column_sums(block, partial_ptr, out_ptr, parts, size, BP: tl.constexpr, BLOCK: tl.constexpr):
    """A block of the column sums of partial [parts, size] float32 -> out [size] in its dtype."""
    at = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BP, BLOCK], tl.float32)
    for start in range(0, parts, BP):
        part = start + tl.arange(0, BP)
        inside = (part < parts)[:, None] & (at < size)[None, :]
        total += tl.load(partial_ptr + part[:, None] * size.to(tl.int64) + at[None, :], mask=inside, other=0.0)
    tl.store(out_ptr + at, tl.sum(total, 0).to(out_ptr.dtype.element_ty), mask=at < size)


@triton.jit
def gate_sums(
    group,
    partial_ptr,  # [2 K, parts] float32: per coefficient, the gradient of its scale, then of its bias
    dscale_ptr,  # [2 or 3], written
    dbias_ptr,  # [K], written
    parts,
    n: tl.constexpr,
    K: tl.constexpr,
    KP: tl.constexpr,
    STREAMWISE: tl.constexpr,  # HC's order of coefficients; else mHC's
    BP: tl.constexpr,
):
    """One scale: the biases of the coefficients it multiplies, and itself."""
    k = tl.arange(0, KP)
    if STREAMWISE:
        mine = (k < K) & ((k % (n + 2) == 1).to(tl.int32) == group)
    else:
        mine = (k < K) & ((k >= n).to(tl.int32) + (k >= 2 * n).to(tl.int32) == group)
    scales = tl.zeros([KP, BP], tl.float32)
    biases = tl.zeros([KP, BP], tl.float32)
    for start in range(0, parts, BP):
        part = start + tl.arange(0, BP)
        inside = mine[:, None] & (part < parts)[None, :]
        at = partial_ptr + k[:, None] * parts + part[None, :]
        scales += tl.load(at, mask=inside, other=0.0)
        biases += tl.load(at + K * parts, mask=inside, other=0.0)
    tl.store(dbias_ptr + k, tl.sum(biases, 1).to(dbias_ptr.dtype.element_ty), mask=mine)
    tl.store(dscale_ptr + group, tl.sum(tl.sum(scales, 1), 0).to(dscale_ptr.dtype.element_ty))


@triton.jit
def token_sums(
    block,
    sums_ptr,  # [PARTS, M, SIZE] float32: per token dpost [n], then dres [n n]
    dpost_ptr,  # [M, n], written
    dres_ptr,  # [M, n, n], written (MIXES)
    M,
    n: tl.constexpr,
    SIZE: tl.constexpr,
    PADDED: tl.constexpr,
    MIXES: tl.constexpr,
    PARTS: tl.constexpr,
    BT: tl.constexpr,
):
    """What the programs that shared a block of tokens found, added up."""
    rows = (block.to(tl.int64) * BT + tl.arange(0, BT))[:, None]
    e = tl.arange(0, PADDED)[None, :]
    mask = (rows < M) & (e < SIZE)
    total = tl.load(sums_ptr + rows * SIZE + e, mask=mask, other=0.0)
    for part in tl.static_range(1, PARTS):
        total += tl.load(sums_ptr + (part * M.to(tl.int64) + rows) * SIZE + e, mask=mask, other=0.0)
    tl.store(dpost_ptr + rows * n + e, total, mask=mask & (e < n))
    if MIXES:
        tl.store(dres_ptr + rows * (n * n) + e - n, total, mask=mask & (e >= n))


@triton.jit(do_not_specialize=["parts", "size"])
def total_kernel(partial_ptr, out_ptr, parts, size, BP: tl.constexpr, BLOCK: tl.constexpr):
    column_sums(tl.program_id(0), partial_ptr, out_ptr, parts, size, BP, BLOCK)


@triton.jit(do_not_specialize=["gate_parts", "weight_parts", "phi_parts", "phi_size", "M"])
def finish_kernel(
    gates_ptr,
    dscale_ptr,
    dbias_ptr,
    gate_parts,
    weight_ptr,  # [weight_parts, C]
    dweight_ptr,
    weight_parts,
    sums_ptr,
    dpost_ptr,
    dres_ptr,
    M,
    phi_ptr,  # [phi_parts, phi_size]
    dphi_ptr,
    phi_parts,
    phi_size,
    C,
    n: tl.constexpr,
    K: tl.constexpr,
    KP: tl.constexpr,
    STREAMWISE: tl.constexpr,
    MIXES: tl.constexpr,
    PARTS: tl.constexpr,
    SIZE: tl.constexpr,
    PADDED: tl.constexpr,
    GROUPS: tl.constexpr,  # scales; 0 without gates
    WEIGHS: tl.constexpr,  # blocks of 32 columns of the norm's weight; 0 without one
    SUMS: tl.constexpr,  # whether sums_ptr is given
    LEARNS: tl.constexpr,  # whether phi_ptr is given
    BP: tl.constexpr,  # of phi's parts at a time
    BLOCK: tl.constexpr,  # of phi's entries
    BT: tl.constexpr,
):
    """All of a boundary's sums in one launch: those with the longest way to go first, so that the others hide them."""
    block = tl.program_id(0)
    if GROUPS > 0:
        if block < GROUPS:
            gate_sums(block, gates_ptr, dscale_ptr, dbias_ptr, gate_parts, n, K, KP, STREAMWISE, 2048 // KP)
        block -= GROUPS
    if WEIGHS > 0:
        if (block >= 0) & (block < WEIGHS):
            column_sums(block, weight_ptr, dweight_ptr, weight_parts, C, 64, 32)
        block -= WEIGHS
    if SUMS:
        blocks = tl.cdiv(M, BT)
        if (block >= 0) & (block < blocks):
            token_sums(block, sums_ptr, dpost_ptr, dres_ptr, M, n, SIZE, PADDED, MIXES, PARTS, BT)
        block -= blocks
    if LEARNS:
        if block >= 0:
            column_sums(block, phi_ptr, dphi_ptr, phi_parts, phi_size, BP, BLOCK)
