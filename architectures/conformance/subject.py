"""The scheme under test, with the stacks, branches and inputs every check builds from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from resbench.architectures.norm import RMSNorm
from resbench.architectures.scheme import ResidualScheme
from resbench.architectures.stack import run_stack

WIDTHS = (4, 5, 6, 7, 8, 12, 16, 32, 64, 96, 128)


class PointwiseBranch(nn.Module):
    """``y = tanh(norm(u) M)``: no symmetry, no token sees another, a fixed matrix."""

    def __init__(self, norm: nn.Module, width: int, seed: int, scale: float = 1.0) -> None:
        super().__init__()
        self.norm = norm
        generator = torch.Generator().manual_seed(seed)
        matrix = torch.randn(width, width, generator=generator, dtype=torch.float64) * scale / width**0.5
        self.register_buffer("matrix", matrix, persistent=False)

    matrix: Tensor

    def forward(self, u: Tensor) -> Tensor:
        return torch.tanh(self.norm(u) @ self.matrix.to(u.dtype))


class Stack(nn.Module):
    """A scheme and its branches as one module: embeddings [B, T, C] -> [B, T, C]."""

    def __init__(self, scheme: ResidualScheme, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        self.scheme = scheme
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return run_stack(self.scheme, self.branches, x)


@dataclass(frozen=True)
class Subject:
    """A scheme class with its own arguments bound."""

    scheme: type[ResidualScheme]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def build(self, width: int, sublayers: int, **arguments: Any) -> ResidualScheme:
        """A fresh scheme; the same call gives the same parameters."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.scheme(width, sublayers, **{**self.arguments, **arguments})

    def accepts(self, width: int) -> bool:
        """Whether a scheme of this width can be built; a ValueError is a refusal."""
        try:
            self.build(width, 2)
        except ValueError:
            return False
        return True

    @cached_property
    def width(self) -> int:
        """The smallest width from 4 on that the scheme accepts. Raises ValueError with the scheme's own words when it accepts none."""
        refusal: Exception | None = None
        for width in WIDTHS:
            try:
                self.build(width, 2)
            except ValueError as error:
                refusal = error
            else:
                return width
        raise ValueError(f"{self.scheme.__name__} accepts none of the widths {', '.join(map(str, WIDTHS))}: {refusal}")

    def perturbed(self, width: int, sublayers: int, scale: float = 0.3, **arguments: Any) -> ResidualScheme:
        """In float64 with every parameter moved off its start, so that no term is zero or one by construction."""
        scheme = self.build(width, sublayers, **arguments).double()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in scheme.parameters():
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        return scheme

    def stack(self, scheme: ResidualScheme, scale: float = 1.0) -> Stack:
        """The scheme between pointwise branches, in the scheme's dtype."""
        dtype = next((p.dtype for p in scheme.parameters()), torch.float64)
        branches = [
            PointwiseBranch(scheme.branch_norm(i), scheme.width, i, scale).to(dtype) for i in range(scheme.n_sublayers)
        ]
        return Stack(scheme, branches)

    def norms_in_read(self, scheme: ResidualScheme) -> bool:
        """Whether the branch's RMSNorm is the scheme's own business."""
        return isinstance(scheme.branch_norm(0), nn.Identity)


def embeddings(batch: int, length: int, width: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random embeddings [B, T, C]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, width, generator=generator, dtype=torch.float64).to(dtype)


def tensors(state: Any) -> tuple[Tensor, ...]:
    """The tensors of a state."""
    return (state,) if isinstance(state, Tensor) else tuple(state)


def like(state: Any, parts: Sequence[Tensor]) -> Any:
    """Tensors in the shape of a state."""
    return parts[0] if isinstance(state, Tensor) else tuple(parts)


def branch_norm_params(scheme: ResidualScheme) -> int:
    """Parameters of the norms in front of the branches, whether the scheme keeps them or the branches do."""
    return scheme.n_sublayers * sum(p.numel() for p in RMSNorm(scheme.width).parameters())
