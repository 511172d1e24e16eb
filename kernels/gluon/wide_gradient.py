"""The backward pass between two branches in one pass over its operands, for n = 8, with the small matrices on tensor cores.

It computes what `gradient.py` does for n = 2 and 4. With 8 streams a token's 72 coefficients and 72 sums leave no registers for elementwise work, but
8 is the width of a tensor-core product: columns x streams of a token is one fragment, and with ``G[o]`` the gradient of x'

    G[c, o] = dout + (g phi) + sum_k Z[k, c] B[k, o],    Z = (x[0] ... x[7], y, w du)
    sums[k, o] = <Z[k], G[o]>: dres and dpost            dx[c, i] = sum_o G[c, o] res[o, i],    dy[c] = sum_o G[c, o] post[o]

are products per token. B joins what the norm of the projection (q x') and that of the read (pre (inverse w du - pull v)) return, since x' and v are
combinations of x and y. float32 coefficients enter as bf16 and the rest of it: as two products, or as one that sees G twice along its inner axis.

PARTS programs share a block of tokens as in `write.py`. Each tile of the next turn is fetched as soon as its buffer has been read.
"""
# mypy: ignore-errors
# (Gluon's language in Python's syntax: arguments have no annotations.)

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy, mma_v2

from resbench.kernels.gluon.tiles import copy, copy_block

COLUMNS = 32
TOKENS_PER_WARP = 8


@gluon.constexpr_function
def token_stream_layout(BT):
    """[BT, 8, 32] in shared memory without bank conflicts over 8 streams of a token or over 8 tokens of a stream."""
    bases = [[0, 0, 1], [0, 0, 2], [0, 0, 4], [0, 0, 8], [0, 0, 16], [0, 1, 0], [0, 2, 8], [0, 4, 16]]
    bases += [[1, 0, 8], [2, 0, 16], [4, 1, 0]]
    bit = 8
    while bit < BT:
        bases.append([bit, 0, 0])
        bit *= 2
    return gl.SharedLinearLayout(bases)


@gluon.jit
def copy_tokens(tile, ptr, base, start, M, C: gl.constexpr, layout: gl.constexpr):
    """Columns ``start ...`` of the 8 streams of the tokens ``base ...`` into tile [BT, 8, 32]; zeros outside."""
    row = base + gl.arange(0, tile.shape[0], layout=gl.SliceLayout(1, gl.SliceLayout(2, layout)))
    stream = gl.arange(0, 8, layout=gl.SliceLayout(0, gl.SliceLayout(2, layout)))
    column = start + gl.arange(0, 32, layout=gl.SliceLayout(0, gl.SliceLayout(1, layout)))
    at = row[:, None, None] * (8 * C) + stream[None, :, None] * C + column[None, None, :]
    mask = (row < M)[:, None, None] & (column < C)[None, None, :] & (stream < 8)[None, :, None]
    copy(tile, ptr + at, mask=mask)


@gluon.jit
def high_or_rest(value, high):
    """The bf16 nearest to value where ``high``, and what is missing elsewhere."""
    near = value.to(gl.bfloat16)
    return gl.where(high, near, (value - near.to(gl.float32)).to(gl.bfloat16))


@gluon.jit(do_not_specialize=["M"])
def wide_gradient_kernel(
    x_ptr,  # [M, 8, C] bf16
    y_ptr,  # [M, C] bf16
    post_ptr,  # [M, 8] float32
    res_ptr,  # [M, 8, 8] float32 (MIXES)
    dout_ptr,  # [M, 8, C] bf16 (OUT)
    du_ptr,  # [M, C] bf16 (READS)
    pre_ptr,  # [M, 8]
    weight_ptr,  # [C] (WEIGHS)
    norm_ptr,  # [2, M] (NORMS): inverse RMS of v, and inverse^3 <w du, v> / C
    g_ptr,  # [.., M] bf16 (PROJECTS)
    q_ptr,  # [SQUARES, M]
    phi_ptr,  # [tiles, KP, 8, 32] bf16, packed
    dx_ptr,  # [M, 8, C], written
    dy_ptr,  # [M, C], written
    sums_ptr,  # [PARTS, M, 8 + 64] or [PARTS, M, 8] float32, written: dpost, then dres
    M,
    C: gl.constexpr,
    K: gl.constexpr,  # rows of phi: 80, or 16 without mixing
    KP: gl.constexpr,  # rows of it as packed
    MIXES: gl.constexpr,
    PROJECTS: gl.constexpr,
    SQUARES: gl.constexpr,
    READS: gl.constexpr,
    NORMS: gl.constexpr,
    WEIGHS: gl.constexpr,
    OUT: gl.constexpr,
    PARTS: gl.constexpr,
    WARPS: gl.constexpr,
):
    BT: gl.constexpr = 8 * WARPS
    BC: gl.constexpr = 32
    STEP: gl.constexpr = PARTS * BC
    element: gl.constexpr = dx_ptr.dtype.element_ty
    per_token: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [WARPS, 1, 1], [1, 16, 8])
    left: gl.constexpr = gl.DotOperandLayout(0, per_token, 2)
    right: gl.constexpr = gl.DotOperandLayout(1, per_token, 2)
    product: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [WARPS // 2, 2], [16, 8])
    streams: gl.constexpr = gl.BlockedLayout([1, 1, 8], [1, 8, 4], [WARPS, 1, 1], [2, 1, 0])
    rows_of: gl.constexpr = gl.BlockedLayout([1, 8, 8], [8, 1, 4], [WARPS, 1, 1], [2, 1, 0])
    flat: gl.constexpr = gl.SliceLayout(1, rows_of)
    slab: gl.constexpr = gl.BlockedLayout([1, 8], [1, 32], [WARPS, 1], [1, 0])
    swizzled: gl.constexpr = token_stream_layout(BT)
    part = gl.program_id(0)
    base = gl.program_id(1).to(gl.int64) * BT
    M64 = M.to(gl.int64)

    # B [BT, 16, 8], and res and post as they follow G, in the layout of a right operand
    t = base + gl.arange(0, BT, layout=gl.SliceLayout(1, gl.SliceLayout(2, right)))[:, None, None]
    k = gl.arange(0, 16, layout=gl.SliceLayout(0, gl.SliceLayout(2, right)))[None, :, None]
    o = gl.arange(0, 8, layout=gl.SliceLayout(0, gl.SliceLayout(1, right)))[None, None, :]
    live = t < M
    write = gl.load(post_ptr + t * 8 + o + 0 * k, mask=live & (k == 8), other=0.0)
    if MIXES:
        write += gl.load(res_ptr + t * 64 + o * 8 + k, mask=live & (k < 8), other=0.0)
        back = gl.load(res_ptr + t * 64 + (k % 8) * 8 + o, mask=live, other=0.0)
    else:
        write += gl.where(k == o, 1.0, 0.0)
        back = gl.where(k % 8 == o, 1.0, 0.0) + 0.0 * t.to(gl.float32)
    B = gl.zeros([BT, 16, 8], gl.float32, right)
    if PROJECTS:
        stream = o if SQUARES > 1 else 0 * o
        B += gl.load(q_ptr + stream * M64 + t + 0 * k, mask=live, other=0.0) * write
    if READS:
        pre = gl.load(pre_ptr + t * 8 + o + 0 * k, mask=live, other=0.0)
        if NORMS:
            read = gl.sum(pre * write, 2)[:, :, None]
            read = gl.convert_layout(read, right)
            inverse = gl.load(norm_ptr + t + 0 * k + 0 * o, mask=live, other=0.0)
            pull = gl.load(norm_ptr + M64 + t + 0 * k + 0 * o, mask=live, other=0.0)
            B += gl.where((k == 9) | (k == 10), inverse, -pull * read) * pre
        else:
            B += gl.where((k == 9) | (k == 10), pre, 0.0)
    B_high = B.to(gl.bfloat16)
    B_rest = (B - B_high.to(gl.float32)).to(gl.bfloat16)
    back = high_or_rest(back, k + 0 * t + 0 * o < 8)
    wt = gl.arange(0, WARPS, layout=gl.SliceLayout(1, gl.SliceLayout(2, right)))[:, None, None]
    wk = gl.arange(0, 128, layout=gl.SliceLayout(0, gl.SliceLayout(2, right)))[None, :, None]
    wt = wt + WARPS * (wk // 16)
    own = (wk // 16 == o) & (base + wt < M)
    weights = gl.load(post_ptr + (base + wt) * 8 + wk % 8 + 0 * o, mask=own, other=0.0)
    weights = high_or_rest(weights, (wk % 16 < 8) & (wt >= 0) & (o >= 0))

    if PROJECTS:
        mma_left: gl.constexpr = gl.DotOperandLayout(0, product, 2)
        mma_right: gl.constexpr = gl.DotOperandLayout(1, product, 2)
        row = base + gl.arange(0, BT, layout=gl.SliceLayout(1, mma_left))[:, None]
        last = K - 16 + gl.arange(0, 16, layout=gl.SliceLayout(0, mma_left))[None, :]
        g_last = gl.load(g_ptr + last * M64 + row, mask=(row < M) & (last < K), other=0.0)
        phis_last = gl.allocate_shared_memory(gl.bfloat16, [16, 8 * BC], gl.SwizzledSharedLayout(8, 1, 8, [1, 0]))
        if K > 16:
            first = gl.arange(0, 64, layout=gl.SliceLayout(0, mma_left))[None, :]
            g_first = gl.load(g_ptr + first * M64 + row, mask=(row < M) & (first < K), other=0.0)
            phis = gl.allocate_shared_memory(gl.bfloat16, [64, 8 * BC], gl.SwizzledSharedLayout(8, 1, 8, [1, 0]))
    Z = gl.allocate_shared_memory(element, [BT, 16, BC], gl.SwizzledSharedLayout(8, 2, 4, [2, 1, 0]))
    passing = gl.allocate_shared_memory(element, [BT, 8, BC], swizzled)
    if OUT:
        douts = gl.allocate_shared_memory(element, [BT, 8, BC], swizzled)

    rows = base + gl.arange(0, BT, layout=gl.SliceLayout(1, flat))
    columns = gl.arange(0, BC, layout=gl.SliceLayout(0, flat))
    which = gl.arange(0, 8, layout=gl.SliceLayout(0, gl.SliceLayout(2, rows_of)))[None, :, None]
    start = part * BC
    if PROJECTS:
        if K > 16:
            copy_block(phis, phi_ptr + start * (KP * 8), start, C, slab)
        copy_block(phis_last, phi_ptr + start * (KP * 8) + (K - 16) * (8 * BC), start, C, slab)
    async_copy.commit_group()
    if OUT:
        copy_tokens(douts, dout_ptr, base, start, M, C, streams)
    async_copy.commit_group()
    copy_tokens(Z.slice(0, 8, 1), x_ptr, base, start, M, C, streams)
    async_copy.commit_group()
    inside = (rows < M)[:, None] & (start + columns < C)[None, :]
    y = gl.load(y_ptr + rows[:, None] * C + (start + columns)[None, :], mask=inside, other=0.0)
    if READS:
        du = gl.load(du_ptr + rows[:, None] * C + (start + columns)[None, :], mask=inside, other=0.0)
    sums = gl.zeros([BT, 16, 8], gl.float32, per_token)
    for start in range(part * BC, C, STEP):
        column = start + columns
        ahead = start + STEP
        # y and w du, the latter in two parts, and zeros: the second half of Z
        more = gl.where(which == 0, y[:, None, :], gl.zeros([BT, 8, BC], element, rows_of))
        if READS:
            wide = du.to(gl.float32)
            if WEIGHS:
                wide *= gl.load(weight_ptr + column, mask=column < C, other=0.0).to(gl.float32)[None, :]
            near = wide.to(element)
            rest = (wide - near.to(gl.float32)).to(element)
            more = gl.where(which == 1, near[:, None, :], more)
            more = gl.where(which == 2, rest[:, None, :], more)
        Z.slice(8, 8, 1).store(more)
        async_copy.wait_group(2)
        if PROJECTS:
            through_phi = gl.zeros([BT, 8 * BC], gl.float32, product)
            if K > 16:
                through_phi = mma_v2(g_first, phis.load(mma_right), through_phi)
            through_phi = mma_v2(g_last, phis_last.load(mma_right), through_phi)
            passing.store(gl.reshape(through_phi.to(element), (BT, 8, BC)))
            if K > 16:
                copy_block(phis, phi_ptr + ahead * (KP * 8), ahead, C, slab)
            copy_block(phis_last, phi_ptr + ahead * (KP * 8) + (K - 16) * (8 * BC), ahead, C, slab)
        async_copy.commit_group()
        async_copy.wait_group(1)
        G = gl.zeros([BT, BC, 8], gl.float32, per_token)
        if PROJECTS:
            G += passing.permute((0, 2, 1)).load(per_token).to(gl.float32)
        if OUT:
            G += douts.permute((0, 2, 1)).load(per_token).to(gl.float32)
        z = Z.permute((0, 2, 1)).load(left)
        G = mma_v2(z, B_high, G)
        G = mma_v2(z, B_rest, G)
        narrow = G.to(element)
        passing.permute((0, 2, 1)).store(narrow)
        if OUT:
            copy_tokens(douts, dout_ptr, base, ahead, M, C, streams)
        async_copy.commit_group()
        sums = mma_v2(Z.load(left), passing.permute((0, 2, 1)).load(right), sums)
        twice = gl.reshape(gl.permute(gl.join(narrow, narrow), (0, 1, 3, 2)), (BT, BC, 16))
        dx = mma_v2(gl.convert_layout(twice, left), back, gl.zeros([BT, BC, 8], gl.float32, per_token))
        passing.permute((0, 2, 1)).store(dx.to(element))
        copy_tokens(Z.slice(0, 8, 1), x_ptr, base, ahead, M, C, streams)
        async_copy.commit_group()
        inside_next = (rows < M)[:, None] & (ahead + columns < C)[None, :]
        y = gl.load(y_ptr + rows[:, None] * C + (ahead + columns)[None, :], mask=inside_next, other=0.0)
        if READS:
            du = gl.load(du_ptr + rows[:, None] * C + (ahead + columns)[None, :], mask=inside_next, other=0.0)
        along = gl.reshape(gl.permute(gl.reshape(twice, (8, WARPS, BC, 16)), (1, 2, 0, 3)), (WARPS, BC, 128))
        dy = mma_v2(gl.convert_layout(along, left), weights, gl.zeros([WARPS, BC, 8], gl.float32, per_token))
        dy = gl.reshape(gl.permute(dy.to(element), (2, 0, 1)), (BT, BC))
        inside = (rows < M)[:, None] & (column < C)[None, :]
        gl.store(dy_ptr + rows[:, None] * C + column[None, :], gl.convert_layout(dy, flat), mask=inside)
        sr = base + gl.arange(0, BT, layout=gl.SliceLayout(1, gl.SliceLayout(2, streams)))[:, None, None]
        ss = gl.arange(0, 8, layout=gl.SliceLayout(0, gl.SliceLayout(2, streams)))[None, :, None]
        sc = start + gl.arange(0, BC, layout=gl.SliceLayout(0, gl.SliceLayout(1, streams)))[None, None, :]
        gl.store(dx_ptr + sr * (8 * C) + ss * C + sc, passing.load(streams), mask=(sr < M) & (sc < C) & (ss < 8))
    SIZE: gl.constexpr = 72 if MIXES else 8
    t = base + gl.arange(0, BT, layout=gl.SliceLayout(1, gl.SliceLayout(2, per_token)))[:, None, None]
    k = gl.arange(0, 16, layout=gl.SliceLayout(0, gl.SliceLayout(2, per_token)))[None, :, None]
    o = gl.arange(0, 8, layout=gl.SliceLayout(0, gl.SliceLayout(1, per_token)))[None, None, :]
    at = sums_ptr + (part * M64 + t) * SIZE + gl.where(k < 8, 8 + o * 8 + k, o)
    gl.store(at, sums, mask=(t < M) & ((k == 8) | ((k < 8) & MIXES)) & (o < 8))
