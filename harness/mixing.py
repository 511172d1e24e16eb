"""What kind of mixing a residual path does: how far from none and from complete, and how evenly. On H as applied, averaged over tokens.

``logit_range``: max - min of ln |H|. Sinkhorn and softmax take logits and remove factors of rows and columns, so this is the range of what was left
of them; entries below 1e-12 count as 1e-12, so that an exact zero reads 27.6.
``entropy``: of |H| normalised by rows, mean over rows, in nats: 0 when every stream comes from one, ln n when it comes from all alike.
``effective_rank``: exp of the entropy of the normalised singular values (Roy & Vetterli 2007): 1 for a matrix of rank one, n for an orthogonal one.
``distance_to_identity``, ``distance_to_uniform``: ||H - I||_F and ||H - 11^T / n||_F.
"""

import torch
from torch import Tensor

from resbench.harness.gain import SPECTRAL_TOKENS

SMALLEST = 1e-12

MIXING = ("logit_range", "entropy", "effective_rank", "distance_to_identity", "distance_to_uniform")


def mixing(mixes: Tensor) -> dict[str, list[float]]:
    """mixes: float64 [L, tokens, n, n] indexed [out, in] -> each of `MIXING` for every one of the L matrices."""
    n = mixes.shape[-1]
    logs = mixes.abs().clamp(min=SMALLEST).log().flatten(2)
    identity = torch.eye(n, dtype=mixes.dtype, device=mixes.device)
    stride = max(1, mixes.shape[1] // SPECTRAL_TOKENS)
    sample = mixes[:, ::stride][:, :SPECTRAL_TOKENS].cpu()
    finite = sample.isfinite().flatten(1).all(1)
    rank = torch.full(sample.shape[:1], torch.nan, dtype=mixes.dtype)
    if finite.any():
        rank[finite] = entropy(torch.linalg.svdvals(sample[finite])).exp().mean(1)
    by_token = {
        "logit_range": logs.amax(-1) - logs.amin(-1),
        "entropy": entropy(mixes.abs()).mean(-1),
        "distance_to_identity": torch.linalg.matrix_norm(mixes - identity),
        "distance_to_uniform": torch.linalg.matrix_norm(mixes - 1 / n),
    }
    means = torch.stack([value.mean(1) for value in by_token.values()]).tolist()
    return dict(zip(by_token, means, strict=True)) | {"effective_rank": rank.tolist()}


def entropy(weights: Tensor) -> Tensor:
    """Nats of non-negative weights [..., n], normalised to sum to one; [...]. All zeros have none."""
    p = weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    return -torch.special.xlogy(p, p).sum(-1)
