"""What HC, mHC and identity-HC share: n copies of the embedding on entry, per-token coefficients, a sum on exit."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from resbench.architectures.norm import RMSNorm
from resbench.architectures.scheme import ResidualScheme
from resbench.kernels import functional

Exit = Literal["sum", "mean", "first"]


class Coefficients(NamedTuple):
    """One sublayer's read weights [..., n], write weights [..., n] and mixing matrix [..., n, n] ([out, in]; None for the identity)."""

    pre: Tensor
    post: Tensor
    res: Tensor | None


class StreamScheme(ResidualScheme):
    """Streams X [B, T, n, C]: ``u = sum_j pre_j X_j``, ``X'_o = sum_i res_{o,i} X_i + post_o F(RMSNorm(u))``.

    A subclass says where a sublayer's coefficients come from (`coefficients`) and may fuse `boundary`.
    """

    def __init__(self, width: int, n_sublayers: int, n_streams: int, exit: Exit = "sum") -> None:
        super().__init__(width, n_sublayers)
        if n_streams < 1:
            raise ValueError(f"n_streams={n_streams}: expected at least 1")
        if exit not in ("sum", "mean", "first"):
            raise ValueError(f"exit={exit!r}: expected sum, mean or first")
        self.n_streams = n_streams
        self.exit_rule = exit
        self.norms = nn.ModuleList(RMSNorm(width) for _ in range(n_sublayers))

    def coefficients(self, state: Tensor, i: int) -> Coefficients:
        """Sublayer i's coefficients for streams [B, T, n, C]."""
        raise NotImplementedError(f"{type(self).__name__} must define coefficients(state, i)")

    def norm(self, i: int) -> RMSNorm:
        norm = self.norms[i]
        assert isinstance(norm, RMSNorm)
        return norm

    def enter(self, x: Tensor) -> Tensor:
        return x.unsqueeze(-2).expand(*x.shape[:-1], self.n_streams, x.shape[-1]).contiguous()

    def read(self, state: Tensor, i: int) -> tuple[Tensor, Coefficients]:
        found = self.coefficients(state, i)
        return self.norm(i)(functional.mhc_pre(state, found.pre)), found

    def write(self, state: Tensor, ctx: Coefficients, y: Tensor, i: int) -> Tensor:
        return functional.mhc_post(state, y, ctx.post, ctx.res)

    def exit(self, state: Tensor) -> Tensor:
        if self.exit_rule == "first":
            return state[..., 0, :]
        total = state.sum(-2, dtype=torch.promote_types(state.dtype, torch.float32))
        return (total / self.n_streams if self.exit_rule == "mean" else total).to(state.dtype)

    def branch_norm(self, i: int) -> nn.Module:
        return nn.Identity()

    def mixing(self, state: Tensor, ctx: Coefficients, i: int) -> Tensor:
        if ctx.res is not None:
            return ctx.res
        return torch.eye(self.n_streams, device=state.device).expand(*state.shape[:-1], self.n_streams)

    def streams(self, state: Tensor) -> Tensor:
        return state

    def read_write(self, state: Tensor, ctx: Coefficients, i: int) -> tuple[Tensor, Tensor]:
        return ctx.pre, ctx.post

    def connection_params(self) -> int:
        return sum(p.numel() for name, p in self.named_parameters() if not name.startswith("norms."))

    def read_flops(self) -> int:
        """Per token and sublayer: n multiply-adds per channel."""
        return 2 * self.n_streams * self.width

    def write_flops(self, mixes: bool) -> int:
        """Per token and sublayer: n^2 multiply-adds per channel when streams mix, and n for the branch's output."""
        n = self.n_streams
        return 2 * n * self.width * (n + 1 if mixes else 1)

    def exit_flops(self) -> int:
        """Per token: the sum over streams."""
        return 0 if self.exit_rule == "first" else self.n_streams * self.width
