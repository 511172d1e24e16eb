"""Sinkhorn-Knopp on blocks of matrices [tokens, n, n] spread over a warp, for the n at which `sinkhorn.py` would unroll into too much code.

Forward and backward follow `reference.sinkhorn` (columns first, exp, no eps): the first pair on logarithms, the rest in plain arithmetic. The
backward pass differentiates the truncated iteration exactly. It repeats the forward keeping only the sums of each pair, in scratch, then undoes
one normalisation after another: M before = M after x its sums. n is a power of two.
"""
# mypy: ignore-errors
# (Triton's language in Python's syntax: tuples grow, arguments have no annotations.)

import triton
import triton.language as tl


@triton.jit
def start(logits, n: tl.constexpr, ITERATES: tl.constexpr):
    """logits [BT, n, n] as [out, in] -> (the column softmax, the matrix after the first pair); exp(logits - max) twice if not ITERATES."""
    if ITERATES:
        peak = tl.max(logits, 1)
        log_sums = peak + tl.log(tl.sum(tl.exp(logits - peak[:, None, :]), 1))
        logarithm = logits - log_sums[:, None, :]
        columns = tl.exp(logarithm)
        peak = tl.max(logarithm, 2)
        log_sums = peak + tl.log(tl.sum(tl.exp(logarithm - peak[:, :, None]), 2))
        matrix = tl.exp(logarithm - log_sums[:, :, None])
    else:
        peak = tl.max(tl.max(logits, 2), 1)
        columns = tl.exp(logits - peak[:, None, None])
        matrix = columns
    return columns, matrix


@triton.jit
def wide_sinkhorn(logits, iterations, n: tl.constexpr, ITERATES: tl.constexpr):
    """The matrices of `iterations` pairs, [BT, n, n]."""
    _, matrix = start(logits, n, ITERATES)
    for _ in range(1, iterations):
        matrix = matrix * (1.0 / tl.sum(matrix, 1))[:, None, :]
        matrix = matrix * (1.0 / tl.sum(matrix, 2))[:, :, None]
    return matrix


@triton.jit
def wide_sinkhorn_backward(
    logits, gradient, sums_ptr, rows, live, M, iterations, n: tl.constexpr, ITERATES: tl.constexpr
):
    """The gradient of the logits from that of the matrices. `sums_ptr` [iterations - 1, 2, M, n] is scratch."""
    columns, matrix = start(logits, n, ITERATES)
    at = sums_ptr + rows[:, None] * n + tl.arange(0, n)[None, :]
    stride = M * n
    for t in range(1, iterations):
        sums = tl.sum(matrix, 1)
        tl.store(at + (2 * t - 2) * stride, sums, mask=live[:, None])
        matrix = matrix * (1.0 / sums)[:, None, :]
        sums = tl.sum(matrix, 2)
        tl.store(at + (2 * t - 1) * stride, sums, mask=live[:, None])
        matrix = matrix * (1.0 / sums)[:, :, None]
    tl.debug_barrier()  # another thread of this program may read what this one stored
    for back in range(1, iterations):
        t = iterations - back
        column_sums = tl.load(at + (2 * t - 2) * stride, mask=live[:, None], other=1.0)
        row_sums = tl.load(at + (2 * t - 1) * stride, mask=live[:, None], other=1.0)
        shares = tl.sum(gradient * matrix, 2)
        gradient = (gradient - shares[:, :, None]) * (1.0 / row_sums)[:, :, None]
        matrix = matrix * row_sums[:, :, None]
        shares = tl.sum(gradient * matrix, 1)
        gradient = (gradient - shares[:, None, :]) * (1.0 / column_sums)[:, None, :]
        matrix = matrix * column_sums[:, None, :]
    if ITERATES:
        # the first pair: a row softmax of the logarithm of a column softmax
        inner = matrix * (gradient - tl.sum(gradient * matrix, 2)[:, :, None])
        found = inner - columns * tl.sum(inner, 1)[:, None, :]
    else:
        # exp(logits - max): the largest logits share what the shift takes away
        peak = tl.max(tl.max(logits, 2), 1)
        largest = tl.where(logits == peak[:, None, None], 1.0, 0.0)
        weighted = gradient * matrix
        total = tl.sum(tl.sum(weighted, 2), 1) / tl.sum(tl.sum(largest, 2), 1)
        found = weighted - largest * total[:, None, None]
    return found


@triton.jit
def entries(ptr, rows, live, n: tl.constexpr):
    """Where matrices [M, n, n] of these rows are, and which exist."""
    index = tl.arange(0, n)
    at = ptr + rows[:, None, None] * (n * n) + (index[:, None] * n + index[None, :])[None, :, :]
    return at, live[:, None, None] & (index[None, :, None] < n) & (index[None, None, :] < n)


@triton.jit
def coefficient_entries(ptr, rows, M, n: tl.constexpr):
    """The same of the coefficients [K, M] from 2 n on."""
    index = tl.arange(0, n)
    return ptr + (2 * n + index[:, None] * n + index[None, :])[None, :, :] * M + rows[:, None, None]


@triton.jit(do_not_specialize=["M", "iterations"])
def wide_sinkhorn_kernel(logits_ptr, out_ptr, M, iterations, n: tl.constexpr, ITERATES: tl.constexpr, BT: tl.constexpr):
    """logits [M, n, n] -> matrices [M, n, n]."""
    rows = tl.program_id(0).to(tl.int64) * BT + tl.arange(0, BT)
    at, mask = entries(logits_ptr, rows, rows < M, n)
    logits = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    out, mask = entries(out_ptr, rows, rows < M, n)
    tl.store(out, wide_sinkhorn(logits, iterations, n, ITERATES), mask=mask)


@triton.jit(do_not_specialize=["M", "iterations"])
def wide_sinkhorn_backward_kernel(
    logits_ptr,
    dout_ptr,
    sums_ptr,  # scratch [iterations - 1, 2, M, n]
    dlogits_ptr,
    M,
    iterations,
    n: tl.constexpr,
    ITERATES: tl.constexpr,
    BT: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BT + tl.arange(0, BT)
    live = rows < M
    at, mask = entries(logits_ptr, rows, live, n)
    logits = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    at, mask = entries(dout_ptr, rows, live, n)
    gradient = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    found = wide_sinkhorn_backward(logits, gradient, sums_ptr, rows, live, M.to(tl.int64), iterations, n, ITERATES)
    at, mask = entries(dlogits_ptr, rows, live, n)
    tl.store(at, found.to(dlogits_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["M", "iterations"])
def wide_mixing_kernel(
    kept_ptr,  # [K + 1, M]
    alpha_ptr,
    bias_ptr,
    res_ptr,  # [M, n, n], written
    M,
    iterations,
    n: tl.constexpr,
    ITERATES: tl.constexpr,
    BT: tl.constexpr,
):
    """mHC's mixing coefficients from the normalised projections that `gates.mhc_gates_kernel` kept."""
    rows = tl.program_id(0).to(tl.int64) * BT + tl.arange(0, BT)
    out, mask = entries(res_ptr, rows, rows < M, n)
    kept = tl.load(coefficient_entries(kept_ptr, rows, M.to(tl.int64), n), mask=mask, other=0.0)
    bias = tl.load(coefficient_entries(bias_ptr, rows * 0, 1, n)).to(tl.float32)
    logits = tl.load(alpha_ptr + 2).to(tl.float32) * kept + bias
    tl.store(out, wide_sinkhorn(logits, iterations, n, ITERATES), mask=mask)


@triton.jit(do_not_specialize=["M", "iterations", "programs", "parts"])
def wide_mixing_backward_kernel(
    kept_ptr,  # [K + 1, M]
    alpha_ptr,
    bias_ptr,
    dres_ptr,  # [M, n, n]
    sums_ptr,  # scratch [iterations - 1, 2, M, n]
    g_ptr,  # [KP, M], written from row 2 n on
    share_ptr,  # [M], written: the mixing coefficients' share of the norm's gradient
    partial_ptr,  # [2 K, parts], written from rows 2 n and K + 2 n on
    M,
    iterations,
    programs,  # tokens are dealt to them in turn
    parts,
    n: tl.constexpr,
    K: tl.constexpr,
    ITERATES: tl.constexpr,
    BT: tl.constexpr,
):
    program = tl.program_id(0)
    M64 = M.to(tl.int64)
    index = tl.arange(0, n)
    alpha = tl.load(alpha_ptr + 2).to(tl.float32)
    scales = tl.zeros([n, n], tl.float32)
    biases = tl.zeros([n, n], tl.float32)
    for block in range(program, tl.cdiv(M, BT), programs):
        rows = (block * BT + tl.arange(0, BT)).to(tl.int64)
        live = rows < M
        at, mask = entries(dres_ptr, rows, live, n)
        gradient = tl.load(at, mask=mask, other=0.0)
        kept = tl.load(coefficient_entries(kept_ptr, rows, M64, n), mask=mask, other=0.0)
        inverse = tl.load(kept_ptr + K * M64 + rows, mask=live, other=0.0)
        logits = alpha * kept + tl.load(coefficient_entries(bias_ptr, rows * 0, 1, n)).to(tl.float32)
        found = wide_sinkhorn_backward(logits, gradient, sums_ptr, rows, live, M64, iterations, n, ITERATES)
        found = tl.where(mask, found, 0.0)
        scaled = found * alpha
        out = coefficient_entries(g_ptr, rows, M64, n)
        tl.store(out, (scaled * inverse[:, None, None]).to(g_ptr.dtype.element_ty), mask=mask)
        tl.store(share_ptr + rows, tl.sum(tl.sum(scaled * kept, 2), 1), mask=live)
        scales += tl.sum(found * kept, 0)
        biases += tl.sum(found, 0)
    k = 2 * n + index[:, None] * n + index[None, :]
    tl.store(partial_ptr + k * parts + program, scales)
    tl.store(partial_ptr + (K + k) * parts + program, biases)
