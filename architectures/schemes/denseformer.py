"""DenseFormer (arXiv 2402.02622): after each block, a learned weighted average over the outputs of all blocks so far.

With X_0 the embedding and X_{i} = B_i(Y_{i-1}) the output of block i in 1 .. N, whose inside is a plain pre-norm residual (Y_0 = X_0),

    Y_i = sum_j alpha_{i,j} X_j   over j <= i with j = i mod dilation,   where period divides i;   Y_i = X_i elsewhere

The weights are scalars, the same for every token. They start at alpha_{i,i} = 1 and 0 elsewhere, so the stack starts as exactly the function
resnet computes. The averages take X_j from before their own average, as in the paper and its code.

A block is a whole transformer layer in the paper, two sublayers here; a last block that is cut short gets no average.
"""

import torch
from torch import Tensor, nn

from resbench.architectures.depth_mix import weighted_sum
from resbench.architectures.norm import RMSNorm
from resbench.architectures.scheme import ResidualScheme
from resbench.kernels import functional

State = tuple[Tensor, ...]
"""The running residual, then X_0, X_1, ... as far as a later average needs them, each [B, T, C]."""


class DenseFormer(ResidualScheme):
    """A resnet whose blocks read a learned average of all earlier blocks' outputs (depth-weighted average).

    Parameters
    ----------
    dilation: average over every dilation-th block only.
    period: average after every period-th block only.
    sublayers_per_block: sublayers in a block; 2 is a transformer layer.
    """

    def __init__(
        self, width: int, n_sublayers: int, dilation: int = 1, period: int = 1, sublayers_per_block: int = 2
    ) -> None:
        super().__init__(width, n_sublayers)
        for name, value in (
            ("dilation", dilation),
            ("period", period),
            ("sublayers_per_block", sublayers_per_block),
        ):
            if value < 1:
                raise ValueError(f"{name}={value}: expected at least 1")
        self.dilation, self.period, self.sublayers_per_block = dilation, period, sublayers_per_block
        self.norms = nn.ModuleList(RMSNorm(width) for _ in range(n_sublayers))
        averaged = [i for i in range(1, n_sublayers // sublayers_per_block + 1) if i % period == 0]
        self.alphas = nn.ParameterDict({str(i): torch.eye(i // dilation + 1)[-1].clone() for i in averaged})
        """alpha_i by block, its own output's weight last: [i // dilation + 1]."""

    def enter(self, x: Tensor) -> State:
        return x, x

    def read(self, state: State, i: int) -> tuple[Tensor, None]:
        return self.norms[i](state[0]), None

    def write(self, state: State, ctx: None, y: Tensor, i: int) -> State:
        running, outputs = state[0] + y.to(state[0].dtype), state[1:]
        block, rest = divmod(i + 1, self.sublayers_per_block)
        if rest or not self.alphas:
            return (running, *outputs)
        outputs = (*outputs, running)
        if str(block) in self.alphas:
            running = weighted_sum(outputs[block % self.dilation :: self.dilation], self.alphas[str(block)])
        return (running, *outputs)

    def boundary(self, state: State, ctx: None, y: Tensor, i: int) -> tuple[State, Tensor, None]:
        if (i + 1) % self.sublayers_per_block == 0:
            return super().boundary(state, ctx, y, i)
        norm = self.norms[i + 1]
        assert isinstance(norm, RMSNorm)
        running, u = functional.add_rms_norm(state[0], y, norm.weight, norm.eps)
        return (running, *state[1:]), u, None

    def exit(self, state: State) -> Tensor:
        return state[0]

    def branch_norm(self, i: int) -> nn.Module:
        return nn.Identity()

    def connection_params(self) -> int:
        return sum(alpha.numel() for alpha in self.alphas.values())

    def connection_flops(self) -> int:
        """The additions inside blocks, and a multiply-add per channel and averaged output (the first is not added)."""
        return self.width * (self.n_sublayers + 2 * self.connection_params() - len(self.alphas))
