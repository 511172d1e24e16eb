"""The last launch of a backward pass: partial sums of all its gradients, added in a fixed order."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from resbench.kernels import tiles
from resbench.kernels.launches.plan import cdiv
from resbench.kernels.triton import totals


@dataclass
class Partial:
    """What the passes of one boundary left to be added up; None where there is nothing. All float32.

    gates: [2 K, programs], the gradients of every coefficient's scale and bias. weight: [programs, C] of the read's norm. sums: [parts, M, n + n n]
    (or [.., n]) of post and res. phi: [ranges, K, n C].
    """

    gates: Tensor | None = None
    weight: Tensor | None = None
    sums: Tensor | None = None
    phi: Tensor | None = None


@dataclass(frozen=True)
class Totals:
    """Gradients in the shapes and dtypes of what they are of; None where there was no `Partial`."""

    scale: Tensor | None
    bias: Tensor | None
    weight: Tensor | None
    post: Tensor | None
    res: Tensor | None
    phi: Tensor | None


def finish(
    partial: Partial,
    streamwise: bool,
    n: int,
    scale: Tensor | None,
    bias: Tensor | None,
    weight: Tensor | None,
    post: Tensor | None,
    res: Tensor | None,
    phi: Tensor | None,
) -> Totals:
    """Add up what ``partial`` has, in one launch. The tensors are those whose gradients they are."""

    def room(like: Tensor | None, part: Tensor | None) -> Tensor | None:
        return None if like is None or part is None else torch.empty_like(like)

    out = Totals(
        room(scale, partial.gates),
        room(bias, partial.gates),
        room(weight, partial.weight),
        room(post, partial.sums),
        room(res, partial.sums),
        room(phi, partial.phi),
    )
    programs = 0
    blocks: dict[str, Any] = {"GROUPS": 0, "WEIGHS": 0, "K": 1, "KP": 1, "PARTS": 1, "SIZE": 1, "PADDED": 1, "BP": 1}
    tokens = width = phi_size = 1
    if partial.gates is not None:
        assert scale is not None
        assert bias is not None
        blocks |= {"GROUPS": scale.numel(), "K": bias.numel(), "KP": tiles.coefficient_tile(bias.numel())}
        programs += scale.numel()
    if partial.weight is not None:
        width = partial.weight.shape[1]
        blocks |= {"WEIGHS": cdiv(width, 32)}
        programs += cdiv(width, 32)
    if partial.sums is not None:
        parts, tokens, size = partial.sums.shape
        blocks |= {"PARTS": parts, "SIZE": size, "PADDED": tiles.power_of_two(size)}
        programs += cdiv(tokens, TOKENS)
    if partial.phi is not None:
        phi_size = partial.phi[0].numel()
        blocks |= {"BP": min(16, tiles.power_of_two(len(partial.phi)))}
        programs += cdiv(phi_size, ENTRIES)
    if programs:
        totals.finish_kernel[(programs,)](
            partial.gates,
            out.scale,
            out.bias,
            1 if partial.gates is None else partial.gates.shape[1],
            partial.weight,
            out.weight,
            1 if partial.weight is None else len(partial.weight),
            partial.sums,
            out.post,
            out.res,
            tokens,
            partial.phi,
            out.phi,
            1 if partial.phi is None else len(partial.phi),
            phi_size,
            width,
            n=n,
            STREAMWISE=streamwise,
            MIXES=out.res is not None,
            SUMS=partial.sums is not None,
            LEARNS=partial.phi is not None,
            BLOCK=ENTRIES,
            BT=TOKENS,
            **blocks,
            num_warps=4,
        )
    return out


TOKENS = 32
ENTRIES = 256
"""Tokens, and entries of phi, that a program adds up."""


def total(partial: Tensor, like: Tensor, tokens: int) -> Tensor:
    """Sum over the first axis in a fixed order, in the shape and dtype of ``like``."""
    if tokens == 0:
        return torch.zeros_like(like)
    out = torch.empty_like(like)
    parts = partial.shape[0]
    block = 256 if parts <= 32 else 32  # many rows of few columns need many programs
    totals.total_kernel[(cdiv(out.numel(), block),)](
        partial, out, parts, out.numel(), BP=min(16 if block == 256 else 64, tiles.power_of_two(parts)), BLOCK=block
    )
    return out
