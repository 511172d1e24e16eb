"""Frac-Connections (arXiv 2503.14125): Hyper-Connections over m parts of one hidden vector instead of n copies of it.

With H = reshape(h, [m, C / m]) and Hn = RMSNorm(H) per part, per sublayer (eqs. 6-15, indices [in, out] as in the paper):

    B  = s_b tanh(Hn W_b) + B0      [m]      write,  B0 = 1
    Y  = s_a tanh(Hn W_y) + Y0      [m, m]   read,   Y0 = I
    A  = s_a tanh(Hn W_a) + A0      [m, m]   mixing, A0 = I
    H' = A^T H + B * reshape(F(RMSNorm(reshape(Y^T H, [C]))), [m, C / m])

W starts at 0 and s at 0.01, so the stack starts as exactly a pre-norm resnet, with the memory of one. Static parts do not decay. The static form
keeps B0, Y0 and A0 alone.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from resbench.architectures.norm import RMSNorm
from resbench.architectures.recompute import recomputed
from resbench.architectures.scheme import ResidualScheme
from resbench.kernels.reference import compute_dtype, rms_norm


class Weights(NamedTuple):
    """One sublayer's write [..., m], read [..., m, m] and mixing [..., m, m], matrices indexed [out, in]."""

    write: Tensor
    read: Tensor
    mix: Tensor


class FracConnections(ResidualScheme):
    """HC without widening: the hidden vector is split into m parts that are read, mixed and written.

    Parameters
    ----------
    n_fractions: m, the number of parts; must divide the width. 1 is HC with one stream.
    dynamic: weights depend on the parts; false keeps the static matrices only.
    tanh: squash the dynamic part; false leaves it linear.
    scale_init: initial s_a and s_b.
    """

    def __init__(
        self,
        width: int,
        n_sublayers: int,
        n_fractions: int = 4,
        dynamic: bool = True,
        tanh: bool = True,
        scale_init: float = 0.01,
    ) -> None:
        super().__init__(width, n_sublayers)
        m = n_fractions
        if m < 1 or width % m:
            raise ValueError(f"n_fractions={m} with width={width}: expected at least 1 and a divisor of the width")
        self.n_fractions, self.dynamic, self.tanh = m, dynamic, tanh
        self.norms = nn.ModuleList(RMSNorm(width) for _ in range(n_sublayers))
        start = torch.cat([torch.ones(m, 1), torch.eye(m), torch.eye(m)], dim=1)
        self.static = nn.ParameterList(start.clone() for _ in range(n_sublayers))
        if dynamic:
            self.weight = nn.ParameterList(torch.zeros(2 * m + 1, width // m) for _ in range(n_sublayers))
            self.scale = nn.ParameterList(torch.full((2,), float(scale_init)) for _ in range(n_sublayers))
            self.coefficient_norms = nn.ModuleList(RMSNorm(width // m) for _ in range(n_sublayers))

    def weights(self, state: Tensor, i: int) -> Weights:
        """Sublayer i's weights for parts [B, T, m, C / m], in float32 or float64."""
        m = self.n_fractions
        found = self.static[i].to(compute_dtype(state)).expand(*state.shape[:-2], m, 2 * m + 1)
        if self.dynamic:
            norm = self.coefficient_norms[i]
            assert isinstance(norm, RMSNorm)
            scale = self.scale[i].to(found.dtype)
            scales = torch.cat([scale[1:], scale[:1].expand(2 * m)])
            dynamic = recomputed(project, state, norm.weight, self.weight[i], norm.eps)
            found = found + scales * (torch.tanh(dynamic) if self.tanh else dynamic)
        return Weights(found[..., 0], found[..., 1 : m + 1].transpose(-1, -2), found[..., m + 1 :].transpose(-1, -2))

    def enter(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_fractions, -1))

    def read(self, state: Tensor, i: int) -> tuple[Tensor, Weights]:
        found = self.weights(state, i)
        return self.norms[i](recomputed(mix_parts, state, found.read).flatten(-2)), found

    def write(self, state: Tensor, ctx: Weights, y: Tensor, i: int) -> Tensor:
        written: Tensor = recomputed(write_parts, state, ctx.mix, y, ctx.write)
        return written

    def exit(self, state: Tensor) -> Tensor:
        return state.flatten(-2)

    def branch_norm(self, i: int) -> nn.Module:
        return nn.Identity()

    def mixing(self, state: Tensor, ctx: Weights, i: int) -> Tensor:
        return ctx.mix

    def streams(self, state: Tensor) -> Tensor:
        return state

    def connection_params(self) -> int:
        return sum(p.numel() for name, p in self.named_parameters() if not name.startswith("norms."))

    def no_weight_decay(self) -> set[str]:
        return super().no_weight_decay() | {f"static.{i}" for i in range(self.n_sublayers)}

    def connection_flops(self) -> int:
        """Read and mix (m multiply-adds per channel each) and the write; when dynamic also norm, projection and the scaled tanh of each weight."""
        m, columns = self.n_fractions, 2 * self.n_fractions + 1
        dynamic = 4 * self.width + 2 * columns * self.width + 3 * m * columns if self.dynamic else 0
        return self.n_sublayers * (dynamic + 4 * m * self.width + 2 * self.width)


def project(state: Tensor, norm_weight: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``RMSNorm(H) W^T``: parts [..., m, D], norm_weight [D], weight [columns, D] -> [..., m, columns] in the compute dtype."""
    normed = rms_norm(state.to(compute_dtype(state)), norm_weight, eps)
    with torch.autocast(state.device.type, enabled=False):
        return normed @ weight.to(normed.dtype).T


def mix_parts(state: Tensor, matrix: Tensor) -> Tensor:
    """``matrix H`` in the state's dtype: parts [..., m, D], matrix [..., m, m]."""
    with torch.autocast(state.device.type, enabled=False):
        return (matrix @ state.to(matrix.dtype)).to(state.dtype)


def write_parts(state: Tensor, matrix: Tensor, y: Tensor, write: Tensor) -> Tensor:
    """``matrix H + write * y`` in the state's dtype: y [..., m D] split as the state is, write [..., m]."""
    with torch.autocast(state.device.type, enabled=False):
        mixed = matrix @ state.to(matrix.dtype)
    return (mixed + write.unsqueeze(-1) * y.unflatten(-1, state.shape[-2:]).to(matrix.dtype)).to(state.dtype)
