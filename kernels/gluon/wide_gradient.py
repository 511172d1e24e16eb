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
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, warpgroup_mma, warpgroup_mma_wait

from resbench.kernels.gluon.tiles import copy, copy_block

TOKENS = 64
WARPS = 16
"""Of a program: every warp has four tokens."""

REINTERPRET = gl.constexpr("reinterpret" if hasattr(gl.shared_memory_descriptor, "reinterpret") else "_reinterpret")
"""What a method is called since Triton 3.9, and was before."""


@gluon.jit
def opaque(value):
    """The same value, of which the compiler knows nothing: pointers made from it are made when used, not kept and stepped each by itself."""
    return gl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [value], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def turned(block):
    """bf16 [BT, 32, 8] as a product leaves it -> the same values where the right operand of a product over columns wants them.

    Every 8 x 8 block is transposed among the lanes of its warp; nothing goes through shared memory.
    """
    BT: gl.constexpr = block.shape[0]
    moved = gl.inline_asm_elementwise(
        "movmatrix.sync.aligned.m8n8.trans.b16 $0, $1;", "=r,r", [block], dtype=block.dtype, is_pure=False, pack=2
    )
    return gl.reshape(gl.permute(gl.reshape(moved, (BT, 4, 8, 8)), (0, 1, 3, 2)), (BT, 32, 8))


@gluon.jit
def turned_operand(block):
    """The same for a left operand [BT, 32, 16] -> [BT, 16, 32]."""
    BT: gl.constexpr = block.shape[0]
    moved = gl.inline_asm_elementwise(
        "movmatrix.sync.aligned.m8n8.trans.b16 $0, $1;", "=r,r", [block], dtype=block.dtype, is_pure=False, pack=2
    )
    return gl.reshape(gl.permute(gl.reshape(moved, (BT, 4, 8, 2, 8)), (0, 3, 2, 1, 4)), (BT, 16, 32))


@gluon.jit
def beside(first, second):
    """[BT, BC, 8] and [BT, BC, 8] -> [BT, BC, 16], in the same registers."""
    joined = gl.permute(gl.join(first, second), (0, 1, 3, 2))
    return gl.reshape(joined, (first.shape[0], first.shape[1], 16))


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
):
    BT: gl.constexpr = 64
    WARPS: gl.constexpr = 16
    PER: gl.constexpr = BT // WARPS
    GROUPS: gl.constexpr = 2
    GROUP: gl.constexpr = BT // GROUPS
    HALF: gl.constexpr = PER // GROUPS
    BC: gl.constexpr = 32
    STEP: gl.constexpr = PARTS * BC
    element: gl.constexpr = dx_ptr.dtype.element_ty
    per_token: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [WARPS, 1, 1], [1, 16, 8])
    left: gl.constexpr = gl.DotOperandLayout(0, per_token, 2)
    right: gl.constexpr = gl.DotOperandLayout(1, per_token, 2)
    by_token: gl.constexpr = gl.SliceLayout(1, gl.SliceLayout(2, right))
    by_stream: gl.constexpr = gl.SliceLayout(1, right)
    streams: gl.constexpr = gl.BlockedLayout([1, 1, 8], [1, 8, 4], [WARPS, 1, 1], [2, 1, 0])
    rows_of: gl.constexpr = gl.BlockedLayout([1, 1, 4, 4], [4, 1, 1, 8], [WARPS, 1, 1, 1], [3, 2, 1, 0])
    flat: gl.constexpr = gl.SliceLayout(1, gl.SliceLayout(2, rows_of))
    stepwise: gl.constexpr = gl.BlockedLayout([1, 1, 1, 8], [1, 1, 8, 4], [1, WARPS, 1, 1], [3, 2, 1, 0])
    axis0: gl.constexpr = gl.SliceLayout(1, gl.SliceLayout(2, gl.SliceLayout(3, stepwise)))
    axis1: gl.constexpr = gl.SliceLayout(0, gl.SliceLayout(2, gl.SliceLayout(3, stepwise)))
    axis2: gl.constexpr = gl.SliceLayout(0, gl.SliceLayout(1, gl.SliceLayout(3, stepwise)))
    axis3: gl.constexpr = gl.SliceLayout(0, gl.SliceLayout(1, gl.SliceLayout(2, stepwise)))
    slab: gl.constexpr = gl.BlockedLayout([1, 8], [1, 32], [WARPS, 1], [1, 0])
    rowwise: gl.constexpr = gl.SwizzledSharedLayout(8, 2, 4, [2, 1, 0])
    swizzled: gl.constexpr = token_stream_layout(GROUP)
    part = gl.program_id(0)
    base = gl.program_id(1).to(gl.int64) * BT
    M64 = M.to(gl.int64)

    Z = gl.allocate_shared_memory(element, [BT, 16, BC], rowwise)
    if OUT:
        douts = gl.allocate_shared_memory(element, [BT, 8, BC], rowwise)
    by_turn: gl.constexpr = gl.SwizzledSharedLayout(8, 2, 4, [3, 2, 1, 0])
    x_tiles = getattr(Z, REINTERPRET)(element, [PER, WARPS, 16, BC], by_turn).slice(0, 8, 2)
    if OUT:
        dout_tiles = getattr(douts, REINTERPRET)(element, [PER, WARPS, 8, BC], by_turn)
    # one for each half of the tokens: writing to one then waits for nothing that concerns the other
    passing = ()
    for _ in gl.static_range(GROUPS):
        passing = passing + (gl.allocate_shared_memory(element, [GROUP, 8, BC], swizzled),)
    if PROJECTS:
        slabs: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
        phis_last = gl.allocate_shared_memory(gl.bfloat16, [16, 8 * BC], slabs)
        if K > 16:
            phis = gl.allocate_shared_memory(gl.bfloat16, [64, 8 * BC], slabs)
    # pointers to the block and to each turn's columns are scalars; what is added to them fits 32 bits
    tokens = (M - gl.program_id(1) * BT).to(gl.int32)  # that are left
    x_ptr += base * (8 * C)
    y_ptr += base * C
    dx_ptr += base * (8 * C)
    dy_ptr += base * C
    if OUT:
        dout_ptr += base * (8 * C)
    if READS:
        du_ptr += base * C
    rows = gl.arange(0, BT, layout=gl.SliceLayout(1, flat))[:, None]
    columns = gl.arange(0, BC, layout=gl.SliceLayout(0, flat))[None, :]
    # [PER, WARPS, 8, BC]: what belongs to a thread of a block [BT, 8, BC], the steps of WARPS tokens first
    turns = gl.arange(0, PER, layout=axis0)[:, None, None, None]
    steps = gl.arange(0, HALF, layout=axis0)[:, None, None, None]
    warps = gl.arange(0, WARPS, layout=axis1)[None, :, None, None]
    eight = gl.arange(0, 8, layout=axis2)[None, None, :, None]
    across = gl.arange(0, BC, layout=axis3)[None, None, None, :]
    start = part * BC
    if PROJECTS:
        if K > 16:
            copy_block(phis, phi_ptr + start * (KP * 8), start, C, slab)
        copy_block(phis_last, phi_ptr + start * (KP * 8) + (K - 16) * (8 * BC), start, C, slab)
    async_copy.commit_group()
    held = (warps < tokens - turns * WARPS) & (across < C - start) & (eight >= 0)
    wide_at = (warps * 8 + eight) * C + across
    if OUT:
        copy(dout_tiles, dout_ptr + start + wide_at + turns * (WARPS * 8 * C), mask=held)
    copy(x_tiles, x_ptr + start + wide_at + turns * (WARPS * 8 * C), mask=held)
    async_copy.commit_group()
    at = rows * C + columns
    inside = (rows < tokens) & (columns < C - start)
    y = gl.load(y_ptr + start + at, mask=inside, other=0.0)
    if READS:
        du = gl.load(du_ptr + start + at, mask=inside, other=0.0)

    # by group of half of the tokens, as right operands: B, what res and post make of G, and the identity
    k = gl.arange(0, 16, layout=gl.SliceLayout(0, gl.SliceLayout(2, right)))[None, :, None]
    o = gl.arange(0, 8, layout=gl.SliceLayout(0, gl.SliceLayout(1, right)))[None, None, :]
    wn = gl.arange(0, 2 * PER, layout=gl.SliceLayout(0, gl.SliceLayout(1, right)))[None, None, :]
    one = gl.full([GROUP, 16, 8], 1.0, gl.bfloat16, right)
    same = gl.where(k % 8 == o, one, gl.zeros([GROUP, 16, 8], gl.bfloat16, right))
    high = ()
    rest = ()
    back = ()
    weights = ()
    for h in gl.static_range(GROUPS):
        token = base + h * GROUP + gl.arange(0, GROUP, layout=by_token)
        t = token[:, None, None]
        live = t < M
        own_row = base + h * GROUP + gl.arange(0, GROUP, layout=gl.SliceLayout(1, by_stream))[:, None]
        entry = own_row * 8 + gl.arange(0, 8, layout=gl.SliceLayout(0, by_stream))[None, :]
        post = gl.load(post_ptr + entry, mask=own_row < M, other=0.0)[:, None, :]
        write = gl.where((k == 8) & (t >= 0), post, 0.0)
        if MIXES:
            write += gl.load(res_ptr + t * 64 + o * 8 + k, mask=live & (k < 8), other=0.0)
            mixing = gl.load(res_ptr + t * 64 + (k % 8) * 8 + o, mask=live, other=0.0)
        else:
            write += gl.where(k == o, 1.0, 0.0)
            mixing = gl.where(k % 8 == o, 1.0, 0.0) + 0.0 * t.to(gl.float32)
        B = gl.zeros([GROUP, 16, 8], gl.float32, right)
        if PROJECTS:
            if SQUARES > 1:
                square = gl.arange(0, 8, layout=gl.SliceLayout(0, by_stream))[None, :] * M64 + own_row
                B += gl.load(q_ptr + square, mask=own_row < M, other=0.0)[:, None, :] * write
            else:
                B += gl.load(q_ptr + token, mask=token < M, other=0.0)[:, None, None] * write
        if READS:
            pre = gl.load(pre_ptr + entry, mask=own_row < M, other=0.0)[:, None, :]
            if NORMS:
                read = gl.sum(pre * write, 2)[:, :, None]
                read = gl.convert_layout(read, right)
                inverse = gl.load(norm_ptr + token, mask=token < M, other=0.0)[:, None, None]
                pull = gl.load(norm_ptr + M64 + token, mask=token < M, other=0.0)[:, None, None]
                B += gl.where((k == 9) | (k == 10), inverse, -pull * read) * pre
            else:
                B += gl.where((k == 9) | (k == 10), pre, 0.0)
        B_high = B.to(gl.bfloat16)
        high = high + (B_high,)
        rest = rest + ((B - B_high.to(gl.float32)).to(gl.bfloat16),)
        back = back + (high_or_rest(mixing, k + 0 * t + 0 * o < 8),)
        # post: rows are the streams of a warp's tokens of this group, columns the two parts of each of its tokens
        wk = gl.arange(0, 8 * HALF, layout=gl.SliceLayout(0, gl.SliceLayout(2, right)))[None, :, None]
        wt = base + h * GROUP + WARPS * (wk // 8)
        wt = wt + gl.arange(0, WARPS, layout=gl.SliceLayout(1, gl.SliceLayout(2, right)))[:, None, None]
        own = (HALF * h + wk // 8 == wn // 2) & (wt < M)
        weight = gl.load(post_ptr + wt * 8 + wk % 8 + 0 * wn, mask=own, other=0.0)
        weights = weights + (high_or_rest(weight, (wn % 2 == 0) & (wt >= 0)),)

    if PROJECTS:
        groups: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, WARPS // 4], [16, 1024 // WARPS, 16])
        along: gl.constexpr = gl.BlockedLayout([1, 4], [2, 16], [WARPS, 1], [1, 0])
        gk = gl.arange(0, 16, layout=gl.SliceLayout(1, along))[:, None] + (K - 16)
        gt = gl.arange(0, BT, layout=gl.SliceLayout(0, along))[None, :]
        gt = base + gt // 8 % 2 * GROUP + gt // 16 * 8 + gt % 8
        g_last = gl.allocate_shared_memory(gl.bfloat16, [16, BT], slabs)
        g_last.store(gl.load(g_ptr + gk * M64 + gt, mask=(gt < M) & (gk < K), other=0.0))
        if K > 16:
            gk = gl.arange(0, 64, layout=gl.SliceLayout(1, along))[:, None]
            g_first = gl.allocate_shared_memory(gl.bfloat16, [64, BT], slabs)
            g_first.store(gl.load(g_ptr + gk * M64 + gt, mask=(gt < M) & (gk < K), other=0.0))
    which = gl.arange(0, 4, layout=gl.SliceLayout(0, gl.SliceLayout(1, gl.SliceLayout(3, rows_of))))
    which = which[None, None, :, None]
    Z.slice(8, 8, 1).store(gl.zeros([BT, 8, BC], element, streams))
    # rows 8 to 11 of Z by themselves
    quads: gl.constexpr = gl.SwizzledSharedLayout(8, 2, 2, [3, 2, 1, 0])
    mores = getattr(Z, REINTERPRET)(element, [BT, 4, 4, BC], quads).slice(2, 1, 1)
    sums = ()
    for _ in gl.static_range(GROUPS):
        sums = sums + (gl.zeros([GROUP, 16, 8], gl.float32, per_token),)
    for place in range(part, (C + BC - 1) // BC, PARTS):
        start = opaque(place) * BC
        ahead = start + STEP
        if PROJECTS:
            async_copy.wait_group(1)
            fence_async_shared()
            through_phi = gl.zeros([BT, 8 * BC], gl.float32, groups)
            if K > 16:
                through_phi = warpgroup_mma(g_first.permute((1, 0)), phis, through_phi, is_async=True)
            through_phi = warpgroup_mma(g_last.permute((1, 0)), phis_last, through_phi, is_async=True)
        # rows 8 to 10 of Z: y, and w du in two parts
        more = gl.where(which == 0, y[:, None, None, :], gl.zeros([BT, 1, 4, BC], element, rows_of))
        if READS:
            wide = du.to(gl.float32)
            if WEIGHS:
                wide *= gl.load(weight_ptr + start + columns, mask=columns < C - start, other=0.0).to(gl.float32)
            close = wide.to(element)
            far = (wide - close.to(gl.float32)).to(element)
            more = gl.where(which == 1, close[:, None, None, :], more)
            more = gl.where(which == 2, far[:, None, None, :], more)
        if PROJECTS:
            through_phi = warpgroup_mma_wait(0, deps=(through_phi,))
            through = gl.reshape(through_phi.to(element), (BT // 16, 2, 8, 8 * BC))
            upper, lower = gl.split(gl.permute(through, (0, 2, 3, 1)))
            passing[0].store(gl.reshape(upper, (GROUP, 8, BC)))
            passing[1].store(gl.reshape(lower, (GROUP, 8, BC)))
        mores.store(more)
        at = opaque(rows) * C + columns
        inside = (rows < tokens) & (columns < C - ahead)
        y = gl.load(y_ptr + ahead + at, mask=inside, other=0.0)
        if READS:
            du = gl.load(du_ptr + ahead + at, mask=inside, other=0.0)
        async_copy.wait_group(0)
        narrow = ()
        added = ()
        for h in gl.static_range(GROUPS):
            G = gl.zeros([GROUP, BC, 8], gl.float32, per_token)
            if PROJECTS:
                near = passing[h].permute((0, 2, 1)).load(per_token)
                other = gl.zeros([GROUP, BC, 8], element, per_token)
                if OUT:
                    other = douts.slice(h * GROUP, GROUP, 0).permute((0, 2, 1)).load(per_token)
                G = mma_v2(gl.convert_layout(beside(near, other), left, assert_trivial=True), same, G)
            elif OUT:
                G += douts.slice(h * GROUP, GROUP, 0).permute((0, 2, 1)).load(per_token).to(gl.float32)
            z = Z.slice(h * GROUP, GROUP, 0).permute((0, 2, 1)).load(left)
            G = mma_v2(z, high[h], G)
            G = mma_v2(z, rest[h], G)
            narrow = narrow + (G.to(element),)
            upright = gl.convert_layout(turned(narrow[h]), right, assert_trivial=True)
            lying = gl.convert_layout(turned_operand(z), left, assert_trivial=True)
            added = added + (mma_v2(lying, upright, sums[h]),)
        sums = added
        if PROJECTS:
            if K > 16:
                copy_block(phis, phi_ptr + ahead * (KP * 8), ahead, C, slab)
            copy_block(phis_last, phi_ptr + ahead * (KP * 8) + (K - 16) * (8 * BC), ahead, C, slab)
        async_copy.commit_group()
        held = (warps < tokens - turns * WARPS) & (across < C - ahead) & (eight >= 0)
        wide_at = opaque(warps * 8 + eight) * C + across
        if OUT:
            copy(dout_tiles, dout_ptr + ahead + wide_at + turns * (WARPS * 8 * C), mask=held)
        copy(x_tiles, x_ptr + ahead + wide_at + turns * (WARPS * 8 * C), mask=held)
        async_copy.commit_group()
        dy = gl.zeros([WARPS, BC, 2 * PER], gl.float32, per_token)
        for h in gl.static_range(GROUPS):
            twice = gl.convert_layout(beside(narrow[h], narrow[h]), left, assert_trivial=True)
            dx = mma_v2(twice, back[h], gl.zeros([GROUP, BC, 8], gl.float32, per_token))
            passing[h].permute((0, 2, 1)).store(dx.to(element))
            by_warp = gl.permute(gl.reshape(narrow[h], (HALF, WARPS, BC, 8)), (1, 2, 0, 3))
            by_warp = gl.convert_layout(gl.reshape(by_warp, (WARPS, BC, 8 * HALF)), left, assert_trivial=True)
            dy = mma_v2(by_warp, weights[h], dy)
        dy = gl.sum(gl.reshape(dy, (WARPS, BC, PER, 2)), 3)
        dy = gl.reshape(gl.permute(dy.to(element), (2, 0, 1)), (BT, BC))
        inside = (rows < tokens) & (columns < C - start)
        gl.store(dy_ptr + start + at, gl.convert_layout(dy, flat), mask=inside)
        wide_at = opaque(warps * 8 + eight) * C + across
        for h in gl.static_range(GROUPS):
            found = passing[h].load(streams)
            found = gl.convert_layout(gl.reshape(found, (HALF, WARPS, 8, BC)), stepwise, assert_trivial=True)
            owned = (warps < tokens - (h * HALF + steps) * WARPS) & (across < C - start) & (eight >= 0)
            gl.store(dx_ptr + start + wide_at + (h * HALF + steps) * (WARPS * 8 * C), found, mask=owned)
    SIZE: gl.constexpr = 72 if MIXES else 8
    k = gl.arange(0, 16, layout=gl.SliceLayout(0, gl.SliceLayout(2, per_token)))[None, :, None]
    o = gl.arange(0, 8, layout=gl.SliceLayout(0, gl.SliceLayout(1, per_token)))[None, None, :]
    for h in gl.static_range(GROUPS):
        t = gl.arange(0, GROUP, layout=gl.SliceLayout(1, gl.SliceLayout(2, per_token)))[:, None, None]
        t = base + h * GROUP + t
        at = sums_ptr + (part * M64 + t) * SIZE + gl.where(k < 8, 8 + o * 8 + k, o)
        gl.store(at, sums[h], mask=(t < M) & ((k == 8) | ((k < 8) & MIXES)) & (o < 8))
