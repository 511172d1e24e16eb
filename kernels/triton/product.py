"""The matrix product all kernels use: bf16 on tensor cores, float32 as three TF32 products."""
# mypy: ignore-errors
# (Triton's language in Python's syntax: tuples grow, arguments have no annotations.)

import os

import triton
import triton.language as tl

# The interpreter multiplies bf16 as if it were integers (triton 3.9), so there the operands are widened first: the products are the same.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def dot(a, b, accumulator):
    """``accumulator + a @ b``, accumulated in float32. Both operands bf16 or both float32."""
    if a.dtype == tl.float32:
        return tl.dot(a, b, accumulator, input_precision="tf32x3")
    if INTERPRETED:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), accumulator)
    return tl.dot(a, b, accumulator)
