"""Public implementations of the same sublayer, timed when they are installed. Each takes the benchmark's tensors in its own layout."""

import importlib.util
from collections.abc import Callable
from typing import Any

from torch import Tensor

Step = Callable[[dict[str, Tensor]], tuple[Tensor, ...]]


def liger_sublayer(iterations: int) -> Step | None:
    """liger-kernel's mHC (coefficients, read, write of the previous branch's output); None without liger-kernel."""
    if importlib.util.find_spec("liger_kernel") is None:
        return None
    from liger_kernel.transformers import functional as liger

    def step(t: dict[str, Tensor]) -> tuple[Tensor, ...]:
        joined = liger.liger_mhc_post_res(t["x"], t["y"], t["post"], t["res"])
        pre, post, res = liger.liger_mhc_coeffs(
            joined, t["phi_t"], t["bias"], t["alpha_pre"], t["alpha_post"], t["alpha_res"], tmax=iterations
        )
        return joined, liger.liger_mhc_pre(joined, pre), post, res

    return step


def liger_add_rms_norm() -> Callable[..., Any] | None:
    """liger-kernel's fused residual add + RMSNorm; None without liger-kernel."""
    if importlib.util.find_spec("liger_kernel") is None:
        return None
    from liger_kernel.transformers import functional as liger

    def step(x: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        u, joined = liger.liger_fused_add_rms_norm(x, y, weight, 1e-6, in_place=False)
        return joined, u

    return step
