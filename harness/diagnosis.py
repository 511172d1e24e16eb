"""Where a network broke: one forward and backward pass over the batch it diverged on, with every sublayer's output and gradient looked at."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resbench.tasks.task import Batch, model_inputs

PANELS = (
    ("largest entry of each output", ("output_max",), True),
    ("largest entry of the loss's gradient by each output", ("gradient_max",), True),
    ("largest entry of the residual state", ("state_max",), True),
    ("entries that are not finite", ("nonfinite_output", "nonfinite_gradient"), False),
)
"""The figure's, as `structure_figure.PANELS`."""


@dataclass
class Diagnosis:
    """``columns`` by name over the sublayers; maxima are over the finite entries, None where there are none. ``verdict`` names the culprit."""

    verdict: str
    sublayer: int | None
    loss: float
    columns: dict[str, list[Any]] = field(default_factory=dict)
    weights_nonfinite: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        loss = self.loss if math.isfinite(self.loss) else str(self.loss)
        return {
            "verdict": self.verdict,
            "offending_sublayer": self.sublayer,
            "loss": loss,
            "weights_nonfinite": self.weights_nonfinite,
            **self.columns,
        }


def diagnose(network: nn.Module, batch: Batch) -> Diagnosis:
    """Look at a network whose ``forward`` takes an observer (`resbench.architectures.stack`); gradients of its weights are not touched."""
    outputs: list[Tensor] = []
    states: list[Tensor | None] = []
    scheme: Any = getattr(network, "scheme", None)

    def look(i: int, state: Any, ctx: Any, u: Tensor, y: Tensor) -> None:
        streams = scheme.streams(state) if scheme is not None else None
        states.append(None if streams is None else streams.detach())
        outputs.append(y)

    with torch.enable_grad():
        logits = network(*model_inputs(batch), observe=look)
        loss = F.cross_entropy(logits.float().flatten(0, -2), batch["targets"].flatten(), ignore_index=-100)
        gradients = torch.autograd.grad(loss, outputs, allow_unused=True)
    columns: dict[str, list[Any]] = {
        "sublayer": list(range(len(outputs))),
        "kind": [_kind(network, i) for i in range(len(outputs))],
        "output_max": [_largest(y) for y in outputs],
        "output_rms": [_rms(y) for y in outputs],
        "nonfinite_output": [_nonfinite(y) for y in outputs],
        "gradient_max": [_largest(g) for g in gradients],
        "gradient_rms": [_rms(g) for g in gradients],
        "nonfinite_gradient": [_nonfinite(g) for g in gradients],
        "state_max": [_largest(state) for state in states],
    }
    broken = [name for name, p in network.named_parameters() if _nonfinite(p)]
    sublayer, verdict = _culprit(columns, bool(logits.detach().isfinite().all()), broken)
    return Diagnosis(verdict, sublayer, float(loss.detach()), columns, broken)


def _culprit(columns: dict[str, list[Any]], finite_logits: bool, broken: list[str]) -> tuple[int | None, str]:
    """The first sublayer whose output is not finite; else the first in the order of the backward pass whose gradient is not; else the largest."""
    already = f"; {len(broken)} weights were not finite before it ({', '.join(broken[:3])})" if broken else ""
    outputs, gradients = columns["nonfinite_output"], columns["nonfinite_gradient"]
    for i, count in enumerate(outputs):
        if count:
            return i, f"the output of sublayer {i} ({columns['kind'][i]}) is the first that is not finite{already}"
    if not finite_logits:
        return None, f"every sublayer is finite, the logits are not{already}"
    for i in reversed(range(len(gradients))):
        if gradients[i]:
            return (
                i,
                f"the gradient at the output of sublayer {i} ({columns['kind'][i]}) is the first that is not finite{already}",
            )
    if not outputs:
        return None, "the network shows no sublayers"
    largest = max(range(len(outputs)), key=lambda i: columns["output_max"][i])
    return largest, (
        f"everything is finite; the largest output is that of sublayer {largest} ({columns['kind'][largest]}), "
        f"{columns['output_max'][largest]:.3g}"
    )


def _kind(network: nn.Module, i: int) -> str:
    branches: Any = getattr(network, "branches", ())
    branch = branches[i] if i < len(branches) else None
    return type(getattr(branch, "inner", branch)).__name__ if branch is not None else "branch"


def _largest(x: Tensor | None) -> float | None:
    if x is None:
        return None
    finite = x.detach().float()
    finite = finite[finite.isfinite()]
    return float(finite.abs().max()) if finite.numel() else None


def _rms(x: Tensor | None) -> float | None:
    if x is None:
        return None
    value = float(x.detach().double().square().mean().sqrt())
    return value if math.isfinite(value) else None


def _nonfinite(x: Tensor | None) -> int:
    if x is None:
        return 0
    own: Any = x.detach()
    own = own.full_tensor() if hasattr(own, "full_tensor") else own
    return int((~own.isfinite()).sum())
