"""`resbench bench loss`: the chunked loss beside the plain one and liger-kernel's, forward and backward, in time and memory."""

import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from resbench.architectures.linear_cross_entropy import linear_cross_entropy

REPEATS = 5

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class LossRow:
    """One implementation at one size. ``extra_gib``: peak GPU memory over what was there before, gradients included. NaN where it failed."""

    implementation: str
    tokens: int
    width: int
    vocab_size: int
    ms: float = float("nan")
    extra_gib: float = float("nan")
    loss: float = float("nan")
    error: str = ""


def implementations(compiled: bool) -> dict[str, Loss]:
    """By name; liger-kernel's where it is installed and there is a GPU."""

    def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        return linear_cross_entropy(hidden, weight, targets, "plain")

    def chunked(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        return linear_cross_entropy(hidden, weight, targets, "chunked")

    found: dict[str, Loss] = {"plain": plain, "chunked": chunked}
    if compiled:
        found |= {
            f"{name}, compiled": torch.compile(loss, fullgraph=True, dynamic=False)
            for name, loss in list(found.items())
        }
    if torch.cuda.is_available() and importlib.util.find_spec("liger_kernel") is not None:
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

        def liger(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
            # It multiplies in its inputs' dtype and knows no autocast.
            dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else hidden.dtype
            loss = liger_fused_linear_cross_entropy(hidden.to(dtype), weight.to(dtype), targets)
            return loss[0] if isinstance(loss, tuple) else loss

        found["liger-kernel"] = liger
    return found


def measure_loss(name: str, loss: Loss, tokens: int, width: int, vocab_size: int, device: torch.device) -> LossRow:
    """Median time of forward and backward in bf16 autocast with float32 weights; a failure becomes a row that says so."""
    generator = torch.Generator(device.type).manual_seed(0)
    hidden = torch.randn(tokens, width, generator=generator, device=device)
    if device.type == "cuda":
        hidden = hidden.bfloat16()
    weight = torch.randn(vocab_size, width, generator=generator, device=device) * width**-0.5
    targets = torch.randint(0, vocab_size, (tokens,), generator=generator, device=device)
    hidden.requires_grad_()
    weight.requires_grad_()

    def step() -> float:
        hidden.grad = weight.grad = None
        _wait(device)
        began = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            value = loss(hidden, weight, targets)
        value.backward()
        _wait(device)
        values.append(value.detach())
        return 1e3 * (time.perf_counter() - began)

    values: list[Tensor] = []
    try:
        for _ in range(2):
            step()
        before = 0
        if device.type == "cuda":
            hidden.grad = weight.grad = None
            before = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
        ms = statistics.median(step() for _ in range(REPEATS))
        extra = (torch.cuda.max_memory_allocated(device) - before) / 2**30 if device.type == "cuda" else float("nan")
    except (RuntimeError, TypeError, ValueError) as error:
        return LossRow(name, tokens, width, vocab_size, error=str(error).strip().splitlines()[0][:200])
    return LossRow(name, tokens, width, vocab_size, ms, extra, float(values[-1]))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def markdown(rows: list[LossRow]) -> str:
    """A line for every row, failures included."""
    lines = ["| tokens, width, vocabulary | loss | ms | GiB beyond inputs | value |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        size = f"{row.tokens}, {row.width}, {row.vocab_size}"
        result = (
            f"{row.ms:.2f} | {row.extra_gib:.2f} | {row.loss:.5f}" if not row.error else f"failed: {row.error} | | "
        )
        lines.append(f"| {size} | {row.implementation} | {result} |".replace("nan", "–"))
    return "\n".join(lines)
