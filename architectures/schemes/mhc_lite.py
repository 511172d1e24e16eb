"""mHC-lite (arXiv 2601.05732): mHC whose mixing matrix is an exact convex combination of permutations, without Sinkhorn-Knopp.

By Birkhoff and von Neumann every doubly stochastic matrix is a mixture of permutation matrices P_1 .. P_{n!}, so per sublayer

    H_res = sum_k softmax(Ht_res)_k P_k,   Ht_res = alpha_res * (phi_res vec(X)) / r + b_res      [n!]

is doubly stochastic for any logits, to rounding. Read, write and their gates are mHC's (`resbench.architectures.gated`). The price is n!
rows of phi, so n stays at 5 or below.

The paper norms vec(X) with a learned weight, which phi can absorb; here there is none, as in mhc. Its code starts the identity's logit at 0 and
the others at -8, with one-hot read and write (``bias_init: one-hot-read``); the default here writes equally to all streams, so that the stack
starts as exactly the function resnet computes.
"""

import itertools
import math

import torch
from torch import Tensor

from resbench.architectures.gated import BiasInit, LogitMixedStreams, gate_bias
from resbench.architectures.scheme import MixingClaim
from resbench.architectures.streams import Exit

LARGEST = 5


def permutation_matrices(n: int) -> Tensor:
    """All n! permutation matrices [n!, n, n], the identity first."""
    return torch.eye(n)[torch.tensor(list(itertools.permutations(range(n))))]


class MHCLite(LogitMixedStreams):
    """mHC with H_res a softmax mixture of all n! permutation matrices: exactly doubly stochastic.

    Parameters
    ----------
    n_streams: n, the number of residual streams, 1 to 5: phi has n! rows for the mixing.
    alpha_init: initial value of the three gating scalars.
    bias_init: initial b_pre and b_post, as for mhc.
    res_off_identity: initial logit of every permutation but the identity, whose logit starts at 0.
    phi_init_std: standard deviation of phi's initial entries.
    eps: added to the mean square under r.
    exit: how the streams become one vector after the last sublayer.
    """

    permutations: Tensor

    def __init__(
        self,
        width: int,
        n_sublayers: int,
        n_streams: int = 4,
        alpha_init: float = 0.01,
        bias_init: BiasInit = "pre-norm",
        res_off_identity: float = -8.0,
        phi_init_std: float = 0.0,
        eps: float = 1e-6,
        exit: Exit = "sum",
    ) -> None:
        n = n_streams
        if not 1 <= n <= LARGEST:
            raise ValueError(
                f"n_streams={n}: mhc-lite mixes all n! permutations, expected n from 1 to {LARGEST}; use kromhc or mhc for more streams"
            )
        permutations = permutation_matrices(n)
        mixing = torch.full((len(permutations),), float(res_off_identity))
        mixing[0] = 0.0
        bias = [torch.cat([gate_bias(bias_init, n, i, phi_init_std), mixing]) for i in range(n_sublayers)]
        rows = 2 * n + len(permutations)
        super().__init__(width, n_sublayers, n, rows, alpha_init, bias, phi_init_std, eps, exit)
        self.register_buffer("permutations", permutations, persistent=False)

    def mixing_matrix(self, logits: Tensor) -> Tensor:
        n = self.n_streams
        weights = torch.softmax(logits, -1)
        with torch.autocast(logits.device.type, enabled=False):
            return (weights @ self.permutations.to(weights.dtype).flatten(1)).unflatten(-1, (n, n))

    def mixing_claims(self) -> tuple[MixingClaim, ...]:
        return MixingClaim("row sums"), MixingClaim("column sums"), MixingClaim("non-negative")

    def mix_flops(self) -> int:
        """Softmax of n! logits (five each), then their mixture of n^2 entries."""
        count = math.factorial(self.n_streams)
        return 5 * count + 2 * count * self.n_streams**2
