"""A residual scheme over stages of different widths: one instance per stage, seen as one by whatever counts, measures or optimises.

Convolutional networks change the number of channels and the resolution between stages. There is no identity across such a change: He et al.'s
own shortcut is a projection there, and the n streams of a hyper-connection would each need one. So every stage has a scheme of its own, entered
after the change and left before the next, exactly as a transformer's stack is entered after the embedding; what happens in between is plain and the
same for every scheme. (The alternative, carrying the streams across by projecting each, would put n convolutions into the connections of some
schemes and none into others, and would compare widths, not residuals.)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from resbench.architectures.scheme import ResidualScheme, SchemeFactory
from resbench.architectures.stack import Observer, run_stack


@dataclass(frozen=True)
class Stage:
    """``width`` C, how many sublayers, and at how many positions (H W) each of them works."""

    width: int
    n_sublayers: int
    positions: int


class StagedScheme(nn.Module):
    """``scheme`` once per stage. Sublayers are numbered through all stages; every method means what it means in `ResidualScheme`.

    The product of `mixing` over all sublayers leaves out what lies between stages: exit, projection and entry.
    """

    def __init__(self, scheme: SchemeFactory, stages: Sequence[Stage]) -> None:
        super().__init__()
        self.stages = tuple(stages)
        self.schemes = nn.ModuleList(scheme(stage.width, stage.n_sublayers) for stage in stages)
        self.n_sublayers = sum(stage.n_sublayers for stage in stages)

    @property
    def output_init_scale(self) -> float:
        return self.of(0).output_init_scale

    def of(self, stage: int) -> ResidualScheme:
        """The scheme of a stage."""
        found = self.schemes[stage]
        assert isinstance(found, ResidualScheme)
        return found

    def run(
        self, stage: int, branches: Sequence[Callable[[Tensor], Tensor]], x: Tensor, observe: Observer | None
    ) -> Tensor:
        """x [B, T, C] through one stage; ``observe`` is told the numbers of sublayers through all stages."""
        first = sum(before.n_sublayers for before in self.stages[:stage])

        def shifted(i: int, state: Any, ctx: Any, u: Tensor, y: Tensor) -> None:
            assert observe is not None
            observe(first + i, state, ctx, u, y)

        return run_stack(self.of(stage), branches, x, None if observe is None else shifted)

    def branch_norm(self, i: int) -> nn.Module:
        scheme, i = self._local(i)
        return scheme.branch_norm(i)

    def mixing(self, state: Any, ctx: Any, i: int) -> Tensor | None:
        scheme, i = self._local(i)
        return scheme.mixing(state, ctx, i)

    def streams(self, state: Any) -> Tensor | None:
        return self.of(0).streams(state)

    def read_write(self, state: Any, ctx: Any, i: int) -> tuple[Tensor, Tensor] | None:
        scheme, i = self._local(i)
        return scheme.read_write(state, ctx, i)

    def connection_params(self) -> int:
        return sum(self.of(s).connection_params() for s in range(len(self.stages)))

    def connection_flops(self) -> int:
        """Forward FLOPs of all connections per image."""
        return sum(self.of(s).connection_flops() * stage.positions for s, stage in enumerate(self.stages))

    def no_weight_decay(self) -> set[str]:
        return {f"schemes.{s}.{name}" for s in range(len(self.stages)) for name in self.of(s).no_weight_decay()}

    def _local(self, i: int) -> tuple[ResidualScheme, int]:
        for s, stage in enumerate(self.stages):
            if i < stage.n_sublayers:
                return self.of(s), i
            i -= stage.n_sublayers
        raise IndexError("sublayer number beyond the last stage")
