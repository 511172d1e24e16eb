"""The projection of streams on a phi of many rows, and the sum of their squares, on warpgroup products.

A program owns a block of tokens and a range of columns of all streams, laid end to end. phi comes as two bf16 parts that add up to it, and both are
rows of one product, which so reads x' from shared memory once. The next stage is fetched while the products run.
"""
# mypy: ignore-errors
# (Gluon's language in Python's syntax: arguments have no annotations.)

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    async_copy,
    fence_async_shared,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from resbench.kernels.gluon.tiles import copy, following


@gluon.jit
def copy_part(tile, ptr, row, rows, column, WIDTH: gl.constexpr, W: gl.constexpr):
    """Rows ``row ...`` below ``rows`` and 64 columns of a matrix of that width; zeros outside."""
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [W, 1], [1, 0])
    r = row + gl.arange(0, tile.shape[0], layout=gl.SliceLayout(1, layout))
    c = column + gl.arange(0, 64, layout=gl.SliceLayout(0, layout))
    copy(tile, ptr + r.to(gl.int64)[:, None] * WIDTH + c[None, :], mask=(r < rows)[:, None] & (c < WIDTH)[None, :])


@gluon.jit
def fetch(
    x_ptr,
    phi_ptr,
    xs,
    firsts,
    lasts,
    base,
    M,
    column,
    WIDTH: gl.constexpr,
    K: gl.constexpr,
    W: gl.constexpr,
):
    copy_part(xs, x_ptr, base, M, column, WIDTH, W)
    for term in gl.static_range(2):
        copy_part(lasts.slice(term * 16, 16, 0), phi_ptr, term * K + K - 16, (term + 1) * K, column, WIDTH, W)
        if K > 16:
            copy_part(firsts.slice(term * 64, 64, 0), phi_ptr, term * K, (term + 1) * K, column, WIDTH, W)
    async_copy.commit_group()


@gluon.jit(do_not_specialize=["M", "SPAN"])
def wide_project_kernel(
    x_ptr,  # [M, WIDTH] bf16, WIDTH = n C
    phi_ptr,  # [2, K, WIDTH] bf16
    projected_ptr,  # [splits, M, KP] float32, written up to K
    squares_ptr,  # [splits, 1, M] float32, written
    M,
    SPAN,  # blocks of 64 columns per split
    WIDTH: gl.constexpr,
    K: gl.constexpr,  # 80 or 16
    KP: gl.constexpr,
    WARPS: gl.constexpr,
    STAGES: gl.constexpr,
):
    BT: gl.constexpr = 32 * WARPS
    many: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, 64, 16])
    few: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, 16, 16])
    many_rows: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, 128, 16])
    few_rows: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, 32, 16])
    shared: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    flat: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [WARPS, 1], [1, 0])
    split = gl.program_id(0)
    base = gl.program_id(1) * BT
    M64 = M.to(gl.int64)
    xs = gl.allocate_shared_memory(gl.bfloat16, [STAGES, BT, 64], shared)
    lasts = gl.allocate_shared_memory(gl.bfloat16, [STAGES, 2 * 16, 64], shared)
    firsts = lasts
    if K > 16:
        firsts = gl.allocate_shared_memory(gl.bfloat16, [STAGES, 2 * 64, 64], shared)
        upper = gl.zeros([BT, 2 * 64], gl.float32, many_rows)
    lower = gl.zeros([BT, 2 * 16], gl.float32, few_rows)
    squares = gl.sum(gl.reshape(gl.zeros([BT, 64], gl.float32, flat), (BT, 8, 8)), 2)
    first = split * SPAN
    stop = gl.minimum(first + SPAN, (WIDTH + 63) // 64)
    for s in gl.static_range(STAGES - 1):
        at = gl.where(first + s < stop, (first + s) * 64, WIDTH)
        fetch(x_ptr, phi_ptr, xs.index(s), firsts.index(s), lasts.index(s), base, M, at, WIDTH, K, WARPS)
    stage = 0
    free = STAGES - 1
    for block in range(first, stop):
        async_copy.wait_group(STAGES - 2)
        fence_async_shared()
        x = xs.index(stage)
        lower = warpgroup_mma(x, lasts.index(stage).permute((1, 0)), lower, is_async=True)
        if K > 16:
            upper = warpgroup_mma(x, firsts.index(stage).permute((1, 0)), upper, is_async=True)
        wide = x.load(flat).to(gl.float32)
        squares += gl.sum(gl.reshape(wide * wide, (BT, 8, 8)), 2)  # each thread's share
        ahead = block + STAGES - 1
        ahead = gl.where(ahead < stop, ahead * 64, WIDTH)
        fetch(x_ptr, phi_ptr, xs.index(free), firsts.index(free), lasts.index(free), base, M, ahead, WIDTH, K, WARPS)
        if K > 16:
            lower, upper = warpgroup_mma_wait(0, deps=(lower, upper))
        else:
            lower = warpgroup_mma_wait(0, deps=(lower,))
        stage = following(stage, STAGES)
        free = following(free, STAGES)
    # both parts of phi
    lower = gl.convert_layout(gl.sum(gl.reshape(lower, (BT, 2, 16)), 1), few)
    if K > 16:
        upper = gl.convert_layout(gl.sum(gl.reshape(upper, (BT, 2, 64)), 1), many)
    row = base + gl.arange(0, BT, layout=gl.SliceLayout(1, few))[:, None]
    k = K - 16 + gl.arange(0, 16, layout=gl.SliceLayout(0, few))[None, :]
    gl.store(projected_ptr + (split * M64 + row) * KP + k, lower, mask=(row < M) & (k < K))
    if K > 16:
        row = base + gl.arange(0, BT, layout=gl.SliceLayout(1, many))[:, None]
        k = gl.arange(0, 64, layout=gl.SliceLayout(0, many))[None, :]
        gl.store(projected_ptr + (split * M64 + row) * KP + k, upper, mask=(row < M) & (k < K))
    row = base + gl.arange(0, BT, layout=gl.SliceLayout(1, flat))
    found = gl.convert_layout(gl.sum(squares, 1), gl.SliceLayout(1, flat))
    gl.store(squares_ptr + split * M64 + row, found, mask=row < M)
