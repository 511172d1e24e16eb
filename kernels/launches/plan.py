"""What one boundary does, what comes out of it, and the gradients that go back."""

from dataclasses import dataclass

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
class Outputs:
    """x' (None if nothing was written), u, the coefficients, and what the gates keep for their backward pass."""

    joined: Tensor | None
    u: Tensor | None
    pre: Tensor | None
    post: Tensor | None
    res: Tensor | None
    kept: Tensor | None


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
