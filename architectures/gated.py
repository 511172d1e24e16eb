"""mHC's input-dependent gates (arXiv 2512.24880, eqs. 7-8, 14-16), shared by the schemes that differ from mhc in how their streams mix.

Ht = alpha * (phi vec(X)) / r + b,   r = sqrt(mean(vec(X)^2) + eps),   H_pre = sigmoid(Ht_pre),   H_post = 2 sigmoid(Ht_post)
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from resbench.architectures.recompute import recomputed
from resbench.architectures.streams import Coefficients, Exit, StreamScheme
from resbench.kernels.reference import compute_dtype

BiasInit = Literal["pre-norm", "one-hot-read", "mean-read", "zero"]


class GatedStreams(StreamScheme):
    """mHC's gates without a choice of mixing: projection, RMS normalisation and sigmoids."""

    def __init__(
        self,
        width: int,
        n_sublayers: int,
        n_streams: int,
        rows: int,
        alpha_init: float,
        bias: list[Tensor],
        phi_init_std: float,
        eps: float,
        exit: Exit,
    ) -> None:
        super().__init__(width, n_sublayers, n_streams, exit)
        groups = 3 if rows > 2 * n_streams else 2
        self.eps = eps
        self.phi = nn.ParameterList(torch.zeros(rows, n_streams * width) for _ in range(n_sublayers))
        self.alpha = nn.ParameterList(torch.full((groups,), float(alpha_init)) for _ in range(n_sublayers))
        self.bias = nn.ParameterList(bias)
        if phi_init_std > 0:
            for phi in self.phi:
                nn.init.normal_(phi, std=phi_init_std)

    def gate_flops(self) -> int:
        """Per token and sublayer: the projection, the sum of squares, then scale and bias of each coefficient."""
        rows, flat = self.phi[0].shape
        return 2 * rows * flat + 2 * flat + 2 * rows


def gate_bias(bias_init: BiasInit, n: int, sublayer: int, phi_init_std: float) -> Tensor:
    """Initial b_pre and b_post, [2n]. Raises ValueError for a start that would keep all streams identical for ever."""
    k = sublayer % n
    one_hot = torch.full((n,), -1.0)
    one_hot[k] = 1.0
    # logit(1/n); one stream is read through a gate that is open to within 3e-4, which the branch's norm removes
    mean = -math.log(n - 1) if n > 1 else 8.0
    match bias_init:
        case "pre-norm":
            return torch.cat([one_hot, torch.zeros(n)])
        case "one-hot-read":
            return torch.cat([one_hot, one_hot])
        case "mean-read" | "zero":
            if phi_init_std == 0 and n > 1:
                raise ValueError(
                    f"bias_init={bias_init!r} with phi_init_std=0 treats every stream alike, so they would stay identical for ever: "
                    "set phi_init_std (0.02, say) or use bias_init='pre-norm' or 'one-hot-read'"
                )
            return torch.cat([torch.full((n,), mean if bias_init == "mean-read" else 0.0), torch.zeros(n)])
        case _:
            raise ValueError(f"bias_init={bias_init!r}: expected pre-norm, one-hot-read, mean-read or zero")


class LogitMixedStreams(GatedStreams):
    """mHC's gates with a mixing matrix that `mixing_matrix` makes of the remaining logits."""

    def mixing_matrix(self, logits: Tensor) -> Tensor:
        """Logits of the mixing [..., rows - 2n], float32 or float64 -> H_res [..., n, n] indexed [out, in]."""
        raise NotImplementedError(f"{type(self).__name__} must define mixing_matrix(logits)")

    def coefficients(self, state: Tensor, i: int) -> Coefficients:
        n = self.n_streams
        logits = recomputed(gate_logits, state, self.phi[i], self.alpha[i], self.bias[i], n, self.eps)
        pre, post = torch.sigmoid(logits[..., :n]), 2 * torch.sigmoid(logits[..., n : 2 * n])
        return Coefficients(pre, post, self.mixing_matrix(logits[..., 2 * n :]))

    def mix_flops(self) -> int:
        """Per token and sublayer: making H_res of its logits."""
        raise NotImplementedError(f"{type(self).__name__} must define mix_flops()")

    def connection_flops(self) -> int:
        """Gates, the mixing matrix, read, mix and write."""
        per_sublayer = self.gate_flops() + self.mix_flops() + self.read_flops() + self.write_flops(mixes=True)
        return self.n_sublayers * per_sublayer + self.exit_flops()


def gate_logits(x: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, n: int, eps: float) -> Tensor:
    """Ht: x [..., n, C]; phi [rows, n C] with rows pre, post, rest; alpha [2 or 3]; bias [rows] -> [..., rows] in the compute dtype."""
    flat = x.flatten(-2).to(compute_dtype(x))
    with torch.autocast(x.device.type, enabled=False):
        inverse_rms = torch.rsqrt(flat.square().mean(-1, keepdim=True) + eps)
        projected = flat @ phi.to(flat.dtype).T * inverse_rms
    counts = (n, n, len(bias) - 2 * n)[: len(alpha)]
    scale = torch.cat([part.expand(count) for part, count in zip(alpha, counts, strict=True)])
    return projected * scale.to(flat.dtype) + bias.to(flat.dtype)
