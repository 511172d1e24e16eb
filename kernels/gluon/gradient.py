"""The backward pass between two branches in one pass over its operands: x, y and the gradients of x' and u are read once, those of x and y
written once. x' is made again from x and y, and its gradient never leaves the registers.

``G[o] = dout[o] + pre[o] dv + sum_k g[k] phi[k, o] + q x'[o]`` is the gradient of x' (dv that of the read before its norm), and then
``dx[i] = sum_o res[o, i] G[o]``, ``dy = sum_o post[o] G[o]``, ``dpost[o] = <G[o], y>``, ``dres[o, i] = <G[o], x[i]>``.

A thread holds 8 neighbouring columns of one token, so that a token's coefficients and sums cost one register each. Only ``g phi`` is a
product; it goes from the tensor cores' layout to that one through shared memory. PARTS programs share a block of tokens as in `write.py`;
each leaves partial sums of dpost and dres.
"""
# mypy: ignore-errors
# (Gluon's language in Python's syntax: tuples grow, arguments have no annotations.)

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy, mma_v2

from resbench.kernels.gluon.tiles import copy_block, copy_rows, copy_streams, following, streams_of

TOKENS = 32
COLUMNS = 32


@gluon.jit
def inner(a, b, BT: gl.constexpr):
    """[BT, 32] x [BT, 32] -> each thread's share of the inner products over columns, [BT, 4]."""
    return gl.sum(gl.reshape(a * b, (BT, 4, 8)), 2)


@gluon.jit(do_not_specialize=["M"])
def gradient_kernel(
    x_ptr,  # [M, n, C] bf16
    y_ptr,  # [M, C] bf16
    post_ptr,  # [M, n] float32
    res_ptr,  # [M, n, n] float32 (MIXES)
    dout_ptr,  # [M, n, C] bf16 (OUT)
    du_ptr,  # [M, C] bf16 (READS)
    pre_ptr,  # [M, n]
    weight_ptr,  # [C] (WEIGHS)
    norm_ptr,  # [2, M] (NORMS): inverse RMS of v, and inverse^3 <w du, v> / C
    g_ptr,  # [KP, M] bf16 (PROJECTS)
    q_ptr,  # [SQUARES, M]
    phi_ptr,  # [tiles, KP, n, 32] bf16, packed
    dx_ptr,  # [M, n, C], written
    dy_ptr,  # [M, C], written
    sums_ptr,  # [PARTS, M, n + n n] or [PARTS, M, n] float32, written: dpost, then dres
    M,
    n: gl.constexpr,
    C: gl.constexpr,
    KP: gl.constexpr,
    MIXES: gl.constexpr,
    PROJECTS: gl.constexpr,
    SQUARES: gl.constexpr,
    READS: gl.constexpr,
    NORMS: gl.constexpr,
    WEIGHS: gl.constexpr,
    OUT: gl.constexpr,
    PARTS: gl.constexpr,
    STAGES: gl.constexpr,
):
    BT: gl.constexpr = 32
    BC: gl.constexpr = 32
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [8, 4], [4, 1], [1, 0])
    stacked: gl.constexpr = gl.BlockedLayout([n, 1, 8], [1, 8, 4], [1, 4, 1], [2, 1, 0])
    if n == 4:
        beside: gl.constexpr = gl.DistributedLinearLayout(
            [[0, 1], [0, 2], [0, 4], [0, 32], [0, 64]],
            [[0, 8], [0, 16], [1, 0], [2, 0], [4, 0]],
            [[8, 0], [16, 0]],
            [],
            [32, 128],
        )
    else:
        beside: gl.constexpr = gl.DistributedLinearLayout(
            [[0, 1], [0, 2], [0, 4], [0, 32]],
            [[0, 8], [0, 16], [1, 0], [2, 0], [4, 0]],
            [[8, 0], [16, 0]],
            [],
            [32, 64],
        )
    by_row: gl.constexpr = gl.SliceLayout(1, layout)
    product: gl.constexpr = gl.NVMMADistributedLayout(version=[2, 0], warps_per_cta=[2, 2], instr_shape=[16, 8])
    left: gl.constexpr = gl.DotOperandLayout(0, product, 2)
    right: gl.constexpr = gl.DotOperandLayout(1, product, 2)
    slab: gl.constexpr = gl.BlockedLayout([1, 8], [32 // (n * 4), n * 4], [4, 1], [1, 0])
    shared: gl.constexpr = gl.SwizzledSharedLayout(8, 2, 4, [1, 0])
    shared_streams: gl.constexpr = gl.SwizzledSharedLayout(8, 2, 4, [2, 1, 0])
    element: gl.constexpr = dx_ptr.dtype.element_ty
    STEP: gl.constexpr = PARTS * BC
    part = gl.program_id(0)
    base = (gl.num_programs(1) - 1 - gl.program_id(1)).to(gl.int64) * BT
    M64 = M.to(gl.int64)
    rows = base + gl.arange(0, BT, layout=by_row)
    live = rows < M
    columns = gl.arange(0, BC, layout=gl.SliceLayout(0, layout))

    post = ()
    pre = ()
    res = ()
    q = ()
    for o in gl.static_range(n):
        post = post + (gl.load(post_ptr + rows * n + o, mask=live, other=0.0)[:, None],)
    if MIXES:
        for e in gl.static_range(n * n):
            res = res + (gl.load(res_ptr + rows * (n * n) + e, mask=live, other=0.0)[:, None],)
    if READS:
        for o in gl.static_range(n):
            pre = pre + (gl.load(pre_ptr + rows * n + o, mask=live, other=0.0)[:, None],)
    if PROJECTS:
        for s in gl.static_range(SQUARES):
            q = q + (gl.load(q_ptr + s * M64 + rows, mask=live, other=0.0)[:, None],)
        along: gl.constexpr = gl.BlockedLayout([8, 1], [4, 8], [1, 4], [0, 1])
        row = base + gl.arange(0, BT, layout=gl.SliceLayout(1, along))
        k = gl.arange(0, KP, layout=gl.SliceLayout(0, along))
        g = gl.load(g_ptr + k[None, :] * M64 + row[:, None], mask=(row < M)[:, None], other=0.0)
        g = gl.convert_layout(g, left)
    if READS and NORMS:
        inverse = gl.load(norm_ptr + rows, mask=live, other=0.0)[:, None]
        pull = gl.load(norm_ptr + M64 + rows, mask=live, other=0.0)[:, None]
        # v = sum_o pre[o] x'[o], from x and y with folded coefficients
        from_y = pre[0] * post[0]
        for o in gl.static_range(1, n):
            from_y += pre[o] * post[o]
        from_x = ()
        for i in gl.static_range(n):
            folded = pre[i]
            if MIXES:
                folded = pre[0] * res[i]
                for o in gl.static_range(1, n):
                    folded += pre[o] * res[o * n + i]
            from_x = from_x + (folded,)

    none = gl.sum(gl.reshape(gl.zeros([BT, BC], gl.float32, layout), (BT, 4, 8)), 2)
    sums = ()
    for _ in gl.static_range(n + n * n if MIXES else n):
        sums = sums + (none,)
    xs = gl.allocate_shared_memory(element, [STAGES, n, BT, BC], shared_streams)
    ys = gl.allocate_shared_memory(element, [STAGES, BT, BC], shared)
    if OUT:
        douts = gl.allocate_shared_memory(element, [STAGES, n, BT, BC], shared_streams)
    if READS:
        dus = gl.allocate_shared_memory(element, [STAGES, BT, BC], shared)
    if PROJECTS:
        phis = gl.allocate_shared_memory(gl.bfloat16, [STAGES, KP, n * BC], gl.SwizzledSharedLayout(8, 1, 8, [1, 0]))
        passing = gl.allocate_shared_memory(gl.float32, [BT, n * BC], gl.SwizzledSharedLayout(4, 1, 8, [1, 0]))
    for s in gl.static_range(STAGES - 1):
        at = (part + s * PARTS) * BC
        copy_streams(xs.index(s), x_ptr, base, at, M, n, C, stacked)
        copy_rows(ys.index(s), y_ptr, base, at, M, C, layout)
        if OUT:
            copy_streams(douts.index(s), dout_ptr, base, at, M, n, C, stacked)
        if READS:
            copy_rows(dus.index(s), du_ptr, base, at, M, C, layout)
        if PROJECTS:
            copy_block(phis.index(s), phi_ptr + at * (KP * n), at, C, slab)
        async_copy.commit_group()
    stage = 0
    free = STAGES - 1
    for start in range(part * BC, C, STEP):
        async_copy.wait_group(STAGES - 2)
        at = start + (STAGES - 1) * STEP
        copy_streams(xs.index(free), x_ptr, base, at, M, n, C, stacked)
        copy_rows(ys.index(free), y_ptr, base, at, M, C, layout)
        if OUT:
            copy_streams(douts.index(free), dout_ptr, base, at, M, n, C, stacked)
        if READS:
            copy_rows(dus.index(free), du_ptr, base, at, M, C, layout)
        if PROJECTS:
            copy_block(phis.index(free), phi_ptr + at * (KP * n), at, C, slab)
        async_copy.commit_group()
        if PROJECTS:
            blank = gl.zeros([BT, n * BC], gl.float32, product)
            passing.store(mma_v2(g, phis.index(stage).load(right), blank))
        narrow = streams_of(xs.index(stage).load(stacked), n, layout)
        if OUT:
            dout = streams_of(douts.index(stage).load(stacked), n, layout)
        y = ys.index(stage).load(layout).to(gl.float32)
        x = ()
        for i in gl.static_range(n):
            x = x + (narrow[i].to(gl.float32),)
        column = start + columns
        inside = live[:, None] & (column < C)[None, :]
        if READS:
            dv = dus.index(stage).load(layout).to(gl.float32)
            if NORMS:
                v = from_y * y
                for i in gl.static_range(n):
                    v += from_x[i] * x[i]
                scaled = inverse * dv
                if WEIGHS:
                    weight = gl.load(weight_ptr + column, mask=column < C, other=0.0).to(gl.float32)
                    scaled = scaled * weight[None, :]
                dv = scaled - pull * v
        if PROJECTS:
            flat = gl.permute(gl.reshape(passing.load(beside), (BT, n, BC)), (1, 0, 2))
            through_phi = streams_of(flat, n, layout)
        G = ()
        added = ()
        dy = gl.zeros([BT, BC], gl.float32, layout)
        for o in gl.static_range(n):
            if PROJECTS:
                total = through_phi[o]
                joined = post[o] * y
                if MIXES:
                    for i in gl.static_range(n):
                        joined += res[o * n + i] * x[i]
                else:
                    joined += x[o]
                total += q[o if SQUARES > 1 else 0] * joined
            else:
                total = gl.zeros([BT, BC], gl.float32, layout)
            if OUT:
                total += dout[o].to(gl.float32)
            if READS:
                total += pre[o] * dv
            dy += post[o] * total
            added = added + (sums[o] + inner(total, y, BT),)
            G = G + (total,)
        if MIXES:
            for o in gl.static_range(n):
                for i in gl.static_range(n):
                    added = added + (sums[n + o * n + i] + inner(G[o], x[i], BT),)
        sums = added
        gl.store(dy_ptr + rows[:, None] * C + column[None, :], dy.to(dy_ptr.dtype.element_ty), mask=inside)
        out = dx_ptr + rows[:, None] * (n * C) + column[None, :]
        for i in gl.static_range(n):
            dx = G[i]
            if MIXES:
                dx = res[i] * G[0]
                for o in gl.static_range(1, n):
                    dx += res[o * n + i] * G[o]
            gl.store(out + i * C, dx.to(element), mask=inside)
        stage = following(stage, STAGES)
        free = following(free, STAGES)
    SIZE: gl.constexpr = n + n * n if MIXES else n
    for e in gl.static_range(SIZE):
        found = gl.convert_layout(gl.sum(sums[e], 1), by_row)
        gl.store(sums_ptr + (part * M64 + rows) * SIZE + e, found, mask=live)
