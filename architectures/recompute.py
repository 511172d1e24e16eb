"""Trading arithmetic for memory: intermediates that are cheap to compute again are not kept for the backward pass."""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts


def recomputed(function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)``, keeping its arguments for the backward pass instead of what it computes on the way.

    A float32 copy of a bfloat16 state costs twice the state per sublayer when autograd holds on to it. Under torch.compile the
    compiler makes that choice itself. ``function`` must draw no random numbers.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)


@functools.cache
def kept_operations() -> frozenset[Any]:
    """What a block keeps: the results of matrix products and of attention, which are most of a layer's arithmetic."""
    aten = torch.ops.aten
    names = (
        "mm",
        "addmm",
        "bmm",
        "baddbmm",
        "convolution",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
    )
    return frozenset(getattr(aten, name).default for name in names)


def _policy(context: Any, operation: Any, *arguments: Any, **options: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in kept_operations() else CheckpointPolicy.PREFER_RECOMPUTE


def recomputed_block(function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)`` for a block of sublayers: of what it computes only matrix products and attention are kept.

    The streams between its sublayers, the norms and the activations are computed again in the backward pass from the state the block began
    with (mHC, arXiv 2512.24880, section on recomputing). Under torch.compile the compiler is told the same. ``function`` must draw no random numbers.
    """
    contexts = functools.partial(create_selective_checkpoint_contexts, _policy)
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


def best_block_length(n_streams: int, n_sublayers: int) -> int:
    """L_r of mHC: the block length with the least memory, ``argmin n C ceil(L / L_r) + (n + 2) C L_r``, about ``sqrt(n L / (n + 2))``.

    The first term is the state each block begins with, the second what the one block at work holds. Ties go to the longer block.
    """
    n, L = n_streams, n_sublayers
    return min(range(1, L + 1), key=lambda length: (n * math.ceil(L / length) + (n + 2) * length, -length))
