"""Sinkhorn-Knopp with one token per lane: a matrix is n*n vectors of BT tokens, so no lane ever waits for another.

Forward and backward follow `reference.sinkhorn` (columns first, exp, no eps): the first pair on logarithms, the rest in plain arithmetic. The
backward pass differentiates the truncated iteration exactly. It repeats the forward keeping only the 2n sums of each pair (in `sums_ptr`,
written and read back by the same lane), then undoes one normalisation after another: M before = M after x its sums.
"""
# mypy: ignore-errors
# (Triton's language in Python's syntax: tuples grow, arguments have no annotations.)

import triton
import triton.language as tl


@triton.jit
def start(logits, n: tl.constexpr, ITERATES: tl.constexpr):
    """logits, a tuple of n*n vectors [out, in] -> (the column softmax, the matrix after the first pair); exp(logits - max) twice if not ITERATES."""
    columns = ()
    matrix = ()
    if ITERATES:
        log_sums = ()
        for i in tl.static_range(n):
            peak = logits[i]
            for o in tl.static_range(1, n):
                peak = tl.maximum(peak, logits[o * n + i])
            total = tl.exp(logits[i] - peak)
            for o in tl.static_range(1, n):
                total += tl.exp(logits[o * n + i] - peak)
            log_sums = log_sums + (peak + tl.log(total),)
        for o in tl.static_range(n):
            peak = logits[o * n] - log_sums[0]
            for i in tl.static_range(1, n):
                peak = tl.maximum(peak, logits[o * n + i] - log_sums[i])
            total = tl.exp(logits[o * n] - log_sums[0] - peak)
            for i in tl.static_range(1, n):
                total += tl.exp(logits[o * n + i] - log_sums[i] - peak)
            log_sum = peak + tl.log(total)
            for i in tl.static_range(n):
                logarithm = logits[o * n + i] - log_sums[i]
                columns = columns + (tl.exp(logarithm),)
                matrix = matrix + (tl.exp(logarithm - log_sum),)
    else:
        peak = logits[0]
        for e in tl.static_range(1, n * n):
            peak = tl.maximum(peak, logits[e])
        for e in tl.static_range(n * n):
            matrix = matrix + (tl.exp(logits[e] - peak),)
        columns = matrix
    return columns, matrix


@triton.jit
def sums_of(matrix, n: tl.constexpr, AXIS: tl.constexpr):
    """The n sums over `out` (AXIS 0: one per column) or over `in` (AXIS 1: one per row)."""
    sums = ()
    for a in tl.static_range(n):
        if AXIS == 0:
            total = matrix[a]
            for b in tl.static_range(1, n):
                total += matrix[b * n + a]
        else:
            total = matrix[a * n]
            for b in tl.static_range(1, n):
                total += matrix[a * n + b]
        sums = sums + (total,)
    return sums


@triton.jit
def times(matrix, factors, n: tl.constexpr, AXIS: tl.constexpr):
    """Every column (AXIS 0) or row (AXIS 1) times its factor."""
    scaled = ()
    for o in tl.static_range(n):
        for i in tl.static_range(n):
            if AXIS == 0:
                scaled = scaled + (matrix[o * n + i] * factors[i],)
            else:
                scaled = scaled + (matrix[o * n + i] * factors[o],)
    return scaled


@triton.jit
def inverses(sums, n: tl.constexpr):
    found = ()
    for a in tl.static_range(n):
        found = found + (1.0 / sums[a],)
    return found


@triton.jit
def product(a, b, n: tl.constexpr):
    """Elementwise a * b."""
    found = ()
    for e in tl.static_range(n * n):
        found = found + (a[e] * b[e],)
    return found


@triton.jit
def sinkhorn(logits, iterations, n: tl.constexpr, ITERATES: tl.constexpr):
    """The doubly stochastic matrix of `iterations` pairs, a tuple of n*n vectors."""
    _, matrix = start(logits, n, ITERATES)
    for _ in range(1, iterations):
        matrix = times(matrix, inverses(sums_of(matrix, n, 0), n), n, 0)
        matrix = times(matrix, inverses(sums_of(matrix, n, 1), n), n, 1)
    return matrix


@triton.jit
def sinkhorn_backward(logits, gradient, sums_ptr, stride, live, iterations, n: tl.constexpr, ITERATES: tl.constexpr):
    """The gradient of the logits from that of the matrix. `sums_ptr` [iterations - 1, 2n, stride] is scratch at this lane."""
    columns, matrix = start(logits, n, ITERATES)
    for t in range(1, iterations):
        at = sums_ptr + (t - 1) * (2 * n) * stride
        sums = sums_of(matrix, n, 0)
        for a in tl.static_range(n):
            tl.store(at + a * stride, sums[a], mask=live)
        matrix = times(matrix, inverses(sums, n), n, 0)
        sums = sums_of(matrix, n, 1)
        for a in tl.static_range(n):
            tl.store(at + (n + a) * stride, sums[a], mask=live)
        matrix = times(matrix, inverses(sums, n), n, 1)
    for back in range(1, iterations):
        at = sums_ptr + (iterations - 1 - back) * (2 * n) * stride
        both = ()
        for a in tl.static_range(2 * n):
            both = both + (tl.load(at + a * stride, mask=live, other=1.0),)
        for axis in tl.static_range(2):
            sums = ()
            for a in tl.static_range(n):
                sums = sums + (both[(1 - axis) * n + a],)
            shares = sums_of(product(gradient, matrix, n), n, 1 - axis)
            factors = inverses(sums, n)
            centred = ()
            for o in tl.static_range(n):
                for i in tl.static_range(n):
                    if axis == 1:
                        centred = centred + ((gradient[o * n + i] - shares[i]) * factors[i],)
                    else:
                        centred = centred + ((gradient[o * n + i] - shares[o]) * factors[o],)
            gradient = centred
            matrix = times(matrix, sums, n, 1 - axis)
    found = ()
    if ITERATES:
        # the first pair: a row softmax of the logarithm of a column softmax
        shares = sums_of(product(gradient, matrix, n), n, 1)
        inner = ()
        for o in tl.static_range(n):
            for i in tl.static_range(n):
                inner = inner + (matrix[o * n + i] * (gradient[o * n + i] - shares[o]),)
        totals = sums_of(inner, n, 0)
        for o in tl.static_range(n):
            for i in tl.static_range(n):
                found = found + (inner[o * n + i] - columns[o * n + i] * totals[i],)
    else:
        # exp(logits - max): the largest logits share what the shift takes away
        peak = logits[0]
        for e in tl.static_range(1, n * n):
            peak = tl.maximum(peak, logits[e])
        weighted = product(gradient, matrix, n)
        total = weighted[0]
        count = (logits[0] == peak).to(tl.float32)
        for e in tl.static_range(1, n * n):
            total += weighted[e]
            count += (logits[e] == peak).to(tl.float32)
        for e in tl.static_range(n * n):
            found = found + (weighted[e] - (logits[e] == peak).to(tl.float32) * total / count,)
    return found
