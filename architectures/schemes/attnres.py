"""Attention Residuals (AttnRes, arXiv 2603.15031), full and block: every sublayer attends over the outputs of those before it.

With sources v_0 = embedding, v_j = F_j(u_j) and one learned pseudo-query w_l [C] per read,

    u_l = RMSNorm(sum_j a_j v_j),   a = softmax_j(w_l . RMSNorm(v_j)),   output = the same attention with a last query

**Full** attends over all earlier outputs: state and arithmetic grow with depth. **Block** cuts the sublayers into blocks of equal size; inside a
block outputs are summed as in a resnet, and the sources are the embedding, the sums of the finished blocks and the running sum of the current one.

w starts at 0, as in the paper: a uniform average, whose direction is the resnet's sum, so that with a norm in front of every branch the stack
starts as exactly the function resnet computes. The RMSNorm of the keys has no weight here, since w absorbs it, and there is no query where the
embedding is the only source.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from resbench.architectures.depth_mix import depth_attention
from resbench.architectures.norm import RMSNorm
from resbench.architectures.scheme import ResidualScheme

State = tuple[Tensor, ...]
"""The sources [B, T, C] in order of depth; in block mode the last may be the running sum of the current block."""


class AttentionResiduals(ResidualScheme):
    """Depth-wise softmax attention over earlier outputs in place of their sum.

    Parameters
    ----------
    mode: ``full`` attends over every earlier sublayer's output; ``block`` over the sums of blocks.
    n_blocks: into how many blocks ``block`` cuts the sublayers (the paper recommends about 8); ignored by ``full``. With as many blocks as
        sublayers, block is full.
    """

    def __init__(
        self, width: int, n_sublayers: int, mode: Literal["full", "block"] = "full", n_blocks: int = 8
    ) -> None:
        super().__init__(width, n_sublayers)
        if mode not in ("full", "block"):
            raise ValueError(f"mode={mode!r}: expected full or block")
        if n_blocks < 1:
            raise ValueError(f"n_blocks={n_blocks}: expected at least 1")
        self.block_size = 1 if mode == "full" else -(-n_sublayers // n_blocks)
        self.norms = nn.ModuleList(RMSNorm(width) for _ in range(n_sublayers))
        self.queries = nn.ParameterList(torch.zeros(width) for _ in range(n_sublayers))
        """w of the reads of sublayers 1, 2, ... and, last, of the output."""

    def enter(self, x: Tensor) -> State:
        return (x,)

    def read(self, state: State, i: int) -> tuple[Tensor, None]:
        mixed = state[0] if i == 0 else depth_attention(state, self.queries[i - 1])
        return self.norms[i](mixed), None

    def write(self, state: State, ctx: None, y: Tensor, i: int) -> State:
        y = y.to(state[0].dtype)
        if i % self.block_size == 0:
            return (*state, y)
        return (*state[:-1], state[-1] + y)

    def exit(self, state: State) -> Tensor:
        return depth_attention(state, self.queries[-1])

    def branch_norm(self, i: int) -> nn.Module:
        return nn.Identity()

    def connection_params(self) -> int:
        return self.n_sublayers * self.width

    def connection_flops(self) -> int:
        """Per source: its mean square, product with the query and weighted sum, two per channel each (the first is not added); sums in blocks."""
        size, L = self.block_size, self.n_sublayers
        sources = sum(1 + -(-i // size) for i in range(1, L + 1))  # what reads 1 .. L - 1 and the exit attend over
        additions = sum(1 for i in range(L) if i % size)
        return self.width * (6 * sources - L + additions)
