"""Manifold-Constrained Hyper-Connections (mHC, arXiv 2512.24880).

With X [n, C] one token's streams, vec(X) their concatenation, r = sqrt(mean(vec(X)^2) + eps), per sublayer (eqs. 7-9, 14-19):

    Ht      = alpha * (phi vec(X)) / r + b          phi [n^2 + 2n, nC], alpha one scalar each for pre, post and res
    H_pre   = sigmoid(Ht_pre)                       [n]
    H_post  = 2 sigmoid(Ht_post)                    [n]
    H_res   = Sinkhorn-Knopp(Ht_res)                [n, n], doubly stochastic in the limit
    X'      = H_res X + H_post^T F(RMSNorm(H_pre X))

Sinkhorn-Knopp starts from exp(Ht_res) and alternates column and row normalisation, columns first, ``sinkhorn_iterations`` times; rows
therefore sum to one and the finite-iteration error is on the columns. Coefficients are computed in float32.

The paper is silent on the initial b and phi. Here phi starts at ``phi_init_std`` (0: the coefficients start static, as in HC) and
``bias_init`` chooses b. Applying the transpose of H_res, as some implementations do, is the same model as the other ``order`` with phi's rows
relabelled, so there is no field for it.
"""

from typing import Literal

import torch
from torch import Tensor

from resbench.architectures.gated import BiasInit, GatedStreams, gate_bias
from resbench.architectures.scheme import MixingClaim
from resbench.architectures.streams import Coefficients, Exit
from resbench.kernels import functional

Order = Literal["columns-first", "rows-first"]
Start = Literal["exp", "softmax"]


class ManifoldHyperConnections(GatedStreams):
    """mHC: n streams whose mixing matrix is projected onto the doubly stochastic matrices.

    Parameters
    ----------
    n_streams: n, the number of residual streams; any n >= 1.
    sinkhorn_iterations: t_max of Sinkhorn-Knopp; 0 leaves exp(Ht_res) scaled by its largest entry.
    alpha_init: initial value of the three gating scalars.
    bias_init: initial b. ``pre-norm`` reads mostly stream (sublayer mod n), writes equally to all and hardly mixes: the stack computes exactly what
        resnet computes. ``one-hot-read`` also writes mostly to that stream. ``mean-read`` reads the mean. ``zero`` starts from b = 0.
    res_off_diagonal: initial b_res off the diagonal (0 on it); ignored by ``bias_init: zero``.
    phi_init_std: standard deviation of phi's initial entries.
    order: which axis Sinkhorn normalises first; the paper's is columns-first.
    start: ``exp`` is the paper's; ``softmax`` begins from a row softmax plus ``sinkhorn_eps``.
    sinkhorn_eps: added to every sum in Sinkhorn; the paper has none.
    eps: added to the mean square under r.
    exit: how the streams become one vector after the last sublayer; the paper does not say, HC sums.
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
        exit: Exit = "sum",
    ) -> None:
        n = n_streams
        if sinkhorn_iterations < 0:
            raise ValueError(f"sinkhorn_iterations={sinkhorn_iterations}: expected at least 0")
        if order not in ("columns-first", "rows-first"):
            raise ValueError(f"order={order!r}: expected columns-first or rows-first")
        if start not in ("exp", "softmax"):
            raise ValueError(f"start={start!r}: expected exp or softmax")
        off_diagonal = 0.0 if bias_init == "zero" else res_off_diagonal
        res_bias = (off_diagonal * (1 - torch.eye(max(n, 1)))).flatten()
        super().__init__(
            width,
            n_sublayers,
            n,
            n * n + 2 * n,
            alpha_init,
            [torch.cat([gate_bias(bias_init, n, i, phi_init_std), res_bias]) for i in range(n_sublayers)]
            if n > 0
            else [],
            phi_init_std,
            eps,
            exit,
        )
        self.iterations = sinkhorn_iterations
        self.order: Order = order
        self.start: Start = start
        self.sinkhorn_eps = sinkhorn_eps

    def coefficients(self, state: Tensor, i: int) -> Coefficients:
        return Coefficients(
            *functional.mhc_coefficients(
                state,
                self.phi[i],
                self.alpha[i],
                self.bias[i],
                self.iterations,
                self.eps,
                order=self.order,
                start=self.start,
                sinkhorn_eps=self.sinkhorn_eps,
            )
        )

    def read(self, state: Tensor, i: int) -> tuple[Tensor, Coefficients]:
        norm = self.norm(i)
        u, pre, post, res = functional.mhc_read(
            state,
            self.phi[i],
            self.alpha[i],
            self.bias[i],
            norm.weight,
            self.iterations,
            self.eps,
            norm.eps,
            order=self.order,
            start=self.start,
            sinkhorn_eps=self.sinkhorn_eps,
        )
        return u, Coefficients(pre, post, res)

    def boundary(self, state: Tensor, ctx: Coefficients, y: Tensor, i: int) -> tuple[Tensor, Tensor, Coefficients]:
        norm = self.norm(i + 1)
        state, u, pre, post, res = functional.mhc_boundary(
            state,
            y,
            ctx.post,
            ctx.res,
            self.phi[i + 1],
            self.alpha[i + 1],
            self.bias[i + 1],
            norm.weight,
            self.iterations,
            self.eps,
            norm.eps,
            order=self.order,
            start=self.start,
            sinkhorn_eps=self.sinkhorn_eps,
        )
        return state, u, Coefficients(pre, post, res)

    def mixing_claims(self) -> tuple[MixingClaim, ...]:
        """The axis normalised last is exact, the other in the limit of iterations; an eps in the sums leaves neither exact."""
        if self.iterations == 0 or self.sinkhorn_eps > 0:
            return (MixingClaim("non-negative"),)
        limit = "sinkhorn_iterations"
        rows, columns = (None, limit) if self.order == "columns-first" else (limit, None)
        return MixingClaim("row sums", rows), MixingClaim("column sums", columns), MixingClaim("non-negative")

    def connection_flops(self) -> int:
        """Gates, read, mix and write, and four operations per entry of H_res and Sinkhorn iteration."""
        sinkhorn = 4 * self.n_streams**2 * self.iterations
        per_sublayer = self.gate_flops() + sinkhorn + self.read_flops() + self.write_flops(mixes=True)
        return self.n_sublayers * per_sublayer + self.exit_flops()
