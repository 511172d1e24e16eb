"""A weighted sum over vectors from different depths, for the schemes whose state is every past output (AttnRes, DenseFormer)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from resbench.architectures.recompute import recomputed
from resbench.kernels.reference import compute_dtype

NORM_EPS = 1e-6


def weighted_sum(sources: Sequence[Tensor], weights: Tensor) -> Tensor:
    """``sum_i weights[i] sources[i]``: sources [..., C] each, weights [s] or [..., s] -> [..., C] in the sources' dtype, summed in float32."""
    mixed: Tensor = recomputed(_weighted_sum, weights, *sources)
    return mixed


def depth_attention(sources: Sequence[Tensor], query: Tensor, eps: float = NORM_EPS) -> Tensor:
    """``sum_i softmax_i(query . RMSNorm(v_i)) v_i`` (AttnRes, arXiv 2603.15031): sources [..., C] each, query [C] -> [..., C]."""
    mixed: Tensor = recomputed(_depth_attention, query, eps, *sources)
    return mixed


def depth_weights(sources: Sequence[Tensor], query: Tensor, eps: float = NORM_EPS) -> Tensor:
    """The softmax of `depth_attention`, [..., s] in the compute dtype."""
    logits = []
    for source in sources:
        wide = source.to(compute_dtype(source))
        inverse_rms = torch.rsqrt(wide.square().mean(-1) + eps)
        logits.append((wide * query.to(wide.dtype)).sum(-1) * inverse_rms)
    return torch.softmax(torch.stack(logits, -1), -1)


def _weighted_sum(weights: Tensor, *sources: Tensor) -> Tensor:
    dtype = compute_dtype(sources[0])
    weights = weights.to(dtype)
    total = weights[..., :1] * sources[0].to(dtype)
    for i, source in enumerate(sources[1:], start=1):
        total = total + weights[..., i : i + 1] * source.to(dtype)
    return total.to(sources[0].dtype)


def _depth_attention(query: Tensor, eps: float, *sources: Tensor) -> Tensor:
    return _weighted_sum(depth_weights(sources, query, eps), *sources)
