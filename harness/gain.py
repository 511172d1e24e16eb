"""Gains of residual mixing: how much a stack of matrices can amplify or attenuate what flows through it.

For a matrix H as applied, ``x'[out] = sum_in H[out, in] x[in]``: a row sum is what an equal signal on all streams becomes on one of them
(forward), a column sum is what an equal gradient on all streams becomes on one of them (backward). The gain is the largest magnitude of those
sums ("Amax", arXiv 2512.24880, section 5.4). The composite of sublayers 0..l is the product H_l ... H_1 H_0. All values are averages over tokens.
Everything is computed in float64: a product over a hundred sublayers in bfloat16 would measure its own rounding.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

SPECTRAL_TOKENS = 256
"""Tokens on which singular values are computed; the other measures use all."""


@dataclass(frozen=True)
class MixGain:
    """Measures of one matrix per token, each averaged over tokens.

    ``forward``/``backward``: max |row sum| / max |column sum|. ``forward_min``/``backward_min``: min |row sum| / min |column sum|, which show
    attenuation that the maxima hide. ``log_column_sum``: max |ln |column sum||. ``spectral_norm``: largest singular value. ``row_error``/
    ``column_error``: max |row sum - 1| / max |column sum - 1|.
    """

    forward: float
    backward: float
    forward_min: float
    backward_min: float
    log_column_sum: float
    spectral_norm: float
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
        own = {key: [asdict(mix)[key] for mix in self.sublayers] for key in asdict(self.sublayers[0])}
        composite = {key: [asdict(mix)[key] for mix in self.composites] for key in asdict(self.composites[0])}
        return {
            "sublayer": list(range(len(self.sublayers))),
            "gain_forward": own["forward"],
            "gain_backward": own["backward"],
            "gain_forward_min": own["forward_min"],
            "gain_backward_min": own["backward_min"],
            "log_column_sum": own["log_column_sum"],
            "spectral_norm": own["spectral_norm"],
            "row_error": own["row_error"],
            "column_error": own["column_error"],
            "composite_forward": composite["forward"],
            "composite_backward": composite["backward"],
            "composite_forward_min": composite["forward_min"],
            "composite_backward_min": composite["backward_min"],
            "composite_log_column_sum": composite["log_column_sum"],
            "composite_spectral_norm": composite["spectral_norm"],
        }


def measure(mix: Tensor) -> MixGain:
    """mix: [..., n, n] indexed [out, in], any float dtype; leading axes are tokens."""
    mix = mix.detach().reshape(-1, *mix.shape[-2:]).double()
    rows, columns = mix.sum(-1), mix.sum(-2)
    stride = max(1, len(mix) // SPECTRAL_TOKENS)
    sample = mix[::stride][:SPECTRAL_TOKENS].cpu()  # many tiny factorisations: faster there
    return MixGain(
        forward=_mean(rows.abs().amax(-1)),
        backward=_mean(columns.abs().amax(-1)),
        forward_min=_mean(rows.abs().amin(-1)),
        backward_min=_mean(columns.abs().amin(-1)),
        log_column_sum=_mean(columns.abs().log().abs().amax(-1)),
        spectral_norm=_mean(torch.linalg.matrix_norm(sample, ord=2)) if sample.isfinite().all() else math.nan,
        row_error=_mean((rows - 1).abs().amax(-1)),
        column_error=_mean((columns - 1).abs().amax(-1)),
    )


def profile(mixes: Sequence[Tensor]) -> GainProfile:
    """mixes: H of sublayers 0, 1, ... in order, each [..., n, n] indexed [out, in], for the same tokens.

    Where the number of tokens (positions) changes, a new stage begins: no residual path leads across, so the composite starts anew.
    """
    found = GainProfile()
    composite: Tensor | None = None
    for mix in mixes:
        mix = mix.detach().double()
        if composite is None or composite.shape != mix.shape:
            found.stage_starts.append(len(found.sublayers))
            composite = mix
        else:
            composite = mix @ composite
        found.sublayers.append(measure(mix))
        found.composites.append(measure(composite))
    return found


def _mean(values: Tensor) -> float:
    return float(values.mean())
