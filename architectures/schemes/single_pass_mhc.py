"""Single-pass mHC: each sublayer reads with the weights that the boundary before it computed (DeepSeek-V4.1's revision of mHC).

From X_l [n, C] sublayer l computes mHC's A_l = H_pre, C_l = H_post and B_l = H_res (`resbench.architectures.schemes.mhc`), but reads with A_{l-1}:

    X_{l+1} = B_l X_l + C_l^T F_l(RMSNorm(A_{l-1} X_l)),   A_{-1} = e_0,   output = A_{L-1} X_L

No coefficient of sublayer l is needed before its branch runs, so a kernel can write the streams, project them and reduce them in one pass; this
implementation keeps the three operations of `resbench.kernels` apart. The last A takes the place of the exit's sum.

The recurrence is known from the released model's code, which adds a small eps to the gates and to Sinkhorn's sums and starts Sinkhorn from a row
softmax; those are mhc's fields here, with mhc's defaults. The initial bias is not published: as A_l is used one sublayer later, its one-hot
start is shifted by one, and the stack starts as exactly the function resnet computes.
"""

import torch
from torch import Tensor, nn

from resbench.architectures.gated import BiasInit, gate_bias
from resbench.architectures.scheme import MixingClaim, ResidualScheme
from resbench.architectures.schemes.mhc import ManifoldHyperConnections, Order, Start
from resbench.architectures.streams import Coefficients
from resbench.kernels import functional

State = tuple[Tensor, Tensor]
"""Streams [B, T, n, C] and the weights of the next read [B, T, n]."""


class SinglePassMHC(ResidualScheme):
    """mHC that reads with the previous boundary's weights, so that one pass over the streams is enough.

    Parameters
    ----------
    n_streams: n, the number of residual streams; any n >= 1.
    sinkhorn_iterations: t_max of Sinkhorn-Knopp.
    alpha_init: initial value of the three gating scalars.
    bias_init: initial b_pre and b_post, as for mhc.
    res_off_diagonal: initial b_res off the diagonal (0 on it); ignored by ``bias_init: zero``.
    phi_init_std: standard deviation of phi's initial entries.
    order: which axis Sinkhorn normalises first.
    start: ``exp`` is mHC's; ``softmax`` begins from a row softmax plus ``sinkhorn_eps``.
    sinkhorn_eps: added to every sum in Sinkhorn.
    eps: added to the mean square under r.
    """

    def __init__(
        self,
        width: int,
        n_sublayers: int,
        n_streams: int = 4,
        sinkhorn_iterations: int = 20,
        alpha_init: float = 0.01,
        bias_init: BiasInit = "pre-norm",
        res_off_diagonal: float = -8.0,
        phi_init_std: float = 0.0,
        order: Order = "columns-first",
        start: Start = "exp",
        sinkhorn_eps: float = 0.0,
        eps: float = 1e-6,
    ) -> None:
        super().__init__(width, n_sublayers)
        self.mhc = ManifoldHyperConnections(
            width,
            n_sublayers,
            n_streams,
            sinkhorn_iterations,
            alpha_init,
            bias_init,
            res_off_diagonal,
            phi_init_std,
            order,
            start,
            sinkhorn_eps,
            eps,
        )
        with torch.no_grad():
            for i, bias in enumerate(self.mhc.bias):
                bias[:n_streams] = gate_bias(bias_init, n_streams, i + 1, phi_init_std)[:n_streams]

    def enter(self, x: Tensor) -> State:
        first = torch.zeros(self.mhc.n_streams, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
        first[0] = 1.0
        return self.mhc.enter(x), first.expand(*x.shape[:-1], -1)

    def read(self, state: State, i: int) -> tuple[Tensor, Coefficients]:
        streams, weights = state
        return self.mhc.norm(i)(functional.mhc_pre(streams, weights)), self.mhc.coefficients(streams, i)

    def write(self, state: State, ctx: Coefficients, y: Tensor, i: int) -> State:
        return self.mhc.write(state[0], ctx, y, i), ctx.pre

    def exit(self, state: State) -> Tensor:
        return functional.mhc_pre(*state)

    def branch_norm(self, i: int) -> nn.Module:
        return nn.Identity()

    def mixing(self, state: State, ctx: Coefficients, i: int) -> Tensor:
        return self.mhc.mixing(state[0], ctx, i)

    def mixing_claims(self) -> tuple[MixingClaim, ...]:
        return self.mhc.mixing_claims()

    def streams(self, state: State) -> Tensor:
        return state[0]

    def read_write(self, state: State, ctx: Coefficients, i: int) -> tuple[Tensor, Tensor]:
        return state[1], ctx.post

    def connection_params(self) -> int:
        return self.mhc.connection_params()

    def connection_flops(self) -> int:
        """mhc's, with a weighted exit in place of a sum."""
        return self.mhc.connection_flops() - self.mhc.exit_flops() + self.mhc.read_flops()
