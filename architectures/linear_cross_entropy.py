"""Cross-entropy of an output projection, without ever holding the logits of all tokens.

For small models and large vocabularies the logits [M, V] are the largest tensor of a training step: M = 65536 tokens of a vocabulary of 50304
are 13 GB in float32, and a plain loss moves them about ten times. Here a chunk of tokens at a time goes through the projection, its loss and its
gradient; what is kept is dL/dhidden [M, C] and dL/dweight [V, C]. The gradient of softmax cross-entropy needs nothing from further down
the graph but one scalar, so it is computed in the forward pass and scaled in the backward pass: three matrix products, as without chunks. The
idea is liger-kernel's; this is plain torch, which torch.compile turns into one kernel between the products of a chunk.
"""

from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

LossKind = Literal["auto", "chunked", "plain"]

IGNORED = -100
"""A target that is not scored."""

CHUNK_LOGITS = {"cuda": 2**28, "cpu": 2**22}
"""Logits of a chunk: enough rows for efficient products on a GPU (half a GiB in bf16), what stays in a CPU's cache there."""

LARGE_VOCABULARY = 4096
"""From here on ``auto`` works in chunks; below it the logits are not larger than other activations and torch's own loss is as fast."""


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, kind: LossKind = "auto", chunk_tokens: int | None = None
) -> Tensor:
    """Mean over scored tokens of ``-log softmax(hidden weight^T)[target]``, in nats: a scalar, float32 or the inputs' wider dtype.

    Parameters
    ----------
    hidden: [..., C].
    weight: [V, C].
    targets: int64 [...], ids below V, or -100 for tokens that are not scored.
    kind: ``chunked`` never holds more than a chunk's logits and can be differentiated once; ``plain`` is torch's cross-entropy over all of
        them; ``auto`` is ``chunked`` from a vocabulary of 4096 on.
    chunk_tokens: tokens of a chunk; None lets the device decide.

    Under autocast the products are in its dtype, softmax and loss in float32 either way; dL/dweight is summed over chunks in weight's dtype.
    NaN if no token is scored, as torch's. Raises ValueError for an unknown kind.
    """
    if kind not in get_args(LossKind):
        raise ValueError(f"loss={kind!r}: expected one of {', '.join(get_args(LossKind))}")
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    hidden, targets = hidden.flatten(0, -2), targets.flatten()
    vocabulary = weight.shape[0]
    if kind == "plain" or (kind == "auto" and vocabulary < LARGE_VOCABULARY):
        logits = F.linear(hidden, weight)
        return F.cross_entropy(logits.to(wide(logits.dtype)), targets, ignore_index=IGNORED)
    tokens = chunk_tokens or even_chunk(hidden.shape[0], vocabulary, device)
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        return _Chunked.apply(hidden.to(dtype), weight, targets, tokens)
    total, _, _ = in_chunks(hidden.to(dtype), weight, targets, tokens, gradients=False)
    return total


def even_chunk(tokens: int, vocabulary: int, device: str) -> int:
    """Tokens of a chunk: as many as the device's share of logits allows, in equal parts where ``tokens`` divides so that shapes do not vary."""
    fewest = max(1, -(-tokens * vocabulary // CHUNK_LOGITS.get(device, CHUNK_LOGITS["cuda"])))
    parts = next((parts for parts in range(fewest, min(2 * fewest, tokens) + 1) if tokens % parts == 0), fewest)
    return -(-tokens // parts)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype softmax and loss are computed in."""
    return torch.promote_types(dtype, torch.float32)


def in_chunks(
    hidden: Tensor, weight: Tensor, targets: Tensor, chunk_tokens: int, gradients: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Mean loss, and if asked for dL/dhidden [M, C] in hidden's dtype and dL/dweight [V, C] in weight's; hidden [M, C], targets [M]."""
    projection = weight.to(hidden.dtype)
    scale = 1 / (targets != IGNORED).sum().to(wide(hidden.dtype))
    total: Tensor | None = None
    grad_weight: Tensor | None = None
    grad_hidden: list[Tensor] = []
    for rows, wanted in zip(hidden.split(chunk_tokens), targets.split(chunk_tokens), strict=True):
        share = ((wanted != IGNORED) * scale).unsqueeze(-1)  # 0 for a token that is not scored; NaN if none is
        index = wanted.clamp(min=0).unsqueeze(-1)
        log_p = F.log_softmax(rows @ projection.T, dim=-1, dtype=wide(hidden.dtype))
        loss = -(log_p.gather(-1, index) * share).sum()
        total = loss if total is None else total + loss
        if gradients:
            slope = (minus_one_at(log_p.exp(), index) * share).to(hidden.dtype)
            grad_hidden.append(slope @ projection)
            of_chunk = (slope.T @ rows).to(weight.dtype)
            grad_weight = of_chunk if grad_weight is None else grad_weight + of_chunk
    assert total is not None
    return total, torch.cat(grad_hidden) if gradients else None, grad_weight


def minus_one_at(p: Tensor, index: Tensor) -> Tensor:
    """``p`` [M, V] less one at each row's index [M, 1]; overwrites ``p`` where that saves a pass."""
    if torch.compiler.is_compiling():  # a comparison fuses with what surrounds it, a scatter does not
        return p - (torch.arange(p.shape[-1], device=p.device) == index).to(p.dtype)
    return p.scatter_(-1, index, p.gather(-1, index) - 1)  # unlike scatter_add_, deterministic on every device


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk_tokens: int) -> Tensor:
        total, grad_hidden, grad_weight = in_chunks(hidden, weight, targets, chunk_tokens, gradients=True)
        ctx.save_for_backward(grad_hidden, grad_weight)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad.to(grad_hidden.dtype), grad_weight * grad.to(grad_weight.dtype), None, None
