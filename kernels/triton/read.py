"""The read, ``u = sum_j pre[j] x[j]``, with the branch's RMSNorm, and the token-wise sums its backward pass starts from.

The norm's gradient needs sums over all columns before any column can be finished. Both sums per stream come from one pass over x and du:
``a_j = <w du, x_j>`` and ``b_j = <v, x_j>`` with v the read before the norm; then <w du, v> = sum_j pre_j a_j. The read keeps the
inverse RMS of v, so that the same pass also sums the gradient of the norm's weight over its range of tokens.
"""
# mypy: ignore-errors
# (Triton's language in Python's syntax: tuples grow, arguments have no annotations.)

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["M"])
def read_kernel(
    x_ptr,  # [M, n, C]
    pre_ptr,  # [M, n] float32
    weight_ptr,  # [C]
    u_ptr,  # [M, C], written
    inverse_ptr,  # [M], written (NORMS): the inverse RMS of the read
    M,
    eps,
    n: tl.constexpr,
    C: tl.constexpr,
    NORMS: tl.constexpr,
    WEIGHS: tl.constexpr,
    BT: tl.constexpr,
    BC: tl.constexpr,
    CHUNKS: tl.constexpr,  # BC * CHUNKS >= C
):
    rows = tl.program_id(0).to(tl.int64) * BT + tl.arange(0, BT)
    live = rows < M
    pre = ()
    for j in tl.static_range(n):
        pre = pre + (tl.load(pre_ptr + rows * n + j, mask=live, other=0.0)[:, None],)
    square = tl.zeros([BT], tl.float32)
    pieces = ()
    for chunk in tl.static_range(CHUNKS):
        columns = chunk * BC + tl.arange(0, BC)
        inside = live[:, None] & (columns < C)[None, :]
        at = rows[:, None] * (n * C) + columns[None, :]
        total = pre[0] * tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
        for j in tl.static_range(1, n):
            total += pre[j] * tl.load(x_ptr + at + j * C, mask=inside, other=0.0).to(tl.float32)
        if NORMS:
            square += tl.sum(total * total, 1)
        pieces = pieces + (total,)
    if NORMS:
        scale = 1.0 / tl.sqrt(square / C + eps)
        tl.store(inverse_ptr + rows, scale, mask=live)
    for chunk in tl.static_range(CHUNKS):
        columns = chunk * BC + tl.arange(0, BC)
        inside = live[:, None] & (columns < C)[None, :]
        value = pieces[chunk]
        if NORMS:
            value = value * scale[:, None]
            if WEIGHS:
                value = value * tl.load(weight_ptr + columns, mask=columns < C, other=0.0).to(tl.float32)[None, :]
        tl.store(u_ptr + rows[:, None] * C + columns[None, :], value.to(u_ptr.dtype.element_ty), mask=inside)


@triton.jit
def folded(a, BT: tl.constexpr, BC: tl.constexpr):
    """[BT, BC] -> [BT, BC / 8], each thread's eight neighbours added up: one register instead of eight per running sum."""
    return tl.sum(tl.reshape(a, (BT, BC // 8, 8)), 2)


@triton.jit(do_not_specialize=["M", "RANGE"])
def read_sums_kernel(
    x_ptr,  # [M, n, C]
    pre_ptr,  # [M, n]
    weight_ptr,  # [C] (WEIGHS)
    du_ptr,  # [M, C]
    inverse_ptr,  # [M] (NORMS)
    dpre_ptr,  # [n, M], written
    norm_ptr,  # [2, M], written (NORMS): inverse RMS of v, and inverse^3 <w du, v> / C
    dweight_ptr,  # [ranges, C] float32, written (WEIGHS)
    v_ptr,  # [M, C], written (KEEPS)
    M,
    RANGE,  # tokens per program, a multiple of BT
    n: tl.constexpr,
    C: tl.constexpr,
    NORMS: tl.constexpr,
    WEIGHS: tl.constexpr,
    KEEPS: tl.constexpr,
    BT: tl.constexpr,
    BC: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    program = tl.program_id(0)
    M64 = M.to(tl.int64)
    dweight = ()
    for _ in tl.static_range(CHUNKS):
        dweight = dweight + (tl.zeros([BT, BC], tl.float32),)
    for start in range(program * RANGE, tl.minimum((program + 1) * RANGE, M), BT):
        rows = (start + tl.arange(0, BT)).to(tl.int64)
        live = rows < M
        pre = ()
        a = ()
        b = ()
        for j in tl.static_range(n):
            pre = pre + (tl.load(pre_ptr + rows * n + j, mask=live, other=0.0),)
            a = a + (tl.zeros([BT, BC // 8], tl.float32),)
            b = b + (tl.zeros([BT, BC // 8], tl.float32),)
        if NORMS:
            inverse = tl.load(inverse_ptr + rows, mask=live, other=0.0)
        learnt = ()
        for chunk in tl.static_range(CHUNKS):
            columns = chunk * BC + tl.arange(0, BC)
            inside = live[:, None] & (columns < C)[None, :]
            at = rows[:, None] * (n * C) + columns[None, :]
            narrow = rows[:, None] * C + columns[None, :]
            du = tl.load(du_ptr + narrow, mask=inside, other=0.0).to(tl.float32)
            streams = ()
            for j in tl.static_range(n):
                streams = streams + (tl.load(x_ptr + at + j * C, mask=inside, other=0.0).to(tl.float32),)
            if NORMS:
                v = pre[0][:, None] * streams[0]
                for j in tl.static_range(1, n):
                    v += pre[j][:, None] * streams[j]
                if KEEPS:
                    tl.store(v_ptr + narrow, v.to(v_ptr.dtype.element_ty), mask=inside)
                new_b = ()
                for j in tl.static_range(n):
                    new_b = new_b + (b[j] + folded(v * streams[j], BT, BC),)
                b = new_b
                if WEIGHS:
                    learnt = learnt + (dweight[chunk] + (inverse[:, None] * du) * v,)
            if WEIGHS:
                du = du * tl.load(weight_ptr + columns, mask=columns < C, other=0.0).to(tl.float32)[None, :]
            new_a = ()
            for j in tl.static_range(n):
                new_a = new_a + (a[j] + folded(du * streams[j], BT, BC),)
            a = new_a
        if WEIGHS:
            dweight = learnt
        # across lanes and warps once per token
        summed = ()
        for j in tl.static_range(n):
            summed = summed + (tl.sum(a[j], 1),)
        a = summed
        if NORMS:
            summed = ()
            for j in tl.static_range(n):
                summed = summed + (tl.sum(b[j], 1),)
            b = summed
            along = pre[0] * a[0]
            for j in tl.static_range(1, n):
                along += pre[j] * a[j]
            pull = inverse * inverse * inverse * along / C
            tl.store(norm_ptr + rows, inverse, mask=live)
            tl.store(norm_ptr + M64 + rows, pull, mask=live)
            for j in tl.static_range(n):
                tl.store(dpre_ptr + j * M64 + rows, inverse * a[j] - pull * b[j], mask=live)
        else:
            for j in tl.static_range(n):
                tl.store(dpre_ptr + j * M64 + rows, a[j], mask=live)
    if WEIGHS:
        for chunk in tl.static_range(CHUNKS):
            columns = chunk * BC + tl.arange(0, BC)
            tl.store(dweight_ptr + program * C + columns, tl.sum(dweight[chunk], 0), mask=columns < C)
