"""What `resbench kernels check` compares: every operation over shapes, dtypes and iteration counts, in processes beside each other.

On a GPU nearly all of its time is compiling, without one it is the interpreter: either keeps one core busy.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import torch

from resbench.kernels.cases import make
from resbench.kernels.check import Finding, check

Shape = tuple[int, int, int]
"""(tokens, streams, width)"""

GPU_SHAPES: tuple[Shape, ...] = (
    (1, 4, 64),
    (37, 4, 320),
    (130, 4, 200),
    (77, 2, 192),
    (33, 8, 96),
    (512, 8, 2560),
    (65, 3, 136),
    (70, 1, 256),
    (4096, 4, 5120),
    (0, 4, 64),
)

CPU_SHAPES: tuple[Shape, ...] = (
    (1, 4, 32),
    (19, 4, 40),
    (17, 2, 24),
    (6, 8, 16),
    (9, 3, 20),
    (5, 1, 48),
    (0, 4, 32),
)
"""In the interpreter, whose cost is per operation."""

ROUNDED = {"cuda": (torch.bfloat16,), "cpu": (torch.float32, torch.float16)}
"""Dtypes at every shape; the first two shapes have all three. The interpreter cuts bf16 off instead of rounding, so that float16 says more there."""


@dataclass(frozen=True)
class Comparison:
    """One case with the seed of its inputs and what its bar is multiplied by."""

    operation: str
    shape: Shape
    dtype: torch.dtype
    iterations: int = 20
    seed: int = 0
    logit_scale: float = 1.0
    slack: float = 1.0

    def findings(self, device: str) -> list[Finding]:
        """One for each output and gradient."""
        case = make(self.operation, *self.shape, self.dtype, device, self.iterations, self.seed, self.logit_scale)
        return check(case, self.shape, self.dtype, self.iterations, self.slack)


def comparisons(device: str, operations: Sequence[str]) -> Iterator[Comparison]:
    """All of them on a device, cuda or cpu."""
    for operation in operations:
        for position, shape in enumerate(GPU_SHAPES if device == "cuda" else CPU_SHAPES):
            for dtype in (torch.bfloat16, torch.float32, torch.float16) if position < 2 else ROUNDED[device]:
                yield Comparison(operation, shape, dtype, seed=position)
        if operation in ("sinkhorn", "mhc_coefficients"):
            for iterations in (0, 1, 5, 50):
                yield Comparison(operation, (37, 4, 64), torch.float32, iterations, seed=iterations)
            # a float32 logit of 1e3 is off by 6e-5, which the exponential turns into a relative error
            yield Comparison(operation, (37, 4, 64), torch.float32, seed=9, logit_scale=1e3, slack=100.0)


def compare(device: str, operations: Sequence[str], processes: int = 1) -> Iterator[list[Finding]]:
    """The findings of each comparison in turn. The interpreter has to be switched on before (`TRITON_INTERPRET=1`)."""
    wanted = list(comparisons(device, operations))
    one = partial(Comparison.findings, device=device)
    if processes == 1:
        yield from map(one, wanted)
        return
    with ProcessPoolExecutor(min(processes, len(wanted)), get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        yield from pool.map(one, wanted)
