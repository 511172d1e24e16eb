"""The correctness bar: every operation against its float64 definition, random cotangents, relative L2 error, bitwise repetition."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from resbench.kernels.cases import Call, Case


@dataclass(frozen=True)
class Finding:
    """Worst error of one operation at one shape, over its outputs or its gradients, against the bar."""

    operation: str
    shape: tuple[int, int, int]
    dtype: str
    iterations: int
    quantity: str
    error: float
    bar: float
    repeats: bool

    @property
    def passed(self) -> bool:
        return self.error <= self.bar and self.repeats


STORED = ("joined", "u", "query", "key", "value")
"""Outputs in the streams' dtype: computed in float32, rounded once."""


def bar(quantity: str, dtype: torch.dtype, interpreted: bool) -> float:
    """The largest relative L2 error that passes, by what is compared and the streams' dtype.

    float32 streams must be float32-exact. With 16-bit streams, what is stored in 16 bits may be off by its rounding, and so may a gradient
    that passes through one; coefficients and the gradients of scale and bias never do. The interpreter cuts bf16 off instead of rounding: there
    the bars are wider, and float32 is the test that counts.
    """
    if dtype == torch.float32:
        return 1e-5
    if interpreted and dtype == torch.bfloat16:
        return 9e-3 if quantity in STORED else 2e-2
    if quantity in ("pre", "post", "res", "logits", "d logits", "d alpha", "d bias", "d scale", "d static"):
        return 1e-4
    return 3e-3 if quantity in STORED else 5e-3


def relative(found: Tensor, wanted: Tensor) -> float:
    """||found - wanted|| / ||wanted||; NaN counts as infinite."""
    if wanted.numel() == 0:
        return 0.0
    error = (found.double() - wanted).norm() / wanted.norm().clamp_min(1e-30)
    return float("inf") if torch.isnan(error) else float(error)


def run(call: Call, inputs: dict[str, Tensor | None], outputs: tuple[str, ...], seed: int) -> dict[str, Tensor]:
    """Outputs, and the gradients of a random weighting of them, named."""
    leaves = {k: None if v is None else v.detach().clone().requires_grad_() for k, v in inputs.items()}
    found = call(*leaves.values())
    named = {k: v for k, v in zip(outputs, found, strict=True) if v is not None}
    generator = torch.Generator().manual_seed(seed)
    total = None
    for v in named.values():
        # drawn in the dtype the kernels see, so that both sides get the same numbers
        cotangent = torch.randn(v.shape, generator=generator).bfloat16().to(v.device, v.dtype)
        term = (v * cotangent).sum()
        total = term if total is None else total + term
    assert total is not None
    total.backward()
    gradients = {f"d {k}": v.grad for k, v in leaves.items() if v is not None and v.grad is not None}
    return {k: v.detach() for k, v in named.items()} | gradients


def check(
    case: Case, shape: tuple[int, int, int], dtype: torch.dtype, iterations: int, slack: float = 1.0
) -> list[Finding]:
    """Compare one case with its definition. A kernel that raises is a finding with an infinite error; ``slack`` multiplies the bar."""
    interpreted = next(v for v in case.inputs.values() if v is not None).device.type == "cpu"
    doubles = {k: None if v is None else v.double() for k, v in case.inputs.items()}
    try:
        found = run(case.call, case.inputs, case.outputs, seed=1)
        again = run(case.call, case.inputs, case.outputs, seed=1)
    except Exception as error:
        print(f"{case.name} {shape} {dtype}: {error}")
        found = again = {}
    stored = {"stored": found.get("joined", case.inputs["x"])} if case.stores else {}
    wanted = run(partial(case.define, **stored), doubles, case.outputs, seed=1)
    findings = []
    for quantity in wanted:
        error_found = relative(found[quantity], wanted[quantity]) if quantity in found else float("inf")
        repeats = quantity in found and torch.equal(found[quantity], again[quantity])
        limit = slack * bar(quantity, dtype, interpreted)
        name = str(dtype).removeprefix("torch.")
        findings.append(Finding(case.name, shape, name, iterations, quantity, error_found, limit, repeats))
    return findings
