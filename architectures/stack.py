"""The loop every backbone runs: a scheme, its branches, and nothing else."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from resbench.architectures.scheme import ResidualScheme

Observer = Callable[[int, Any, Any, Tensor, Tensor], None]
"""``observe(i, state, ctx, u, y)`` sees sublayer i between its read and its write."""


def run_stack(
    scheme: ResidualScheme, branches: Iterable[nn.Module], x: Tensor, observe: Observer | None = None
) -> Tensor:
    """Embeddings [B, T, C] -> the last hidden vectors [B, T, C] through ``scheme.n_sublayers`` branches."""
    state = scheme.enter(x)
    u, ctx = scheme.read(state, 0)
    last = scheme.n_sublayers - 1
    for i, branch in enumerate(branches):
        y = branch(u)
        if observe is not None:
            observe(i, state, ctx, u, y)
        if i == last:
            state = scheme.write(state, ctx, y, i)
        else:
            state, u, ctx = scheme.boundary(state, ctx, y, i)
    return scheme.exit(state)
