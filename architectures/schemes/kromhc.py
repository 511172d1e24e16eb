"""KromHC (arXiv 2601.21579): mHC whose mixing matrix is a Kronecker product of small doubly stochastic factors.

With n = i_1 i_2 ... i_K and, per sublayer and factor k, logits Ht_k = alpha_res * (phi_k vec(X)) / r + b_k over the i_k! permutations of i_k:

    U_k   = sum_p softmax(Ht_k)_p P_p                 [i_k, i_k]
    H_res = U_1 (x) U_2 (x) ... (x) U_K               [n, n]

A Kronecker product of doubly stochastic matrices is doubly stochastic, so H_res is so to rounding, with sum_k i_k! instead of n! or n^2 logits
(n = 8: 6 instead of 40320 or 64). One alpha_res serves all factors. Read, write and their gates are mHC's.

The factors default to the primes of n, two first, as in the paper's experiments with powers of two. The paper norms vec(X) with a learned weight,
which phi can absorb; here there is none, as in mhc. Its code starts each factor's identity logit at 0 and the others at -8 with one-hot read and
write; the default here writes equally to all streams, so that the stack starts as exactly the function resnet computes.
"""

import math

import torch
from torch import Tensor

from resbench.architectures.gated import BiasInit, LogitMixedStreams, gate_bias
from resbench.architectures.scheme import MixingClaim
from resbench.architectures.schemes.mhc_lite import LARGEST, permutation_matrices
from resbench.architectures.streams import Exit


class KromHC(LogitMixedStreams):
    """mHC with H_res a Kronecker product of small mixtures of permutations: exactly doubly stochastic with few parameters.

    Parameters
    ----------
    n_streams: n, the number of residual streams; its prime factors must not exceed 5, unless ``factors`` says otherwise.
    factors: i_1, i_2, ...; null for the primes of n in rising order.
    alpha_init: initial value of the three gating scalars.
    bias_init: initial b_pre and b_post, as for mhc.
    res_off_identity: initial logit of every permutation but the identity, whose logit starts at 0.
    phi_init_std: standard deviation of phi's initial entries.
    eps: added to the mean square under r.
    exit: how the streams become one vector after the last sublayer.
    """

    def __init__(
        self,
        width: int,
        n_sublayers: int,
        n_streams: int = 4,
        factors: list[int] | None = None,
        alpha_init: float = 0.01,
        bias_init: BiasInit = "pre-norm",
        res_off_identity: float = -8.0,
        phi_init_std: float = 0.0,
        eps: float = 1e-6,
        exit: Exit = "sum",
    ) -> None:
        n = n_streams
        if n < 1:
            raise ValueError(f"n_streams={n}: expected at least 1")
        self_factors = primes(n) if factors is None else list(factors)
        if math.prod(self_factors) != n or not all(2 <= factor <= LARGEST for factor in self_factors):
            raise ValueError(
                f"n_streams={n}, factors={self_factors}: expected factors from 2 to {LARGEST} whose product is n_streams (a factor i costs i! logits)"
            )
        mixing = torch.full((sum(map(math.factorial, self_factors)),), float(res_off_identity))
        start = 0
        for factor in self_factors:
            mixing[start] = 0.0
            start += math.factorial(factor)
        bias = [torch.cat([gate_bias(bias_init, n, i, phi_init_std), mixing]) for i in range(n_sublayers)]
        super().__init__(width, n_sublayers, n, 2 * n + len(mixing), alpha_init, bias, phi_init_std, eps, exit)
        self.factors = self_factors
        for factor in sorted(set(self_factors)):
            self.register_buffer(f"permutations_{factor}", permutation_matrices(factor).flatten(1), persistent=False)

    def mixing_matrix(self, logits: Tensor) -> Tensor:
        matrix = logits.new_ones(*logits.shape[:-1], 1, 1)
        for factor, part in zip(self.factors, logits.split([math.factorial(i) for i in self.factors], -1), strict=True):
            permutations: Tensor = getattr(self, f"permutations_{factor}")
            with torch.autocast(logits.device.type, enabled=False):
                small = torch.softmax(part, -1) @ permutations.to(part.dtype)
            # [.., a, 1, a', 1] * [.., 1, b, 1, b'] -> [.., a b, a' b'], the Kronecker product
            outer = matrix[..., :, None, :, None] * small.unflatten(-1, (factor, factor))[..., None, :, None, :]
            matrix = outer.flatten(-4, -3).flatten(-2, -1)
        return matrix

    def mixing_claims(self) -> tuple[MixingClaim, ...]:
        return MixingClaim("row sums"), MixingClaim("column sums"), MixingClaim("non-negative")

    def mix_flops(self) -> int:
        """For each factor: the softmax of its logits (five each), their mixture, and its product with the factors before it."""
        total, size = 0, 1
        for factor in self.factors:
            size *= factor
            total += 5 * math.factorial(factor) + 2 * math.factorial(factor) * factor**2 + size**2
        return total


def primes(n: int) -> list[int]:
    """The prime factors of n in rising order; none for 1."""
    found, candidate = [], 2
    while n > 1:
        while n % candidate == 0:
            found.append(candidate)
            n //= candidate
        candidate += 1
    return found
