"""Operations as the check and the benchmark call them: random inputs, the kernels' call, and the float64 definition of the same thing."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from resbench.kernels import functional, reference

Call = Callable[..., tuple[Tensor | None, ...]]


class _Stored(torch.autograd.Function):
    """Replace x' by the rounded one that was stored; the gradient passes. What follows the write reads no other x'."""

    @staticmethod
    def forward(ctx: Any, exact: Tensor, stored: Tensor) -> Tensor:
        return stored.to(exact.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None


@dataclass(frozen=True)
class Case:
    """One operation at one shape.

    ``inputs`` are named tensors (None where there is none), ``call`` the kernels on them, ``define`` the definition on their float64 copies, and
    ``outputs`` names what both return. With ``stores`` the definition also takes the x' that the kernels stored: x' is compared with its exact value
    and everything after it with what follows from the stored one, since an x' between two 16-bit numbers may go to either.
    """

    name: str
    inputs: dict[str, Tensor | None]
    call: Call
    define: Call
    outputs: tuple[str, ...]
    stores: bool = False


OPERATIONS = (
    "mhc_boundary",
    "identity_boundary",
    "hc_boundary",
    "static_hc_boundary",
    "mhc_read",
    "mhc_coefficients",
    "hc_coefficients",
    "mhc_post",
    "mhc_pre",
    "sinkhorn",
    "add_rms_norm",
    "rms_norm",
    "rotary",
)


def make(
    name: str,
    tokens: int,
    n: int,
    width: int,
    dtype: torch.dtype,
    device: str,
    iterations: int = 20,
    seed: int = 0,
    logit_scale: float = 1.0,
    backend: functional.Backend = "triton",
) -> Case:
    """A case with fresh random inputs. ``logit_scale`` stretches the logits of the gates."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=generator, device=device)).to(dtype)

    x, y = normal(tokens, n, width, dtype=dtype), normal(tokens, width, dtype=dtype)
    post, pre = 2 * torch.sigmoid(normal(tokens, n)), torch.sigmoid(normal(tokens, n))
    res = reference.sinkhorn(normal(tokens, n, n), 20)
    K = n * n + 2 * n
    phi = normal(K, n * width, scale=logit_scale / (n * width) ** 0.5)
    alpha, bias = 0.5 + normal(3).abs(), normal(K, scale=logit_scale)
    weight = 1 + 0.1 * normal(width)
    hc_weight, hc_norm = normal(n + 2, width, scale=width**-0.5), 1 + 0.1 * normal(width)
    hc_scale, static = 0.5 + normal(2).abs(), normal(n, n + 2)

    def mhc_boundary(*args: Any, stored: Tensor) -> Any:
        x, y, post, res, phi, alpha, bias, weight = args
        exact = reference.mhc_post(x, y, post, res)
        joined = _Stored.apply(exact, stored)
        found = reference.mhc_coefficients(joined, phi, alpha, bias, iterations)
        return exact, reference.rms_norm(reference.mhc_pre(joined, found[0]), weight), *found

    def hc_boundary(*args: Any, stored: Tensor) -> Any:
        exact = reference.mhc_post(*args[:4])
        joined = _Stored.apply(exact, stored)
        found = reference.hc_coefficients(joined, *args[4:8])
        return exact, reference.rms_norm(reference.mhc_pre(joined, found[0]), args[8]), *found

    written = {"x": x, "y": y, "post": post, "res": res}
    gates = {"phi": phi, "alpha": alpha, "bias": bias}
    hc_gates = {"coefficient_norm_weight": hc_norm, "weight": hc_weight, "scale": hc_scale, "static": static}
    coefficients = ("pre", "post", "res")
    inputs: dict[str, Tensor | None]
    match name:
        case "mhc_boundary" | "identity_boundary":
            inputs = {**written, **gates, "norm_weight": weight}
            if name == "identity_boundary":
                inputs |= {"res": None, "phi": phi[: 2 * n], "alpha": alpha[:2], "bias": bias[: 2 * n]}
            return Case(
                name,
                inputs,
                partial(functional.mhc_boundary, iterations=iterations, backend=backend),
                mhc_boundary,
                ("joined", "u", *coefficients),
                stores=True,
            )
        case "hc_boundary" | "static_hc_boundary":
            inputs = {**written, **hc_gates, "norm_weight": weight}
            if name == "static_hc_boundary":
                inputs |= {"coefficient_norm_weight": None, "weight": None, "scale": None}
            return Case(
                name,
                inputs,
                lambda *a: functional.hc_boundary(*a, backend=backend),
                hc_boundary,
                ("joined", "u", *coefficients),
                stores=True,
            )
        case "mhc_read":

            def read(x: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, weight: Tensor) -> Any:
                found = reference.mhc_coefficients(x, phi, alpha, bias, iterations)
                return reference.rms_norm(reference.mhc_pre(x, found[0]), weight), *found

            return Case(
                name,
                {"x": x, **gates, "norm_weight": weight},
                partial(functional.mhc_read, iterations=iterations, backend=backend),
                read,
                ("u", *coefficients),
            )
        case "mhc_coefficients":
            return Case(
                name,
                {"x": x, **gates},
                partial(functional.mhc_coefficients, iterations=iterations, backend=backend),
                partial(reference.mhc_coefficients, iterations=iterations),
                coefficients,
            )
        case "hc_coefficients":
            return Case(
                name,
                {"x": x, **hc_gates},
                lambda *a: functional.hc_coefficients(*a, backend=backend),
                reference.hc_coefficients,
                coefficients,
            )
        case "mhc_post":
            return Case(
                name,
                dict(written),
                lambda *a: (functional.mhc_post(*a, backend=backend),),
                lambda *a: (reference.mhc_post(*a),),
                ("joined",),
            )
        case "mhc_pre":
            return Case(
                name,
                {"x": x, "pre": pre},
                lambda *a: (functional.mhc_pre(*a, backend=backend),),
                lambda *a: (reference.mhc_pre(*a),),
                ("u",),
            )
        case "sinkhorn":
            return Case(
                name,
                {"logits": normal(tokens, n, n, scale=logit_scale)},
                lambda a: (functional.sinkhorn(a, iterations, backend=backend),),
                lambda a: (reference.sinkhorn(a, iterations),),
                ("res",),
            )
        case "add_rms_norm":
            other = normal(tokens, width, dtype=dtype)

            def add_rms_norm(x: Any, y: Any, weight: Any, stored: Tensor) -> Any:
                return x + y, reference.rms_norm(_Stored.apply(x + y, stored), weight)

            return Case(
                name,
                {"x": y, "y": other, "weight": weight},
                lambda *a: functional.add_rms_norm(*a, backend=backend),
                add_rms_norm,
                ("joined", "u"),
                stores=True,
            )
        case "rms_norm":
            return Case(
                name,
                {"x": y, "weight": weight},
                lambda *a: (functional.rms_norm(*a, backend=backend),),
                lambda *a: (reference.rms_norm(*a),),
                ("u",),
            )
        case "rotary":
            head = max(d for d in range(2, min(width, 128) + 1, 2) if width % d == 0)
            positions = next(t for t in (8, 5, 3, 1) if tokens % t == 0)
            angle = normal(positions, head // 2, scale=3.0)
            table = torch.stack([angle.cos(), angle.sin()])
            shape = (tokens // positions, positions, 3, width // head, head)

            def turned(rotary: Call, qkv: Tensor, *weights: Tensor) -> Any:
                return rotary(qkv.unflatten(0, shape[:2]).reshape(shape), *weights, table)

            return Case(
                name,
                {
                    "qkv": normal(tokens, 3 * width, dtype=dtype),
                    "query_weight": 1 + 0.1 * normal(head),
                    "key_weight": 1 + 0.1 * normal(head),
                },
                partial(turned, partial(functional.rotary, backend=backend)),
                partial(turned, reference.rotary),
                ("query", "key", "value"),
            )
    raise ValueError(f"operation {name!r}: expected one of {', '.join(OPERATIONS)}")
