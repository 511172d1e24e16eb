"""The residual scheme: the one interface backbones, metrics and plugins hang on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from resbench.architectures.norm import RMSNorm


@dataclass(frozen=True)
class MixingClaim:
    """A property of H_res that a scheme claims for every input and every value of its parameters; `resbench check-scheme` tests it.

    ``row sums`` and ``column sums`` are one. ``budget`` names the constructor argument, a number of iterations, in whose limit the property
    holds; None: it holds to rounding.
    """

    holds: Literal["identity", "row sums", "column sums", "non-negative", "orthogonal"]
    budget: str | None = None


class ResidualScheme(nn.Module):
    """Owns the residual state of a whole stack of sublayers (attention and MLP count separately).

    The backbone turns embeddings into a state (`enter`), asks for each sublayer's input (`read`), hands its output back (`write`, or `boundary`
    which is this write and the next read in one step), and takes the last hidden vector (`exit`). The state is the scheme's own business: a
    tensor or a tuple of tensors. A subclass's constructor signature, after ``width`` and ``n_sublayers``, is its configuration: annotate every
    argument and give it a default.

    Parameters
    ----------
    width: C, the size of a hidden vector.
    n_sublayers: how many branches the stack has.

    Raises ValueError when either is below one.
    """

    output_init_scale: float = 1.0
    """Factor on the initial standard deviation of every branch's output projection."""

    is_control: ClassVar[bool] = False
    """True for a row that exists to explain the others, such as a widened resnet."""

    def __init__(self, width: int, n_sublayers: int) -> None:
        super().__init__()
        for name, value in (("width", width), ("n_sublayers", n_sublayers)):
            if value < 1:
                raise ValueError(f"{name}={value}: expected at least 1")
        self.width = width
        self.n_sublayers = n_sublayers

    def enter(self, x: Tensor) -> Any:
        """[B, T, C] embeddings -> state."""
        raise NotImplementedError(f"{type(self).__name__} must define enter(x)")

    def read(self, state: Any, i: int) -> tuple[Tensor, Any]:
        """State before sublayer i -> (the branch's input [B, T, C], whatever `write` will need)."""
        raise NotImplementedError(f"{type(self).__name__} must define read(state, i)")

    def write(self, state: Any, ctx: Any, y: Tensor, i: int) -> Any:
        """Sublayer i's output y [B, T, C] joins the state."""
        raise NotImplementedError(f"{type(self).__name__} must define write(state, ctx, y, i)")

    def boundary(self, state: Any, ctx: Any, y: Tensor, i: int) -> tuple[Any, Tensor, Any]:
        """`write(i)` then `read(i + 1)`; a fused scheme overrides it. Returns (state, the next branch's input, the next ctx)."""
        state = self.write(state, ctx, y, i)
        u, ctx = self.read(state, i + 1)
        return state, u, ctx

    def exit(self, state: Any) -> Tensor:
        """State after the last sublayer -> [B, T, C]."""
        raise NotImplementedError(f"{type(self).__name__} must define exit(state)")

    def branch_norm(self, i: int) -> nn.Module:
        """The norm in front of branch i. A scheme that norms inside `read` returns ``nn.Identity()`` and keeps the weight itself."""
        return RMSNorm(self.width)

    def mixing(self, state: Any, ctx: Any, i: int) -> Tensor | None:
        """H_res of sublayer i as applied, [B, T, n, n] indexed [out, in], from what `read` returned; None if `write` is not such a mix."""
        return None

    def mixing_claims(self) -> tuple[MixingClaim, ...]:
        """What holds of `mixing`, whatever the parameters; nothing when it is unconstrained."""
        return ()

    def streams(self, state: Any) -> Tensor | None:
        """The state as [B, T, n, C]; None if it is not made of streams."""
        return None

    def read_write(self, state: Any, ctx: Any, i: int) -> tuple[Tensor, Tensor] | None:
        """Sublayer i's read and write weights, each [B, T, n]; None if it has none."""
        return None

    def connection_params(self) -> int:
        """Parameters the connections add to the backbone; the norms in front of the branches are the backbone's and do not count."""
        return sum(p.numel() for p in self.parameters())

    def connection_flops(self) -> int:
        """Forward FLOPs per token of all connections, a multiply-add as two; norms in front of the branches do not count."""
        raise NotImplementedError(f"{type(self).__name__} must state connection_flops()")

    def no_weight_decay(self) -> set[str]:
        """Names of own parameters that weight decay must leave alone, as `named_parameters` gives them."""
        return {name for name, parameter in self.named_parameters() if parameter.ndim < 2}

    def widening(self) -> tuple[int, int]:
        """(parameters, forward FLOPs per token) the backbone should add to its MLPs; non-zero only for a matched control."""
        return 0, 0


SchemeFactory = Callable[[int, int], ResidualScheme]
"""``(width, n_sublayers) -> scheme``: a scheme with its own arguments already bound."""
