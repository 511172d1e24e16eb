"""The matched control: a resnet whose MLPs are widened until it is as large, or as costly, as another scheme.

A scheme adds parameters and arithmetic. A fair reading of its gain asks what plain width would have bought for the same price.
"""

from collections.abc import Callable
from typing import Literal

import torch

from resbench.architectures.scheme import ResidualScheme
from resbench.architectures.schemes.mhc import ManifoldHyperConnections
from resbench.architectures.schemes.resnet import ResNet


class WideResNet(ResNet):
    """resnet with the MLP width solved so that the parameter count (or the forward FLOPs) equals that of ``match``.

    Parameters
    ----------
    match: the scheme to match, with its own arguments.
    on: what is made equal, ``params`` or ``flops``.
    """

    is_control = True

    def __init__(
        self,
        width: int,
        n_sublayers: int,
        match: Callable[[int, int], ResidualScheme] = ManifoldHyperConnections,
        on: Literal["params", "flops"] = "params",
    ) -> None:
        super().__init__(width, n_sublayers)
        if on not in ("params", "flops"):
            raise ValueError(f"on={on!r}: expected params or flops")
        with torch.device("meta"):
            matched = match(width, n_sublayers)
        self.on = on
        self.extra_params = matched.connection_params() - super().connection_params()
        self.extra_flops = matched.connection_flops() - super().connection_flops()

    def widening(self) -> tuple[int, int]:
        return (self.extra_params, 0) if self.on == "params" else (0, self.extra_flops)
