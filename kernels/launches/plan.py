"""What one boundary does, what comes out of it, and the gradients that go back."""

from dataclasses import dataclass

import torch
from torch import Tensor

UNROLLED = 4
"""Streams up to which a mixing matrix is unrolled, one token per lane: beyond, ptxas takes minutes over the backward pass."""


@dataclass(frozen=True)
class Boundary:
    """What one boundary does: write (y joins), gates (coefficients from x'), read (u from x', normalised or not)."""

    writes: bool
    mixes: bool  # res is given
    gates: str  # none, mhc, hc-tanh or hc-linear
    reads: bool
    norms: bool
    iterations: int = 20
    eps: float = 1e-6
    norm_eps: float = 1e-6

    @property
    def streamwise(self) -> bool:
        """HC normalises every stream by itself; mHC all of them together."""
        return self.gates.startswith("hc")

    @property
    def terms(self) -> int:
        """bf16 parts of phi beside bf16 streams: 16 bits of it, and 24 for HC, whose reads may cancel and leave a small vector to normalise."""
        return 3 if self.streamwise else 2


@dataclass(frozen=True)
class Coefficients:
    """pre and post [M, n], res [M, n, n] (None where streams are not mixed) and what the gates keep for their backward pass
    [K + norms, M]: normalised projections, then the inverse RMS of every norm. All float32.
    """

    pre: Tensor
    post: Tensor
    res: Tensor | None
    kept: Tensor

    @classmethod
    def empty(cls, plan: Boundary, M: int, n: int, K: int, device: torch.device) -> "Coefficients":
        """Room for K coefficients of M tokens."""

        def room(*shape: int) -> Tensor:
            return torch.empty(*shape, device=device, dtype=torch.float32)

        mixes = plan.streamwise or 2 * n < K
        norms = n if plan.streamwise else 1
        return cls(room(M, n), room(M, n), room(M, n, n) if mixes else None, room(K + norms, M))


@dataclass(frozen=True)
class Outputs:
    """x' (None if nothing was written), u and its inverse RMS [M] (None without a read, without a norm), and the coefficients if computed."""

    joined: Tensor | None
    u: Tensor | None
    coefficients: Coefficients | None
    inverse: Tensor | None


@dataclass(frozen=True)
class Gradients:
    """In the order of the inputs; None where there was no such input."""

    x: Tensor
    y: Tensor | None
    post: Tensor | None
    res: Tensor | None
    pre: Tensor | None
    phi: Tensor | None
    scale: Tensor | None
    bias: Tensor | None
    weight: Tensor | None


def cdiv(a: int, b: int) -> int:
    """a / b rounded up."""
    return -(-a // b)


def shares(total: int, block: int, most: int) -> tuple[int, int]:
    """(tokens per program, programs) that deal ``total`` tokens in whole blocks to at most ``most`` programs; at least one of each."""
    extent = max(1, cdiv(total, block * most)) * block
    return extent, max(1, cdiv(total, extent))
