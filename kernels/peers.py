"""Public implementations of the same sublayer, timed when they are installed.

Each takes the benchmark's tensors in its own layout and its own order. liger-kernel is called as the boundary is (write, coefficients, read);
tile-kernels and TransformerEngine in the order of a sublayer (coefficients, read, identity branch, write), which moves the same 3S + 2c and 5S + 3c
bytes at least, because tile-kernels adds gradients in place only when the write of the same streams runs backward first.
"""

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Step = Callable[[dict[str, Tensor]], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Peer:
    """``step`` on what ``arrange`` makes of the benchmark's sublayer: ``x`` [T, n, C], ``y`` [T, C], ``phi`` [n*n+2n, n*C], ``alpha`` [3], ``bias``,
    ``post`` [T, n], ``res`` [T, n, n]."""

    step: Step
    arrange: Callable[[dict[str, Tensor]], dict[str, Tensor]]


def sublayers(n: int, iterations: int) -> dict[str, Peer]:
    """The implementations that can be imported and take ``n`` streams and that many Sinkhorn iterations, by name."""
    if n != 4:
        return {}
    made = {"liger-kernel": liger(iterations), "tile-kernels": tile_kernels(iterations)}
    if iterations == 20:  # TransformerEngine's one call for coefficients and read always iterates 20 times
        made |= {
            "TransformerEngine": transformer_engine(False),
            "TransformerEngine, gradient buffer": transformer_engine(True),
        }
    return {name: peer for name, peer in made.items() if peer is not None}


def importable(package: str) -> bool:
    """Whether it is installed. One that is and cannot be imported (another CUDA, no compiler) is said so once, not left out in silence."""
    if importlib.util.find_spec(package.partition(".")[0]) is None:
        return False
    return _imports(package)


@functools.cache
def _imports(package: str) -> bool:
    try:
        importlib.import_module(package)
    except (ImportError, OSError, RuntimeError, AssertionError, AttributeError) as error:
        print(
            f"{package} is installed but cannot be imported, so it is not timed: {type(error).__name__}: {error}"[:300]
        )
        return False
    return True


def liger(iterations: int) -> Peer | None:
    """liger-kernel's mHC; None without liger-kernel."""
    if not importable("liger_kernel.transformers.functional"):
        return None
    from liger_kernel.transformers import functional

    def arrange(t: dict[str, Tensor]) -> dict[str, Tensor]:
        alphas = {f"alpha_{name}": value for name, value in zip(("pre", "post", "res"), t["alpha"], strict=True)}
        return {name: t[name] for name in ("x", "y", "post", "res", "bias")} | {"phi": t["phi"].T.contiguous()} | alphas

    def step(t: dict[str, Tensor]) -> tuple[Tensor, ...]:
        joined = functional.liger_mhc_post_res(t["x"], t["y"], t["post"], t["res"])
        pre, post, res = functional.liger_mhc_coeffs(
            joined, t["phi"], t["bias"], t["alpha_pre"], t["alpha_post"], t["alpha_res"], tmax=iterations
        )
        return joined, functional.liger_mhc_pre(joined, pre), post, res

    return Peer(step, arrange)


def tile_kernels(iterations: int) -> Peer | None:
    """DeepSeek's tile-kernels, in TileLang: bfloat16 streams [batch, T, 4, C], residual matrix indexed [in, out]; None without it."""
    if not importable("tile_kernels.modeling.mhc.functional"):
        return None
    from tile_kernels.modeling.mhc import functional

    def arrange(t: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"x": t["x"][None], "phi": in_out(t["phi"]), "alpha": t["alpha"], "bias": in_out(t["bias"])}

    def step(t: dict[str, Tensor]) -> tuple[Tensor, ...]:
        u, (post, res) = functional.mhc_pre(
            t["x"], t["phi"], t["alpha"], t["bias"], post_mult_value=2.0, pre_eps=0.0, sinkhorn_repeat=iterations
        )
        return (functional.mhc_post(u, t["x"], post, res),)

    return Peer(step, arrange)


def transformer_engine(gradient_buffer: bool) -> Peer | None:
    """NVIDIA TransformerEngine's Triton kernels: streams [T, batch, C, 4], residual matrix indexed [in, out]; None without it.

    With ``gradient_buffer`` its kernels add the streams' gradient in one float32 buffer instead of leaving the sum to autograd."""
    if not importable("transformer_engine.pytorch.triton.mhc"):
        return None
    from transformer_engine.pytorch.triton import mhc

    def arrange(t: dict[str, Tensor]) -> dict[str, Tensor]:
        rows, n, width = len(t["phi"]), t["x"].shape[-2], t["x"].shape[-1]
        return {
            "x": t["x"].transpose(-1, -2)[:, None],
            "phi": in_out(t["phi"]).reshape(rows, n, width).transpose(-1, -2).reshape(rows, -1),
            "alpha": t["alpha"],
            "bias": in_out(t["bias"])[None],
        }

    def step(t: dict[str, Tensor]) -> tuple[Tensor, ...]:
        x = t["x"]
        sums = torch.zeros_like(x, dtype=torch.float32) if gradient_buffer and torch.is_grad_enabled() else None
        u, post, res = mhc.mhc_generate_mix_and_aggregate(
            x, t["phi"], t["alpha"], t["bias"], fused_grad_x_acc_buffer=sums
        )
        return (mhc.mhc_fused_expand_combine(u, None, post, x, res, x.shape[-1], fused_grad_x_acc_buffer=sums),)

    return Peer(step, arrange)


def in_out(rows: Tensor, n: int = 4) -> Tensor:
    """``rows`` [n*n+2n, ...] with those of the residual matrix in the order [in, out] instead of [out, in]."""
    res = rows[2 * n :].unflatten(0, (n, n)).transpose(0, 1).flatten(0, 1)
    return torch.cat([rows[: 2 * n], res])


def liger_add_rms_norm() -> Callable[..., Any] | None:
    """liger-kernel's fused residual add + RMSNorm; None without liger-kernel."""
    if not importable("liger_kernel.transformers.functional"):
        return None
    from liger_kernel.transformers import functional

    def step(x: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        u, joined = functional.liger_fused_add_rms_norm(x, y, weight, 1e-6, in_place=False)
        return joined, u

    return step
