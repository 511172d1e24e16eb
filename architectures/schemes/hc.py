"""Hyper-Connections (HC, arXiv 2409.19606), static and dynamic.

With X [n, C] one token's streams and Xn = RMSNorm(X) per stream, per sublayer k:

    B   = s_b tanh(Xn W_b) + B0        [n]      write,  B0 = 1
    A_m = s_a tanh(Xn W_m) + A_m0      [n]      read,   A_m0 = e_(k mod n)
    A_r = s_a tanh(Xn W_r) + A_r0      [n, n]   mixing, A_r0 = I, indexed [in, out]
    X'  = A_r^T X + B^T F(RMSNorm(A_m^T X))

W starts at 0 and s at 0.01, so the stack starts as a pre-norm resnet. The static form keeps B0, A_m0 and A_r0 alone. Nothing bounds the
product of the A_r over depth: that is the instability mHC removes.
"""

import torch
from torch import Tensor, nn

from resbench.architectures.norm import RMSNorm
from resbench.architectures.streams import Coefficients, Exit, StreamScheme
from resbench.kernels import functional


class HyperConnections(StreamScheme):
    """HC: n streams with learned, unconstrained mixing.

    Parameters
    ----------
    n_streams: n, the expansion rate; any n >= 1.
    dynamic: coefficients depend on the streams; false keeps the static matrices only.
    tanh: squash the dynamic part; false leaves it linear.
    scale_init: initial s_a and s_b.
    scale_output_init: multiply the initial standard deviation of output projections by sqrt(n), as the paper does; false makes the stack
        start as exactly the function resnet computes.
    exit: how the streams become one vector after the last sublayer; the paper sums.
    """

    def __init__(
        self,
        width: int,
        n_sublayers: int,
        n_streams: int = 4,
        dynamic: bool = True,
        tanh: bool = True,
        scale_init: float = 0.01,
        scale_output_init: bool = True,
        exit: Exit = "sum",
    ) -> None:
        super().__init__(width, n_sublayers, n_streams, exit)
        self.dynamic = dynamic
        self.tanh = tanh
        if scale_output_init:
            self.output_init_scale = n_streams**0.5
        self.static = nn.ParameterList(static_start(n_streams, i) for i in range(n_sublayers))
        if dynamic:
            self.weight = nn.ParameterList(torch.zeros(n_streams + 2, width) for _ in range(n_sublayers))
            self.scale = nn.ParameterList(torch.full((2,), float(scale_init)) for _ in range(n_sublayers))
            self.coefficient_norms = nn.ModuleList(RMSNorm(width) for _ in range(n_sublayers))

    def _sources(self, i: int) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor]:
        """Sublayer i's norm weight, projection and scales (None when static), and static part."""
        if not self.dynamic:
            return None, None, None, self.static[i]
        norm = self.coefficient_norms[i]
        assert isinstance(norm, RMSNorm)
        return norm.weight, self.weight[i], self.scale[i], self.static[i]

    def coefficients(self, state: Tensor, i: int) -> Coefficients:
        return Coefficients(*functional.hc_coefficients(state, *self._sources(i), tanh=self.tanh))

    def boundary(self, state: Tensor, ctx: Coefficients, y: Tensor, i: int) -> tuple[Tensor, Tensor, Coefficients]:
        norm = self.norm(i + 1)
        assert ctx.res is not None
        state, u, pre, post, res = functional.hc_boundary(
            state, y, ctx.post, ctx.res, *self._sources(i + 1), norm.weight, tanh=self.tanh, norm_eps=norm.eps
        )
        return state, u, Coefficients(pre, post, res)

    def no_weight_decay(self) -> set[str]:
        return super().no_weight_decay() | {f"static.{i}" for i in range(self.n_sublayers)}

    def connection_flops(self) -> int:
        """Read, mix and write; when dynamic also the norm (four per channel), the projection, and the scaled tanh of each coefficient."""
        n = self.n_streams
        dynamic = n * (4 * self.width + 2 * (n + 2) * self.width + 3 * (n + 2)) if self.dynamic else 0
        per_sublayer = dynamic + self.read_flops() + self.write_flops(mixes=True)
        return self.n_sublayers * per_sublayer + self.exit_flops()


def static_start(n: int, sublayer: int) -> Tensor:
    """Initial [n, n + 2] static part, columns A_m0 = e_(k mod n), B0 = 1, A_r0 = I."""
    read = torch.zeros(n, 1)
    read[sublayer % n] = 1.0
    return torch.cat([read, torch.ones(n, 1), torch.eye(n)], dim=1)
