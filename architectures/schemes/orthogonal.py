"""Orthogonal hyper-connections: mHC whose mixing matrix is a rotation, made by the Cayley transform (JPmHC, arXiv 2602.18308).

Per sublayer, with n (n - 1) / 2 logits Ht_res = alpha_res * (phi_res vec(X)) / r + b_res as the upper triangle of a skew-symmetric S:

    H_res = (I + S)^-1 (I - S)                        [n, n],   H_res^T H_res = I,  det H_res = 1

so all singular values are one and the product over depth can neither amplify nor attenuate. (I + S)^-1 exists for every skew S. Entries may be
negative and sums are not kept, unlike those of a doubly stochastic matrix. Read, write and their gates are mHC's.

JPmHC makes S of a full n x n matrix as W - W^T and approximates the transform by a fixed-point iteration; here S has its own n (n - 1) / 2 logits,
which reach the same matrices, and the linear system is solved. Sign and scale of S are conventions. S starts at zero, so that the stack starts as
exactly the function resnet computes; unlike the -8 of doubly stochastic schemes, that start saturates nothing.
"""

import torch
from torch import Tensor

from resbench.architectures.gated import BiasInit, LogitMixedStreams, gate_bias
from resbench.architectures.scheme import MixingClaim
from resbench.architectures.streams import Exit


class OrthogonalHyperConnections(LogitMixedStreams):
    """mHC with H_res a rotation of the streams by the Cayley transform.

    Parameters
    ----------
    n_streams: n, the number of residual streams; any n >= 1.
    alpha_init: initial value of the three gating scalars.
    bias_init: initial b_pre and b_post, as for mhc.
    phi_init_std: standard deviation of phi's initial entries.
    eps: added to the mean square under r.
    exit: how the streams become one vector after the last sublayer.
    """

    upper: Tensor

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
        n = n_streams
        if n < 1:
            raise ValueError(f"n_streams={n}: expected at least 1")
        angles = torch.zeros(n * (n - 1) // 2)
        bias = [torch.cat([gate_bias(bias_init, n, i, phi_init_std), angles]) for i in range(n_sublayers)]
        super().__init__(width, n_sublayers, n, 2 * n + len(angles), alpha_init, bias, phi_init_std, eps, exit)
        self.register_buffer("upper", skew_basis(n), persistent=False)

    def mixing_matrix(self, logits: Tensor) -> Tensor:
        n = self.n_streams
        with torch.autocast(logits.device.type, enabled=False):
            skew = (logits @ self.upper.to(logits.dtype)).unflatten(-1, (n, n))
            identity = torch.eye(n, dtype=logits.dtype, device=logits.device)
            # solve_ex: the system is never singular, and checking would make the host wait for the device
            return torch.linalg.solve_ex(identity + skew, identity - skew).result

    def mixing_claims(self) -> tuple[MixingClaim, ...]:
        return (MixingClaim("orthogonal"),)

    def mix_flops(self) -> int:
        """S from its logits, then elimination of an n x n system with n right-hand sides."""
        n = self.n_streams
        return n**3 * (n - 1) + 2 * n**2 + 8 * n**3 // 3


def skew_basis(n: int) -> Tensor:
    """[n (n - 1) / 2, n^2]: row (a, b) has +1 at entry [a, b] and -1 at [b, a], for a < b."""
    rows, columns = torch.triu_indices(n, n, offset=1)
    basis = torch.zeros(len(rows), n, n)
    pair = torch.arange(len(rows))
    basis[pair, rows, columns] = 1.0
    basis[pair, columns, rows] = -1.0
    return basis.flatten(1)
