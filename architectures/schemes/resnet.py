"""ResNet's residual in its pre-norm form (He et al. 2016, "Identity Mappings in Deep Residual Networks"): ``x' = x + F(norm(x))``."""

import torch
from torch import Tensor, nn

from resbench.architectures.norm import RMSNorm
from resbench.architectures.scheme import MixingClaim, ResidualScheme
from resbench.kernels import functional


class ResNet(ResidualScheme):
    """``x_{l+1} = x_l + F_l(RMSNorm(x_l))``: one stream, no parameters, C additions per sublayer.

    The baseline of every comparison. The branch's norm is computed here so that addition and norm are one kernel.
    """

    def __init__(self, width: int, n_sublayers: int) -> None:
        super().__init__(width, n_sublayers)
        self.norms = nn.ModuleList(RMSNorm(width) for _ in range(n_sublayers))

    def enter(self, x: Tensor) -> Tensor:
        return x

    def read(self, state: Tensor, i: int) -> tuple[Tensor, None]:
        return self.norms[i](state), None

    def write(self, state: Tensor, ctx: None, y: Tensor, i: int) -> Tensor:
        return state + y.to(state.dtype)

    def boundary(self, state: Tensor, ctx: None, y: Tensor, i: int) -> tuple[Tensor, Tensor, None]:
        norm = self.norms[i + 1]
        assert isinstance(norm, RMSNorm)
        state, u = functional.add_rms_norm(state, y, norm.weight, norm.eps)
        return state, u, None

    def exit(self, state: Tensor) -> Tensor:
        return state

    def branch_norm(self, i: int) -> nn.Module:
        return nn.Identity()

    def mixing(self, state: Tensor, ctx: None, i: int) -> Tensor:
        return torch.ones(*state.shape[:-1], 1, 1, device=state.device)

    def mixing_claims(self) -> tuple[MixingClaim, ...]:
        return (MixingClaim("identity"),)

    def streams(self, state: Tensor) -> Tensor:
        return state.unsqueeze(-2)

    def connection_params(self) -> int:
        return 0

    def connection_flops(self) -> int:
        return self.n_sublayers * self.width
