"""The gradient of a phi of many rows, ``dphi[k, j] = sum_t g[k, t] x'[t, j]`` over all columns j of all streams, on warpgroup products.

A program owns 64 WARPS / 2 columns and walks a range of tokens, 64 at a time; it leaves one partial sum per range, added later in a fixed order. The
product's rows are the columns j, which fill any number of warps, and phi's rows its columns, of which 80 are 64 and 16.
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

TOKENS = 64


@gluon.jit
def fetch(
    x_ptr, g_ptr, xs, firsts, lasts, block, stop, M, column, WIDTH: gl.constexpr, K: gl.constexpr, W: gl.constexpr
):
    """One stage: rows ``64 block ...`` of x' and columns of g; zeros beyond M and from block ``stop`` on."""
    BC: gl.constexpr = xs.shape[1]
    wide: gl.constexpr = gl.BlockedLayout([1, 8], [32 * 8 // BC, BC // 8], [W, 1], [1, 0])
    tall: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [W, 1], [1, 0])
    token = block * 64
    row = token + gl.arange(0, 64, layout=gl.SliceLayout(1, wide))
    col = column + gl.arange(0, BC, layout=gl.SliceLayout(0, wide))
    mask = (row < M)[:, None] & (block < stop) & (col < WIDTH)[None, :]
    copy(xs, x_ptr + row.to(gl.int64)[:, None] * WIDTH + col[None, :], mask=mask)
    k = gl.arange(0, 16, layout=gl.SliceLayout(1, tall)) + (K - 16)
    t = token + gl.arange(0, 64, layout=gl.SliceLayout(0, tall))
    copy(
        lasts,
        g_ptr + k.to(gl.int64)[:, None] * M + t[None, :],
        mask=(k < K)[:, None] & (t < M)[None, :] & (block < stop),
    )
    if K > 16:
        k = gl.arange(0, 64, layout=gl.SliceLayout(1, tall))
        copy(
            firsts,
            g_ptr + k.to(gl.int64)[:, None] * M + t[None, :],
            mask=(k < K)[:, None] & (t < M)[None, :] & (block < stop),
        )
    async_copy.commit_group()


@gluon.jit(do_not_specialize=["M8", "RANGE"])
def wide_learn_kernel(
    joined_ptr,  # [M, WIDTH] bf16, WIDTH = n C
    g_ptr,  # [.., M] bf16
    dphi_ptr,  # [ranges, K, WIDTH] float32, written
    M8,  # M / 8: rows of g begin at multiples of 16 bytes
    RANGE,  # blocks of 64 tokens per range
    WIDTH: gl.constexpr,
    K: gl.constexpr,  # 80 or 16
    COLUMNS: gl.constexpr,
    WARPS: gl.constexpr,
    STAGES: gl.constexpr,
):
    BC: gl.constexpr = COLUMNS
    many: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, 64, 16])
    few: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, 16, 16])
    shared: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    M = M8 * 8
    part = gl.program_id(1)
    column = gl.program_id(0) * BC
    first = part * RANGE
    stop = gl.minimum(first + RANGE, (M + 63) // 64)
    xs = gl.allocate_shared_memory(gl.bfloat16, [STAGES, 64, BC], shared)
    lasts = gl.allocate_shared_memory(gl.bfloat16, [STAGES, 16, 64], shared)
    firsts = lasts
    if K > 16:
        firsts = gl.allocate_shared_memory(gl.bfloat16, [STAGES, 64, 64], shared)
        upper = gl.zeros([BC, 64], gl.float32, many)
    lower = gl.zeros([BC, 16], gl.float32, few)
    for s in gl.static_range(STAGES - 1):
        fetch(
            joined_ptr, g_ptr, xs.index(s), firsts.index(s), lasts.index(s), first + s, stop, M, column, WIDTH, K, WARPS
        )
    stage = 0
    free = STAGES - 1
    for block in range(first, stop):
        async_copy.wait_group(STAGES - 2)
        fetch(
            joined_ptr,
            g_ptr,
            xs.index(free),
            firsts.index(free),
            lasts.index(free),
            block + STAGES - 1,
            stop,
            M,
            column,
            WIDTH,
            K,
            WARPS,
        )
        fence_async_shared()
        x = xs.index(stage).permute((1, 0))
        if K > 16:
            upper = warpgroup_mma(x, firsts.index(stage).permute((1, 0)), upper, is_async=True)
            lower = warpgroup_mma(x, lasts.index(stage).permute((1, 0)), lower, is_async=True)
            upper, lower = warpgroup_mma_wait(0, deps=(upper, lower))
        else:
            lower = warpgroup_mma(x, lasts.index(stage).permute((1, 0)), lower, is_async=True)
            lower = warpgroup_mma_wait(0, deps=(lower,))
        stage = following(stage, STAGES)
        free = following(free, STAGES)
    j = column + gl.arange(0, BC, layout=gl.SliceLayout(1, few))[:, None]
    k = K - 16 + gl.arange(0, 16, layout=gl.SliceLayout(0, few))[None, :]
    gl.store(dphi_ptr + (part * K + k).to(gl.int64) * WIDTH + j, lower, mask=(j < WIDTH) & (k < K))
    if K > 16:
        j = column + gl.arange(0, BC, layout=gl.SliceLayout(1, many))[:, None]
        k = gl.arange(0, 64, layout=gl.SliceLayout(0, many))[None, :]
        gl.store(dphi_ptr + (part * K + k).to(gl.int64) * WIDTH + j, upper, mask=(j < WIDTH) & (k < K))
