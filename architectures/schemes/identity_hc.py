"""Identity hyper-connections: mHC with H_res = I, so that only the dynamic read and write remain.

    X' = X + H_post^T F(RMSNorm(H_pre X)),   H_pre = sigmoid(.), H_post = 2 sigmoid(.) as in mHC (arXiv 2512.24880, eqs. 7-8)

It asks how much of mHC's gain the mixing matrix is responsible for, and is a control row of every comparison.
"""

from torch import Tensor

from resbench.architectures.gated import BiasInit, GatedStreams, gate_bias
from resbench.architectures.scheme import MixingClaim
from resbench.architectures.streams import Coefficients, Exit
from resbench.kernels import functional


class IdentityHyperConnections(GatedStreams):
    """n streams that are read and written dynamically and never mixed.

    Parameters
    ----------
    n_streams: n, the number of residual streams; any n >= 1.
    alpha_init: initial value of the two gating scalars.
    bias_init: initial b_pre and b_post, as for mhc.
    phi_init_std: standard deviation of phi's initial entries.
    eps: added to the mean square under r.
    exit: how the streams become one vector after the last sublayer.
    """

    is_control = True

    def __init__(
        self,
        width: int,
        n_sublayers: int,
        n_streams: int = 4,
        alpha_init: float = 0.01,
        bias_init: BiasInit = "pre-norm",
        phi_init_std: float = 0.0,
        eps: float = 1e-6,
        exit: Exit = "sum",
    ) -> None:
        bias = [gate_bias(bias_init, n_streams, i, phi_init_std) for i in range(n_sublayers)] if n_streams > 0 else []
        super().__init__(width, n_sublayers, n_streams, 2 * n_streams, alpha_init, bias, phi_init_std, eps, exit)

    def coefficients(self, state: Tensor, i: int) -> Coefficients:
        return Coefficients(*functional.mhc_coefficients(state, self.phi[i], self.alpha[i], self.bias[i], 0, self.eps))

    def read(self, state: Tensor, i: int) -> tuple[Tensor, Coefficients]:
        norm = self.norm(i)
        gates = self.phi[i], self.alpha[i], self.bias[i]
        u, pre, post, res = functional.mhc_read(state, *gates, norm.weight, 0, self.eps, norm.eps)
        return u, Coefficients(pre, post, res)

    def boundary(self, state: Tensor, ctx: Coefficients, y: Tensor, i: int) -> tuple[Tensor, Tensor, Coefficients]:
        norm = self.norm(i + 1)
        state, u, pre, post, res = functional.mhc_boundary(
            state,
            y,
            ctx.post,
            None,
            self.phi[i + 1],
            self.alpha[i + 1],
            self.bias[i + 1],
            norm.weight,
            0,
            self.eps,
            norm.eps,
        )
        return state, u, Coefficients(pre, post, res)

    def mixing_claims(self) -> tuple[MixingClaim, ...]:
        return (MixingClaim("identity"),)

    def connection_flops(self) -> int:
        """Gates, read and write; nothing mixes."""
        per_sublayer = self.gate_flops() + self.read_flops() + self.write_flops(mixes=False)
        return self.n_sublayers * per_sublayer + self.exit_flops()
