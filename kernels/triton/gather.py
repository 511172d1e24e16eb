"""The gradient of x', gathered from everything that read it, and the gradient of phi.

``G[j] = dout[j] + pre[j] dv + sum_k g[k] phi[k, j] + q x'[j]`` with dv the gradient of the read before its norm. A program owns BC columns of all n
streams and walks a range of tokens, BT at a time. phi's slab stays on chip, or its gradient ``sum_t g[t, k] x'[t, j]``, which leaves as one
partial sum per range of tokens, added later in a fixed order. Nothing is atomic, so every run gives the same bits.
"""
# mypy: ignore-errors
# (Triton's language in Python's syntax: tuples grow, arguments have no annotations.)

import triton
import triton.language as tl

from resbench.kernels.triton.product import dot


@triton.jit(do_not_specialize=["M", "RANGE"])
def gather_kernel(
    joined_ptr,  # [M, n, C]
    dout_ptr,  # [M, n, C], the gradient of x' from the next boundary (OUT)
    du_ptr,  # [M, C]
    pre_ptr,  # [M, n]
    weight_ptr,  # [C]
    norm_ptr,  # [2, M]
    g_ptr,  # [KP, M]
    q_ptr,  # [SQUARES, M]
    phi_ptr,  # [K, n C], bf16 or float32
    gradient_ptr,  # [M, n, C], written
    M,
    RANGE,  # tokens per range, a multiple of BT
    n: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    KP: tl.constexpr,
    PROJECTS: tl.constexpr,
    SQUARES: tl.constexpr,
    READS: tl.constexpr,
    NORMS: tl.constexpr,
    WEIGHS: tl.constexpr,
    OUT: tl.constexpr,
    BT: tl.constexpr,
    BC: tl.constexpr,
    STAGES: tl.constexpr,
):
    slab = tl.program_id(0)
    part = tl.program_id(1)
    M64 = M.to(tl.int64)
    columns = slab * BC + tl.arange(0, BC)
    within = columns < C
    k = tl.arange(0, KP)
    phi = ()
    if PROJECTS:
        filled = (k[:, None] < K) & within[None, :]
        for j in tl.static_range(n):
            phi = phi + (tl.load(phi_ptr + k[:, None] * (n * C) + j * C + columns[None, :], mask=filled, other=0.0),)
    weight = tl.full([1, BC], 1.0, tl.float32)
    if WEIGHS:
        weight = tl.load(weight_ptr + columns, mask=within, other=0.0).to(tl.float32)[None, :]
    for start in tl.range(part * RANGE, tl.minimum((part + 1) * RANGE, M), BT, num_stages=STAGES):
        rows = (start + tl.arange(0, BT)).to(tl.int64)
        live = rows < M
        inside = live[:, None]
        if C % BC != 0:
            inside = inside & within[None, :]
        at = rows[:, None] * (n * C) + columns[None, :]
        joined = ()
        for i in tl.static_range(n):
            joined = joined + (tl.load(joined_ptr + at + i * C, mask=inside, other=0.0),)
        pre = ()
        if READS:
            du = tl.load(du_ptr + rows[:, None] * C + columns[None, :], mask=inside, other=0.0).to(tl.float32)
            for j in tl.static_range(n):
                pre = pre + (tl.load(pre_ptr + rows * n + j, mask=live, other=0.0)[:, None],)
            dv = du
            if NORMS:
                v = pre[0] * joined[0].to(tl.float32)
                for j in tl.static_range(1, n):
                    v += pre[j] * joined[j].to(tl.float32)
                inverse = tl.load(norm_ptr + rows, mask=live, other=0.0)[:, None]
                pull = tl.load(norm_ptr + M64 + rows, mask=live, other=0.0)[:, None]
                dv = inverse * weight * du - pull * v
        if PROJECTS:
            g = tl.load(g_ptr + k[None, :] * M64 + rows[:, None], mask=live[:, None], other=0.0)
        q = tl.zeros([BT, 1], tl.float32)
        for j in tl.static_range(n):
            total = tl.zeros([BT, BC], tl.float32)
            if PROJECTS:
                total = dot(g, phi[j], total)
                if j < SQUARES:
                    q = tl.load(q_ptr + j * M64 + rows, mask=live, other=0.0)[:, None]
                total += q * joined[j].to(tl.float32)
            if OUT:
                total += tl.load(dout_ptr + at + j * C, mask=inside, other=0.0).to(tl.float32)
            if READS:
                total += pre[j] * dv
            tl.store(gradient_ptr + at + j * C, total.to(gradient_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["M", "RANGE"])
def learn_kernel(
    joined_ptr,  # [M, n, C]
    g_ptr,  # [KP, M]
    dphi_ptr,  # [ranges, K, n C] float32, written
    M,
    RANGE,  # tokens per range, a multiple of BT
    n: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    KP: tl.constexpr,
    BT: tl.constexpr,
    BC: tl.constexpr,
    STAGES: tl.constexpr,
):
    slab = tl.program_id(0)
    part = tl.program_id(1)
    M64 = M.to(tl.int64)
    columns = slab * BC + tl.arange(0, BC)
    within = columns < C
    k = tl.arange(0, KP)
    dphi = ()
    for _ in tl.static_range(n):
        dphi = dphi + (tl.zeros([KP, BC], tl.float32),)
    for start in tl.range(part * RANGE, tl.minimum((part + 1) * RANGE, M), BT, num_stages=STAGES):
        rows = (start + tl.arange(0, BT)).to(tl.int64)
        live = rows < M
        inside = live[:, None]
        if C % BC != 0:
            inside = inside & within[None, :]
        at = rows[:, None] * (n * C) + columns[None, :]
        g = tl.load(g_ptr + k[:, None] * M64 + rows[None, :], mask=live[None, :], other=0.0)
        added = ()
        for j in tl.static_range(n):
            joined = tl.load(joined_ptr + at + j * C, mask=inside, other=0.0)
            added = added + (dot(g, joined.to(g.dtype), dphi[j]),)
        dphi = added
    for j in tl.static_range(n):
        tl.store(
            dphi_ptr + (part * K + k[:, None]).to(tl.int64) * (n * C) + j * C + columns[None, :],
            dphi[j],
            mask=(k[:, None] < K) & within[None, :],
        )
