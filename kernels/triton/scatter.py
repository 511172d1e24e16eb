"""The backward pass of the write: from the gradient G of x' to those of x, y, post and res, one pass over every operand.

``dx[i] = sum_o res[o, i] G[o]``, ``dy = sum_o post[o] G[o]``, ``dpost[o] = <G[o], y>``, ``dres[o, i] = <G[o], x[i]>``. A program owns BT whole
tokens, with a warp or more per token, so that the inner products never leave it.
"""
# mypy: ignore-errors
# (Triton's language in Python's syntax: tuples grow, arguments have no annotations.)

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["M"])
def scatter_kernel(
    x_ptr,  # [M, n, C]
    y_ptr,  # [M, C]
    post_ptr,  # [M, n]
    res_ptr,  # [M, n, n]
    gradient_ptr,  # [M, n, C], without what the read returns (READS)
    du_ptr,  # [M, C] (READS)
    v_ptr,  # [M, C] (NORMS): the read before its norm
    pre_ptr,  # [M, n]
    weight_ptr,  # [C] (WEIGHS)
    norm_ptr,  # [2, M]
    dx_ptr,  # [M, n, C], written
    dy_ptr,  # [M, C], written
    dpost_ptr,  # [M, n], written
    dres_ptr,  # [M, n, n], written
    M,
    n: tl.constexpr,
    C: tl.constexpr,
    MIXES: tl.constexpr,
    READS: tl.constexpr,
    NORMS: tl.constexpr,
    WEIGHS: tl.constexpr,
    BT: tl.constexpr,
    BC: tl.constexpr,
    STAGES: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BT + tl.arange(0, BT)
    live = rows < M
    post = ()
    res = ()
    sums = ()
    for o in tl.static_range(n):
        post = post + (tl.load(post_ptr + rows * n + o, mask=live, other=0.0)[:, None],)
        sums = sums + (tl.zeros([BT], tl.float32),)
    if MIXES:
        for e in tl.static_range(n * n):
            res = res + (tl.load(res_ptr + rows * (n * n) + e, mask=live, other=0.0)[:, None],)
            sums = sums + (tl.zeros([BT], tl.float32),)
    pre = ()
    if READS:
        for o in tl.static_range(n):
            pre = pre + (tl.load(pre_ptr + rows * n + o, mask=live, other=0.0)[:, None],)
        if NORMS:
            inverse = tl.load(norm_ptr + rows, mask=live, other=0.0)[:, None]
            pull = tl.load(norm_ptr + M.to(tl.int64) + rows, mask=live, other=0.0)[:, None]
    for start in tl.range(0, C, BC, num_stages=STAGES):
        columns = start + tl.arange(0, BC)
        inside = live[:, None]
        if C % BC != 0:
            inside = inside & (columns < C)[None, :]
        at = rows[:, None] * (n * C) + columns[None, :]
        narrow = rows[:, None] * C + columns[None, :]
        y = tl.load(y_ptr + narrow, mask=inside, other=0.0).to(tl.float32)
        if READS:
            dv = tl.load(du_ptr + narrow, mask=inside, other=0.0).to(tl.float32)
            if WEIGHS:
                dv = dv * tl.load(weight_ptr + columns, mask=columns < C, other=0.0).to(tl.float32)[None, :]
            if NORMS:
                dv = inverse * dv - pull * tl.load(v_ptr + narrow, mask=inside, other=0.0).to(tl.float32)
        gradients = ()
        for o in tl.static_range(n):
            one = tl.load(gradient_ptr + at + o * C, mask=inside, other=0.0).to(tl.float32)
            if READS:
                one += pre[o] * dv
            gradients = gradients + (one,)
        dy = post[0] * gradients[0]
        for o in tl.static_range(1, n):
            dy += post[o] * gradients[o]
        tl.store(dy_ptr + narrow, dy.to(dy_ptr.dtype.element_ty), mask=inside)
        new_sums = ()
        for o in tl.static_range(n):
            along = gradients[o] * y
            new_sums = new_sums + (sums[o] + tl.sum(along, 1),)
        mixed = ()
        for i in tl.static_range(n):
            if MIXES:
                total = res[i] * gradients[0]
                for o in tl.static_range(1, n):
                    total += res[o * n + i] * gradients[o]
                x = tl.load(x_ptr + at + i * C, mask=inside, other=0.0).to(tl.float32)
                for o in tl.static_range(n):
                    along = gradients[o] * x
                    mixed = mixed + (sums[n + i * n + o] + tl.sum(along, 1),)
            else:
                total = gradients[i]
            tl.store(dx_ptr + at + i * C, total.to(dx_ptr.dtype.element_ty), mask=inside)
        sums = new_sums + mixed
    for o in tl.static_range(n):
        tl.store(dpost_ptr + rows * n + o, sums[o], mask=live)
    if MIXES:
        for i in tl.static_range(n):
            for o in tl.static_range(n):
                found = sums[n + i * n + o]
                tl.store(dres_ptr + rows * (n * n) + o * n + i, found, mask=live)
