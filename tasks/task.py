"""What the harness asks of a task, and the words a batch is written in.

A batch is a dict of tensors. ``tokens`` (int64 [B, T]) or ``images`` (float32 [B, 3, H, W]) and, where a task gives them, ``documents``
(int64 [B, T]) go to the network in that order; ``targets`` (int64 [B, T] or [B]) are what its logits ([B, T, V] or [B, V]) are scored against by
cross-entropy, -100 meaning not scored. Whatever else is in a batch is the task's own, for its `measures`.

Only ``vocab_size``, ``context_length``, ``batch_size`` and the two loaders are required: a plugin may be any LightningDataModule that has them.
"""

from typing import Any

from lightning.pytorch import LightningDataModule
from torch import Tensor

Batch = dict[str, Tensor]

Measures = dict[str, tuple[Tensor, Tensor]]
"""Metric name -> (sum, count), scalars on any device: quotients of sums, so that batches of unequal size add up exactly."""

INPUTS = ("tokens", "images", "documents")
"""Keys of a batch that are the network's arguments, in their order."""


class Task(LightningDataModule):
    """A data module with what a run's records and metrics want to know of it; every member has a default that suits text.

    Attributes:
        name: its name in `resbench list`.
        inputs: which of `INPUTS` its batches have; a backbone says in its own ``inputs`` which it takes.
        vocab_size: V, the number of logits per prediction.
        context_length: T, tokens per sequence; for images the side of one in pixels.
        batch_size: sequences or images per batch and process.
    """

    name = "task"
    inputs: tuple[str, ...] = ("tokens",)
    vocab_size: int
    context_length: int
    batch_size: int

    @property
    def tokens_per_example(self) -> int:
        """What one sequence or image counts in budgets and on the x axis of every metric: T tokens, or one image."""
        return self.context_length

    def measures(self, logits: Tensor, batch: Batch) -> Measures:
        """Further validation metrics of one batch beside the loss. logits: float32; names begin with ``val/``."""
        return {}

    def levels(self) -> dict[str, float]:
        """Numbers to read the metrics by, such as ``chance_accuracy``; recorded as parameters ``data_<name>`` of the run."""
        return {}


def model_inputs(batch: Batch) -> list[Tensor]:
    """The network's arguments from a batch."""
    return [batch[name] for name in INPUTS if name in batch]


def tokens_per_example(data: Any) -> int:
    """`Task.tokens_per_example` of any data module."""
    return int(getattr(data, "tokens_per_example", data.context_length))


def inputs_of(data_or_backbone: Any) -> tuple[str, ...]:
    """Which inputs a task gives or a backbone takes; tokens, for one that does not say."""
    return tuple(getattr(data_or_backbone, "inputs", ("tokens",)))
