"""Gains of residual mixing: how much a stack of matrices can amplify or attenuate what flows through it.

For a matrix H as applied, ``x'[out] = sum_in H[out, in] x[in]``: a row sum is what an equal signal on all streams becomes on one of them
(forward), a column sum is what an equal gradient on all streams becomes on one of them (backward). The gain is the largest magnitude of those
sums ("Amax", arXiv 2512.24880, section 5.4). The composite of sublayers 0..l is the product H_l ... H_1 H_0. All values are averages over tokens.
Everything is computed in float64: a product over a hundred sublayers in bfloat16 would measure its own rounding.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

SPECTRAL_TOKENS = 64
"""Tokens on which singular values and eigenvalues are computed; the other measures use all."""


@dataclass(frozen=True)
class MixGain:
    """Measures of one matrix per token, each averaged over tokens.

    ``forward``/``backward``: max |row sum| / max |column sum|. ``forward_min``/``backward_min``: min |row sum| / min |column sum|, which show
    attenuation that the maxima hide. ``log_column_sum``: max |ln |column sum||. ``spectral_norm``: largest singular value.
    ``second_eigenvalue``: second largest |eigenvalue|, how fast differences between streams die out; 0 for a single stream.
    ``row_error``/``column_error``: max |row sum - 1| / max |column sum - 1|.
    """

    forward: float
    backward: float
    forward_min: float
    backward_min: float
    log_column_sum: float
    spectral_norm: float
    second_eigenvalue: float
    row_error: float
    column_error: float


@dataclass
class GainProfile:
    """Measures by sublayer, of its own matrix and of the composite up to and including it."""

    sublayers: list[MixGain] = field(default_factory=list)
    composites: list[MixGain] = field(default_factory=list)
    stage_starts: list[int] = field(default_factory=list)
    """Sublayers at which the product starts anew: 0, and the first of each further stage of a convolutional network."""

    @property
    def composite(self) -> MixGain:
        """The composite of the whole stack; of several stages the one with the largest gain, forward or backward."""
        ends = [self.composites[start - 1] for start in self.stage_starts[1:]] + [self.composites[-1]]
        return max(ends, key=lambda end: max(end.forward, end.backward))

    @property
    def row_error(self) -> float:
        """The largest of the sublayers'."""
        return max(mix.row_error for mix in self.sublayers)

    @property
    def column_error(self) -> float:
        """The largest of the sublayers'."""
        return max(mix.column_error for mix in self.sublayers)

    def as_dict(self) -> dict[str, list[Any]]:
        """Lists over sublayers, ready for JSON."""
        own, composite = [asdict(mix) for mix in self.sublayers], [asdict(mix) for mix in self.composites]
        found: dict[str, list[Any]] = {"sublayer": list(range(len(own)))}
        for name in asdict(self.sublayers[0]):
            key = f"gain_{name}" if name.startswith(("forward", "backward")) else name
            found[key] = [mix[name] for mix in own]
        for name in asdict(self.composites[0]):
            if name not in ("row_error", "column_error"):
                found[f"composite_{name}"] = [mix[name] for mix in composite]
        return found


def measure(mix: Tensor) -> MixGain:
    """mix: [..., n, n] indexed [out, in], any float dtype; leading axes are tokens."""
    return measure_each(mix.detach().reshape(1, -1, *mix.shape[-2:]).double())[0]


def measure_each(mixes: Tensor) -> list[MixGain]:
    """mixes: float64 [L, tokens, n, n] -> the measures of each of the L matrices; one transfer from the device for all."""
    rows, columns = mixes.sum(-1), mixes.sum(-2)
    stride = max(1, mixes.shape[1] // SPECTRAL_TOKENS)
    sample = mixes[:, ::stride][:, :SPECTRAL_TOKENS].cpu()  # many tiny factorisations: faster there
    spectral, second = (torch.full(sample.shape[:1], math.nan, dtype=sample.dtype) for _ in range(2))
    sound = sample.isfinite().flatten(1).all(1)
    if sound.any():
        spectral[sound] = torch.linalg.svdvals(sample[sound])[..., 0].mean(1)
        second[sound] = second_eigenvalue(sample[sound]).mean(1)
    by_token = {
        "forward": rows.abs().amax(-1),
        "backward": columns.abs().amax(-1),
        "forward_min": rows.abs().amin(-1),
        "backward_min": columns.abs().amin(-1),
        "log_column_sum": columns.abs().log().abs().amax(-1),
        "row_error": (rows - 1).abs().amax(-1),
        "column_error": (columns - 1).abs().amax(-1),
    }
    means = dict(zip(by_token, torch.stack([value.mean(1) for value in by_token.values()]).tolist(), strict=True))
    means |= {"spectral_norm": spectral.tolist(), "second_eigenvalue": second.tolist()}
    return [MixGain(**{f.name: means[f.name][at] for f in fields(MixGain)}) for at in range(mixes.shape[0])]


def second_eigenvalue(mixes: Tensor) -> Tensor:
    """[..., n, n] -> [...]: the second largest magnitude of its eigenvalues, 0 for n = 1."""
    if mixes.shape[-1] == 1:
        return torch.zeros(mixes.shape[:-2], dtype=mixes.dtype)
    return torch.linalg.eigvals(mixes).abs().sort(dim=-1, descending=True).values[..., 1]


def profile(mixes: Sequence[Tensor]) -> GainProfile:
    """mixes: H of sublayers 0, 1, ... in order, each [..., n, n] indexed [out, in], for the same tokens.

    Where the number of tokens (positions) changes, a new stage begins: no residual path leads across, so the composite starts anew.
    """
    found = GainProfile()
    for stage in stages(mixes):
        found.stage_starts.append(len(found.sublayers))
        products = [stage[0]]
        for mix in stage[1:]:
            products.append(mix @ products[-1])
        found.sublayers += measure_each(stage)
        found.composites += measure_each(torch.stack(products))
    return found


def stages(mixes: Sequence[Tensor]) -> list[Tensor]:
    """Runs of equal shape, each as float64 [sublayers, tokens, n, n]."""
    runs = itertools.groupby(mixes, key=lambda mix: mix.shape)
    return [torch.stack([mix.detach().reshape(-1, *shape[-2:]).double() for mix in run]) for shape, run in runs]
