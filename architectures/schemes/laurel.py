"""LAuReL, the learned augmented residual layer (arXiv 2411.07501): residual weights, a low-rank residual map, previous activations.

    RW (residual weights)       x_{i+1} = a F(x_i) + b x_i
    LR (low rank)               x_{i+1} = F(x_i) + x_i + B A x_i                                  A [r, C], B [C, r]
    PA (previous activations)   x_{i+1} = F(x_i) + x_i + B A (sum_{j < k} g_j x_{i-j})            g [k]
    together                    x_{i+1} = a F(x_i) + b (x_i + B A (sum_{j < k} g_j x_{i-j}))

(F normed as everywhere here.) B starts at 0 and A with orthogonal rows, A[j, i] = 1 / sqrt(r C) where i mod r = j, as in the paper's language models,
for which it recommends ranks of 32 to 64.

Where the paper leaves a choice: it bounds a and b by "a normalization function such as softmax or sigmoid"; here (a, b) = 2 softmax(p) with p = 0 at
first, so that both start at 1 and the stack starts as exactly the function resnet computes. In PA one B A serves all k activations (the paper
counts 2 r C + k parameters; its combined eq. 6 has one B A each), and g starts at 1 / k; early sublayers have as many g as there are activations.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resbench.architectures.depth_mix import weighted_sum
from resbench.architectures.norm import RMSNorm
from resbench.architectures.scheme import ResidualScheme

State = tuple[Tensor, ...]
"""x_i, then x_{i-1}, x_{i-2}, ... as far as the next sublayer looks back, each [B, T, C]."""


class Laurel(ResidualScheme):
    """A resnet whose residual is weighted and gets a learned low-rank linear map.

    Parameters
    ----------
    weights: learn a and b (RW).
    rank: r of the low-rank map (LR); 0 for none.
    previous: k, how many activations the low-rank map sees; above 1 is PA.
    """

    def __init__(self, width: int, n_sublayers: int, weights: bool = True, rank: int = 32, previous: int = 1) -> None:
        super().__init__(width, n_sublayers)
        if rank < 0:
            raise ValueError(f"rank={rank}: expected at least 0")
        if previous < 1:
            raise ValueError(f"previous={previous}: expected at least 1, the current activation")
        if previous > 1 and rank == 0:
            raise ValueError(
                f"previous={previous} with rank=0: earlier activations enter through the low-rank map, set its rank"
            )
        self.rank, self.previous = min(rank, width), previous
        self.norms = nn.ModuleList(RMSNorm(width) for _ in range(n_sublayers))
        self.balance = nn.ParameterList(torch.zeros(2) for _ in range(n_sublayers if weights else 0))
        mapped = n_sublayers if rank else 0
        self.down = nn.ParameterList(orthogonal_rows(self.rank, width) for _ in range(mapped))
        self.up = nn.ParameterList(torch.zeros(width, self.rank) for _ in range(mapped))
        self.gamma = nn.ParameterList(
            torch.full((min(previous, i + 1),), 1.0 / previous) for i in range(mapped if previous > 1 else 0)
        )

    def enter(self, x: Tensor) -> State:
        return (x,)

    def read(self, state: State, i: int) -> tuple[Tensor, None]:
        return self.norms[i](state[0]), None

    def write(self, state: State, ctx: None, y: Tensor, i: int) -> State:
        x = state[0]
        dtype = x.dtype
        kept = x
        if self.rank:
            seen = weighted_sum(state, self.gamma[i]) if self.gamma else x
            kept = x + F.linear(F.linear(seen, self.down[i].to(dtype)), self.up[i].to(dtype)).to(dtype)
        y = y.to(dtype)
        if self.balance:
            a, b = self.residual_weights(i).to(dtype).unbind()
            x = a * y + b * kept
        else:
            x = y + kept
        return (x, *state[: self.previous - 1])

    def residual_weights(self, i: int) -> Tensor:
        """(a, b) of sublayer i, [2]."""
        return 2 * torch.softmax(self.balance[i], -1)

    def exit(self, state: State) -> Tensor:
        return state[0]

    def branch_norm(self, i: int) -> nn.Module:
        return nn.Identity()

    def mixing(self, state: State, ctx: None, i: int) -> Tensor | None:
        if self.rank:  # the residual map acts on channels
            return None
        b = self.residual_weights(i)[1] if self.balance else torch.ones((), device=state[0].device)
        return b.expand(*state[0].shape[:-1], 1, 1)

    def streams(self, state: State) -> Tensor:
        return state[0].unsqueeze(-2)

    def connection_params(self) -> int:
        return sum(p.numel() for name, p in self.named_parameters() if not name.startswith("norms."))

    def connection_flops(self) -> int:
        """Per sublayer: the addition, two products when weighted, the low-rank map and its addition, a multiply-add per looked-back activation."""
        per_channel = 1 + (2 if self.balance else 0) + (4 * self.rank + 1 if self.rank else 0)
        looked_back = sum(2 * len(gamma) - 1 for gamma in self.gamma)
        return self.width * (self.n_sublayers * per_channel + looked_back)


def orthogonal_rows(rank: int, width: int) -> Tensor:
    """A [r, C] with A[j, i] = 1 / sqrt(r C) where i mod r = j, else 0."""
    return (torch.arange(width) % rank == torch.arange(rank)[:, None]).float() / (rank * width) ** 0.5
