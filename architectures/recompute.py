"""Trading arithmetic for memory: intermediates that are cheap to compute again are not kept for the backward pass."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


def recomputed(function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)``, keeping its arguments for the backward pass instead of what it computes on the way.

    A float32 copy of a bfloat16 state costs twice the state per sublayer when autograd holds on to it. Under torch.compile the
    compiler makes that choice itself. ``function`` must draw no random numbers.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
