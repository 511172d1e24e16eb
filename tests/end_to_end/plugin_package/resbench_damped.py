"""A residual scheme in a package of its own: x' = x + g_l F(x), one learned gain per sublayer."""

from typing import Any

import torch
from torch import Tensor, nn

from resbench.architectures import ResidualScheme


class Damped(ResidualScheme):
    """A gain per sublayer on the branch.

    Parameters
    ----------
    gain_init: initial gain.
    """

    def __init__(self, width: int, n_sublayers: int, gain_init: float = 0.5) -> None:
        super().__init__(width, n_sublayers)
        self.gain = nn.Parameter(torch.full((n_sublayers,), gain_init))

    def enter(self, x: Tensor) -> Tensor:
        return x

    def read(self, state: Tensor, i: int) -> tuple[Tensor, None]:
        return state, None

    def write(self, state: Tensor, ctx: None, y: Tensor, i: int) -> Tensor:
        return state + self.gain[i].to(state.dtype) * y.to(state.dtype)

    def exit(self, state: Tensor) -> Tensor:
        return state

    def mixing(self, state: Tensor, ctx: Any, i: int) -> Tensor:
        return torch.ones(*state.shape[:-1], 1, 1, device=state.device)

    def connection_flops(self) -> int:
        return 2 * self.width * self.n_sublayers
