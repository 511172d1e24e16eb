"""One look at the inside of a network: gains, mixing, streams and attention of every sublayer, on fixed sequences.

A forward pass without compiling, in which an observer sees every sublayer (`resbench.architectures.stack`). What a scheme or backbone does not have
is left out: a scheme that is no linear mix has no gains, a single stream has no cosine, an MLP no attention logits.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from resbench.harness import names
from resbench.harness.gain import GainProfile, profile, stages
from resbench.harness.mixing import MIXING, mixing
from resbench.harness.stream_statistics import READ_WRITE, STREAMS, read_write_statistics, stream_statistics

Column = list[float | None]
"""A value for every sublayer; None where there is none."""


@dataclass
class Structure:
    """What was seen: gains, or None for a scheme that is no linear mix, and further columns by name over the sublayers."""

    n_sublayers: int
    gains: GainProfile | None = None
    columns: dict[str, Column] = field(default_factory=dict)

    def as_dict(self) -> dict[str, list[Any]]:
        """Lists over sublayers, ready for JSON."""
        gains = self.gains.as_dict() if self.gains is not None else {"sublayer": list(range(self.n_sublayers))}
        return gains | self.columns

    def metrics(self) -> dict[str, float]:
        """Scalars: gains of the whole stack's composite, and what is said at `names.STRUCTURE` of the rest."""
        found = gain_metrics(self.gains) if self.gains is not None else {}
        for column, (metric, reduction) in names.STRUCTURE.items():
            values = [value for value in self.columns.get(column, []) if value is not None]
            if values:
                found[metric] = {"mean": sum(values) / len(values), "max": max(values), "min": min(values)}[reduction]
        return found


def observe(network: nn.Module, inputs: list[Tensor]) -> Structure | None:
    """Run the network on ``inputs`` and look; None for a backbone that has no scheme to look at. To be called without gradients."""
    scheme: Any = getattr(network, "scheme", None)
    if scheme is None:
        return None
    mixes: list[Tensor] = []
    seen: dict[str, dict[int, Tensor]] = {"streams": {}, "read_write": {}, "attention": {}}
    branches = list(getattr(network, "branches", ()))
    attention_mask = getattr(network, "attention_mask", None)
    masked = {} if attention_mask is None else {"mask": attention_mask(*inputs)}

    def look(i: int, state: Any, ctx: Any, u: Tensor, y: Tensor) -> None:
        mix, streams, weights = scheme.mixing(state, ctx, i), scheme.streams(state), scheme.read_write(state, ctx, i)
        if mix is not None:
            mixes.append(mix)
        if streams is not None:
            seen["streams"][i] = stream_statistics(streams)
        if weights is not None and weights[0].shape[-1] > 1:
            seen["read_write"][i] = read_write_statistics(*weights)
        largest_logit = getattr(branches[i], "max_attention_logit", None) if i < len(branches) else None
        logit = largest_logit(u, **masked) if largest_logit is not None else None
        if logit is not None:
            seen["attention"][i] = logit.detach().float().reshape(1)

    network(*inputs, observe=look)
    found = Structure(scheme.n_sublayers)
    kinds = (("streams", STREAMS), ("read_write", READ_WRITE), ("attention", ("max_attention_logit",)))
    for kind, columns in kinds:
        found.columns |= _columns(seen[kind], columns, scheme.n_sublayers)
    if len(mixes) == scheme.n_sublayers:
        found.gains = profile(mixes)
        if all(mix.shape[-1] > 1 for mix in mixes):
            by_stage = [mixing(stage) for stage in stages(mixes)]
            found.columns |= {name: [value for stage in by_stage for value in stage[name]] for name in MIXING}
    return found


def _columns(seen: dict[int, Tensor], names_of: tuple[str, ...], n_sublayers: int) -> dict[str, Column]:
    """Vectors by sublayer -> one column for each of their entries, in one transfer from the device; without those that are empty."""
    if not seen:
        return {}
    rows = dict(zip(seen, torch.stack(list(seen.values())).tolist(), strict=True))
    found: dict[str, Column] = {}
    for at, name in enumerate(names_of):
        column: Column = [
            rows[i][at] if i in rows and not math.isnan(rows[i][at]) else None for i in range(n_sublayers)
        ]
        if any(value is not None for value in column):
            found[name] = column
    return found


def gain_metrics(gains: GainProfile) -> dict[str, float]:
    """The scalars of a gain profile: of the whole stack's composite, and the largest row and column errors of any sublayer."""
    composite = gains.composite
    return {
        names.GAIN_FORWARD: composite.forward,
        names.GAIN_BACKWARD: composite.backward,
        names.GAIN_FORWARD_MIN: composite.forward_min,
        names.GAIN_BACKWARD_MIN: composite.backward_min,
        names.LOG_COLUMN_SUM: composite.log_column_sum,
        names.SPECTRAL_NORM: composite.spectral_norm,
        names.SECOND_EIGENVALUE: composite.second_eigenvalue,
        names.ROW_ERROR: gains.row_error,
        names.COLUMN_ERROR: gains.column_error,
    }
