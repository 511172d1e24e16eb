"""The write, ``x'[o] = sum_i res[o, i] x[i] + post[o] y``, with the projection of x' and its squares taken from registers: x and y are read
once, x' is written once.

A thread holds 8 neighbouring columns of two tokens. These are the elements a tensor-core operand wants in that thread, in another order of
columns: phi comes packed in that order (`kernels/triton/pack.py`), so x' goes from the mixing to the product without moving. phi comes as
TERMS bf16 parts that add up to it, so that the products carry 8 bits of it each.

PARTS programs share a block of tokens and take turns at its columns, so that what is in flight at one time covers long runs of every row:
DRAM is 1.4 times faster at rows of 1 KB than at rows of 64 bytes (NOTES.md).
"""
# mypy: ignore-errors
# (Gluon's language in Python's syntax: tuples grow, arguments have no annotations.)

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    async_copy,
    fence_async_shared,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from resbench.kernels.gluon.tiles import copy_block, copy_rows, copy_streams, following, streams_of

TOKENS = 64
COLUMNS = 32


@gluon.jit
def fetch(
    x_ptr,
    y_ptr,
    phi_ptr,
    xs,
    ys,
    phis,
    base,
    start,
    M,
    n: gl.constexpr,
    C: gl.constexpr,
    KP: gl.constexpr,
    ROOM: gl.constexpr,
):
    """One stage: columns ``start ...`` of x and y, and phi's slab for them."""
    wide: gl.constexpr = gl.BlockedLayout([n, 1, 8], [1, 8, 4], [1, 4, 1], [2, 1, 0])
    flat: gl.constexpr = gl.BlockedLayout([1, 8], [8, 4], [4, 1], [1, 0])
    copy_streams(xs, x_ptr, base, start, M, n, C, wide)
    copy_rows(ys, y_ptr, base, start, M, C, flat)
    copy_block(phis, phi_ptr + start * (ROOM * KP * n), start, C, flat)
    async_copy.commit_group()


@gluon.jit(do_not_specialize=["M"])
def write_project_kernel(
    x_ptr,  # [M, n, C] bf16
    y_ptr,  # [M, C] bf16
    post_ptr,  # [M, n] float32
    res_ptr,  # [M, n, n] float32
    phi_ptr,  # [tiles, n, ROOM, KP, 32] bf16, packed
    joined_ptr,  # [M, n, C], written
    projected_ptr,  # [PARTS, M, KP] float32, written
    squares_ptr,  # [PARTS, SQUARES, M] float32, written
    M,
    n: gl.constexpr,
    C: gl.constexpr,
    K: gl.constexpr,
    KP: gl.constexpr,
    TERMS: gl.constexpr,
    MIXES: gl.constexpr,
    SQUARES: gl.constexpr,  # 1: over all streams; n: one sum per stream
    PARTS: gl.constexpr,
    STAGES: gl.constexpr,
):
    BT: gl.constexpr = 64
    BC: gl.constexpr = 32
    layout: gl.constexpr = gl.DistributedLinearLayout(
        [[0, 1], [0, 2], [0, 4], [8, 0]],
        [[0, 8], [0, 16], [1, 0], [2, 0], [4, 0]],
        [[16, 0], [32, 0]],
        [],
        [64, 32],
    )
    if n == 4:
        stacked: gl.constexpr = gl.DistributedLinearLayout(
            [[0, 0, 1], [0, 0, 2], [0, 0, 4], [0, 8, 0], [1, 0, 0], [2, 0, 0]],
            [[0, 0, 8], [0, 0, 16], [0, 1, 0], [0, 2, 0], [0, 4, 0]],
            [[0, 16, 0], [0, 32, 0]],
            [],
            [4, 64, 32],
        )
    else:
        stacked: gl.constexpr = gl.DistributedLinearLayout(
            [[0, 0, 1], [0, 0, 2], [0, 0, 4], [0, 8, 0], [1, 0, 0]],
            [[0, 0, 8], [0, 0, 16], [0, 1, 0], [0, 2, 0], [0, 4, 0]],
            [[0, 16, 0], [0, 32, 0]],
            [],
            [2, 64, 32],
        )
    by_row: gl.constexpr = gl.SliceLayout(1, layout)
    product: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, KP, 16])
    operand: gl.constexpr = gl.DotOperandLayout(0, product, 2)
    shared: gl.constexpr = gl.SwizzledSharedLayout(8, 2, 4, [1, 0])
    shared_streams: gl.constexpr = gl.SwizzledSharedLayout(8, 2, 4, [2, 1, 0])
    shared_phi: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=64, element_bitwidth=16, rank=2)
    element: gl.constexpr = joined_ptr.dtype.element_ty
    ROOM: gl.constexpr = TERMS if TERMS < 3 else 4  # shared memory comes in powers of two
    STEP: gl.constexpr = PARTS * BC
    part = gl.program_id(0)
    base = (gl.num_programs(1) - 1 - gl.program_id(1)).to(gl.int64) * BT
    M64 = M.to(gl.int64)
    rows = base + gl.arange(0, BT, layout=by_row)
    live = rows < M
    columns = gl.arange(0, BC, layout=gl.SliceLayout(0, layout))
    post = ()
    res = ()
    for o in gl.static_range(n):
        post = post + (gl.load(post_ptr + rows * n + o, mask=live, other=0.0)[:, None],)
    if MIXES:
        for e in gl.static_range(n * n):
            res = res + (gl.load(res_ptr + rows * (n * n) + e, mask=live, other=0.0)[:, None],)
    xs = gl.allocate_shared_memory(element, [STAGES, n, BT, BC], shared_streams)
    ys = gl.allocate_shared_memory(element, [STAGES, BT, BC], shared)
    phis = gl.allocate_shared_memory(gl.bfloat16, [STAGES, n * ROOM * KP, BC], shared_phi)
    for s in gl.static_range(STAGES - 1):
        at = (part + s * PARTS) * BC
        fetch(x_ptr, y_ptr, phi_ptr, xs.index(s), ys.index(s), phis.index(s), base, at, M, n, C, KP, ROOM)
    projected = gl.zeros([BT, KP], gl.float32, product)
    squares = ()
    for _ in gl.static_range(SQUARES):
        squares = squares + (gl.zeros([BT, BC], gl.float32, layout),)
    stage = 0
    free = STAGES - 1
    for start in range(part * BC, C, STEP):
        async_copy.wait_group(STAGES - 2)
        ahead = start + (STAGES - 1) * STEP
        fetch(x_ptr, y_ptr, phi_ptr, xs.index(free), ys.index(free), phis.index(free), base, ahead, M, n, C, KP, ROOM)
        fence_async_shared()
        column = start + columns
        inside = live[:, None] & (column < C)[None, :]
        out = joined_ptr + rows[:, None] * (n * C) + column[None, :]
        narrow = streams_of(xs.index(stage).load(stacked), n, layout)
        y = ys.index(stage).load(layout).to(gl.float32)
        x = ()
        for i in gl.static_range(n):
            x = x + (narrow[i].to(gl.float32),)
        in_use = ()
        summed = ()
        one = squares[0]
        for o in gl.static_range(n):
            total = post[o] * y
            if MIXES:
                for i in gl.static_range(n):
                    total += res[o * n + i] * x[i]
            else:
                total += x[o]
            joined = total.to(element)
            stored = joined.to(gl.float32)
            if SQUARES == 1:
                one += stored * stored
            else:
                summed = summed + (squares[o] + stored * stored,)
            gl.store(out + o * C, joined, mask=inside)
            a = gl.reshape(gl.permute(gl.reshape(joined, (BT, 4, 4, 2)), (0, 2, 1, 3)), (BT, BC))
            a = gl.convert_layout(a, operand, assert_trivial=True)
            for term in gl.static_range(TERMS):
                phi = phis.index(stage).slice((o * ROOM + term) * KP, KP, 0)
                projected = warpgroup_mma(a, phi.permute((1, 0)), projected, is_async=True)
            in_use = in_use + (a,)
        projected = warpgroup_mma_wait(0, deps=(projected,) + in_use)[0]
        if SQUARES == 1:
            squares = (one,)
        else:
            squares = summed
        stage = following(stage, STAGES)
        free = following(free, STAGES)
    row = base + gl.arange(0, BT, layout=gl.SliceLayout(1, product))
    k = gl.arange(0, KP, layout=gl.SliceLayout(0, product))
    filled = (row < M)[:, None] & (k < K)[None, :]
    gl.store(projected_ptr + (part * M64 + row[:, None]) * KP + k[None, :], projected, mask=filled)
    for s in gl.static_range(SQUARES):
        gl.store(squares_ptr + (part * SQUARES + s) * M64 + rows, gl.sum(squares[s], 1), mask=live)
