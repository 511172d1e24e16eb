"""A sound scheme of two streams, and copies of it that are wrong in one way each."""

import itertools
import random
from typing import Any

import torch
from torch import Tensor, nn

from resbench.architectures import MixingClaim, ResidualScheme

N = 2


class Sound(ResidualScheme):
    """``u = sum_j a_j X_j``, ``X'_o = sum_i H_oi X_i + b_o F(u)`` with learned a, b and H of each sublayer, the same for every token."""

    def __init__(self, width: int, n_sublayers: int, gain: float = 1.0) -> None:
        super().__init__(width, n_sublayers)
        self.pre = nn.ParameterList(torch.eye(N)[i % N] for i in range(n_sublayers))
        self.post = nn.ParameterList(torch.full((N,), gain) for _ in range(n_sublayers))
        self.mix = nn.ParameterList(torch.eye(N) for _ in range(n_sublayers))

    def enter(self, x: Tensor) -> Tensor:
        return torch.stack([x] * N, dim=-2)

    def read(self, state: Tensor, i: int) -> tuple[Tensor, Any]:
        return (self.pre[i].to(state.dtype).unsqueeze(-1) * state).sum(-2), None

    def matrix(self, i: int) -> Tensor:
        return self.mix[i]

    def gate(self, i: int) -> Tensor:
        return self.post[i]

    def write(self, state: Tensor, ctx: Any, y: Tensor, i: int) -> Tensor:
        mixed = torch.einsum("oi,btic->btoc", self.matrix(i).to(state.dtype), state)
        return mixed + self.gate(i).to(state.dtype).unsqueeze(-1) * y.unsqueeze(-2)

    def exit(self, state: Tensor) -> Tensor:
        return state.sum(-2)

    def mixing(self, state: Tensor, ctx: Any, i: int) -> Tensor | None:
        return self.matrix(i).expand(*state.shape[:2], N, N)

    def streams(self, state: Tensor) -> Tensor:
        return state

    def read_write(self, state: Tensor, ctx: Any, i: int) -> tuple[Tensor, Tensor]:
        return self.pre[i].expand(*state.shape[:2], N), self.gate(i).expand(*state.shape[:2], N)

    def no_weight_decay(self) -> set[str]:
        return {name for name, _ in self.named_parameters()}

    def connection_flops(self) -> int:
        return self.width * (self.n_sublayers * (2 * N + 2 * N * N + 2 * N) + N)


class LeaksTheFuture(Sound):
    """The write is gated by the mean over the whole sequence."""

    def read(self, state: Tensor, i: int) -> tuple[Tensor, Any]:
        return super().read(state, i)[0], 1 + torch.tanh(state[..., 0, :].mean((-2, -1), keepdim=True))

    def write(self, state: Tensor, ctx: Any, y: Tensor, i: int) -> Tensor:
        return super().write(state, ctx, ctx * y, i)

    def read_write(self, state: Tensor, ctx: Any, i: int) -> tuple[Tensor, Tensor]:
        pre, post = super().read_write(state, ctx, i)
        return pre, ctx * post

    def connection_flops(self) -> int:
        return super().connection_flops() + 2 * self.width * self.n_sublayers


class MixesTheBatch(Sound):
    def exit(self, state: Tensor) -> Tensor:
        total = super().exit(state)
        return total + 0.1 * total.flip(0)

    def connection_flops(self) -> int:
        return super().connection_flops() + 2 * self.width


class CollapsesStreams(Sound):
    """Streams are averaged after every write and spread again: a plain residual in disguise."""

    def matrix(self, i: int) -> Tensor:
        return super().matrix(i).mean(0, keepdim=True).expand(N, N)

    def __init__(self, width: int, n_sublayers: int) -> None:
        super().__init__(width, n_sublayers)
        self.post = nn.ParameterList(torch.ones(1) for _ in range(n_sublayers))

    def gate(self, i: int) -> Tensor:
        return self.post[i].expand(N)


class StaysSymmetric(Sound):
    """Every stream starts alike and is treated alike, so that no gradient ever tells them apart."""

    def __init__(self, width: int, n_sublayers: int) -> None:
        super().__init__(width, n_sublayers)
        self.pre = nn.ParameterList(torch.full((N,), 1 / N) for _ in range(n_sublayers))


class WrongMixing(Sound):
    def mixing(self, state: Tensor, ctx: Any, i: int) -> Tensor:
        return torch.eye(N).expand(*state.shape[:2], N, N)


class TransposedMixing(Sound):
    def mixing(self, state: Tensor, ctx: Any, i: int) -> Tensor:
        return self.matrix(i).mT.expand(*state.shape[:2], N, N)


class WrongClaim(Sound):
    """A row softmax is not doubly stochastic."""

    def matrix(self, i: int) -> Tensor:
        return torch.softmax(8 * self.mix[i], -1)

    def mixing_claims(self) -> tuple[MixingClaim, ...]:
        return MixingClaim("row sums"), MixingClaim("column sums")


class WrongWriteWeights(Sound):
    def read_write(self, state: Tensor, ctx: Any, i: int) -> tuple[Tensor, Tensor]:
        pre, post = super().read_write(state, ctx, i)
        return pre, post.flip(-1)


class WrongReadWeights(Sound):
    def read_write(self, state: Tensor, ctx: Any, i: int) -> tuple[Tensor, Tensor]:
        pre, post = super().read_write(state, ctx, i)
        return pre.flip(-1), post


class WrongParameterCount(Sound):
    def connection_params(self) -> int:
        return super().connection_params() - N


class WrongFlopCount(Sound):
    def connection_flops(self) -> int:
        return super().connection_flops() // 2


class NaNAtDepth(Sound):
    """Each sublayer makes the streams four times as large: 4^64 is past float32's 3e38."""

    def __init__(self, width: int, n_sublayers: int) -> None:
        super().__init__(width, n_sublayers)
        self.mix = nn.ParameterList(4 * torch.eye(N) for _ in range(n_sublayers))


class ForgetsTheDtype(Sound):
    def write(self, state: Tensor, ctx: Any, y: Tensor, i: int) -> Tensor:
        return super().write(state, ctx, y, i).to(torch.promote_types(state.dtype, torch.float32))


class StateIsAList(Sound):
    def enter(self, x: Tensor) -> Any:
        return [x, x]


class _Half(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        return y.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad / 2


class WrongGradient(Sound):
    def exit(self, state: Tensor) -> Tensor:
        return _Half.apply(super().exit(state))  # type: ignore[no-any-return, no-untyped-call]


class NoisyForward(Sound):
    """Off by 45 roundings in every second call: random noise of that size would repeat itself once in 45 calls."""

    _calls = itertools.count()

    def exit(self, state: Tensor) -> Tensor:
        return super().exit(state) * (1 + 1e-14 * (next(self._calls) % 2))


class BreaksTheGraph(Sound):
    def read(self, state: Tensor, i: int) -> tuple[Tensor, Any]:
        if float(state.detach().abs().max()) > 1e30:
            state = state.clamp(-1e30, 1e30)
        return super().read(state, i)

    def connection_flops(self) -> int:
        return super().connection_flops() + 2 * N * self.width * self.n_sublayers


class WrongBoundary(Sound):
    """A fused boundary that adds the branch's output to the first stream only."""

    def boundary(self, state: Tensor, ctx: Any, y: Tensor, i: int) -> tuple[Tensor, Tensor, Any]:
        state = torch.cat([self.write(state, ctx, y, i)[..., :1, :], self.write(state, ctx, 0 * y, i)[..., 1:, :]], -2)
        return state, *self.read(state, i + 1)


class CountsItsCalls(Sound):
    """What activation checkpointing runs again is another function than what it ran first."""

    def enter(self, x: Tensor) -> Tensor:
        self.calls = 0
        return super().enter(x)

    def write(self, state: Tensor, ctx: Any, y: Tensor, i: int) -> Tensor:
        self.calls += 1
        return super().write(state, ctx, y / self.calls, i)


class ForgetsAnInitialValue(Sound):
    """A random number that matters and is neither a parameter nor a buffer."""

    def __init__(self, width: int, n_sublayers: int) -> None:
        super().__init__(width, n_sublayers)
        self.scale = 1 + random.random()

    def exit(self, state: Tensor) -> Tensor:
        return super().exit(state) * self.scale

    def connection_flops(self) -> int:
        return super().connection_flops() + self.width


class UntypedConstructor(Sound):
    def __init__(self, width: int, n_sublayers: int, gain=1.0) -> None:  # type: ignore[no-untyped-def]
        super().__init__(width, n_sublayers, gain)


class WrongKernel(Sound):
    """What runs in float32 is not what is defined in float64."""

    def exit(self, state: Tensor) -> Tensor:
        total = super().exit(state)
        return total if state.dtype == torch.float64 else total + 0.05 * state[..., 0, :]

    def connection_flops(self) -> int:
        return super().connection_flops() + 2 * self.width
