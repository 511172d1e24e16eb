"""The loop every backbone runs: a scheme, its branches, and nothing else."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from resbench.architectures.recompute import recomputed_block
from resbench.architectures.scheme import ResidualScheme

Observer = Callable[[int, Any, Any, Tensor, Tensor], None]
"""``observe(i, state, ctx, u, y)`` sees sublayer i between its read and its write."""


def run_stack(
    scheme: ResidualScheme,
    branches: Iterable[Callable[[Tensor], Tensor]],
    x: Tensor,
    observe: Observer | None = None,
    recompute: int = 0,
) -> Tensor:
    """Embeddings [B, T, C] -> the last hidden vectors [B, T, C] through ``scheme.n_sublayers`` branches.

    ``recompute`` sublayers at a time keep one state between them and compute the others again in the backward pass; 0 keeps all. Whoever
    observes sees every state, so then all are kept. Raises ValueError when the scheme's state is not a tensor or a tuple of tensors.
    """
    state = scheme.enter(x)
    if problem := state_problem(state):
        raise ValueError(f"{type(scheme).__name__}.enter: {problem}")
    branches = list(branches)
    last = scheme.n_sublayers - 1

    def advance(first: int, stop: int, state: Any, u: Any, ctx: Any) -> tuple[Any, Any, Any]:
        """Sublayers first to stop - 1, each with the read of the next; no read follows the last."""
        for i in range(first, stop):
            y = branches[i](u)
            if observe is not None:
                observe(i, state, ctx, u, y)
            if i == last:
                state, u, ctx = scheme.write(state, ctx, y, i), None, None
            else:
                state, u, ctx = scheme.boundary(state, ctx, y, i)
        return state, u, ctx

    u, ctx = scheme.read(state, 0)
    if recompute < 1 or observe is not None or not torch.is_grad_enabled():
        state, _, _ = advance(0, scheme.n_sublayers, state, u, ctx)
    else:
        for first in range(0, scheme.n_sublayers, recompute):
            stop = min(first + recompute, scheme.n_sublayers)
            state, u, ctx = recomputed_block(advance, first, stop, state, u, ctx)
    return scheme.exit(state)


def state_problem(state: Any) -> str | None:
    """What is wrong with a scheme's state, if anything: checkpointing, compilation and metrics need a tensor or a flat tuple of tensors."""
    if isinstance(state, torch.Tensor):
        return None
    if not isinstance(state, tuple):
        return f"the state is {type(state).__name__}, expected a tensor or a tuple of tensors"
    strange = next((part for part in state if not isinstance(part, torch.Tensor)), None)
    if strange is not None:
        return f"the state is a tuple with {type(strange).__name__} in it, expected a tensor or a tuple of tensors"
    return None if state else "the state is an empty tuple, expected a tensor or a tuple of tensors"
