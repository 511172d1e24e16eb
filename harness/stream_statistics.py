"""What the residual streams carry: whether they differ, how large they are, and how sublayers read and write them. Averages over tokens.

``cosine``: mean cosine over pairs of streams: 1 when they are copies of each other. ``norm_min``, ``norm_max``: root mean square over channels of the
smallest and the largest stream. ``read_entropy``, ``write_entropy``: of the magnitudes of a sublayer's read and write weights, normalised
to sum to one, in nats: 0 for one stream, ln n for all alike.
"""

import torch
from torch import Tensor

from resbench.harness.mixing import entropy

STREAMS = ("cosine", "norm_min", "norm_max")
READ_WRITE = ("read_entropy", "write_entropy")


def stream_statistics(streams: Tensor) -> Tensor:
    """streams: [..., n, C] before a sublayer -> the three of `STREAMS`; the cosine is NaN for a single stream."""
    x = streams.detach().float()
    n = x.shape[-2]
    rms = x.square().mean(-1).sqrt()
    units = torch.nn.functional.normalize(x, dim=-1)
    # The sum over all pairs of unit vectors is the square of their sum; n of those pairs are a vector with itself.
    pairs = (units.sum(-2).square().sum(-1) - units.square().sum((-2, -1))).mean() / (n * (n - 1)) if n > 1 else None
    over_tokens = rms.flatten(0, -2).mean(0)
    nothing = torch.full((), torch.nan, device=x.device)
    return torch.stack([nothing if pairs is None else pairs, over_tokens.amin(), over_tokens.amax()])


def read_write_statistics(read: Tensor, write: Tensor) -> Tensor:
    """read, write: [..., n] weights of one sublayer -> the two of `READ_WRITE`."""
    return torch.stack([entropy(weights.detach().abs().double()).mean() for weights in (read, write)])
