"""Where the time of a training step goes, and how much memory its activations take, without making any step wait for the device.

A step's four parts follow one another: ``data`` from the end of the step before to the arrival of a batch, ``forward`` until the loss, ``backward``
until the gradients, ``optimizer`` (clipping and update) until the end. On a GPU their ends are CUDA events, read together with the losses every so
many steps: times are those of the device, so ``data`` is how long it stood idle between two steps, whatever made it wait. On a CPU they
are those of the process.
"""

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

PARTS = ("data", "forward", "backward", "optimizer")

Mark = Any
"""A CUDA event, or seconds."""


@dataclass
class StepBreakdown:
    """Marks of the steps since the last reading. ``device`` is where training runs."""

    device: torch.device
    _steps: list[list[Mark]] = field(default_factory=list)
    """One list per micro-batch: ready, start, loss, gradients, end; ready is None where something else came between."""
    _ready: Mark | None = None

    def mark(self) -> Mark:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def ready(self) -> None:
        """From here on the next batch is waited for."""
        self._ready = self.mark()

    def start(self) -> None:
        """The batch is there."""
        self._steps.append([self._ready, self.mark()])
        self._ready = None

    def reached(self) -> None:
        """The loss, the gradients, or the end of the step: in this order."""
        if self._steps:
            self._steps[-1].append(self.mark())

    def interrupted(self) -> None:
        """Something that is not training happened since `ready`."""
        self._ready = None

    def read(self, steps: int) -> dict[str, float]:
        """Milliseconds per optimizer step of each part, over ``steps`` steps, and forget them; the device must have finished them."""
        whole = [marks for marks in self._steps if len(marks) == 5]
        self._steps.clear()
        if not whole or steps < 1:
            return {}
        found = {
            part: sum(self._between(marks[at], marks[at + 1]) for marks in whole) / steps
            for at, part in enumerate(PARTS)
            if at > 0
        }
        waits = [self._between(marks[0], marks[1]) for marks in whole if marks[0] is not None]
        if waits:
            found["data"] = sum(waits) / len(waits) * len(whole) / steps
        return {part: found[part] for part in PARTS if part in found}

    def _between(self, earlier: Mark, later: Mark) -> float:
        if self.device.type == "cuda":
            return float(earlier.elapsed_time(later))
        return 1e3 * float(later - earlier)


class ActivationMemory:
    """Bytes that a forward pass leaves allocated for the backward pass.

    On a GPU the allocator's counter before and after each forward pass, the largest difference since the last reading. On a CPU, which has no such
    counter, what autograd saves in the first forward pass of a process, each storage once and without the parameters.
    """

    def __init__(self, device: torch.device, module: nn.Module) -> None:
        self._device = device
        self._module = module
        self._before: int | None = None
        self._most = 0
        self._hooks: AbstractContextManager[Any] | None = None
        self._seen: dict[int, int] = {}

    def start(self) -> None:
        """A forward pass begins."""
        if self._device.type == "cuda":
            self._before = torch.cuda.memory_allocated(self._device)
        elif self._most == 0 and self._hooks is None:
            # Of a sharded parameter this process's part; what it gathers of the others is memory the forward pass takes.
            own = {_local(p).untyped_storage().data_ptr() for p in self._module.parameters()}

            def pack(tensor: Tensor) -> Tensor:
                storage = _local(tensor).untyped_storage()
                if storage.data_ptr() not in own:
                    self._seen[storage.data_ptr()] = storage.nbytes()
                return tensor

            self._hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
            self._hooks.__enter__()

    def end(self) -> None:
        """The loss is there; further calls for the same pass change nothing."""
        if self._before is not None:
            self._most = max(self._most, torch.cuda.memory_allocated(self._device) - self._before)
            self._before = None
        self.close()

    def close(self) -> None:
        """Stop watching, in whatever state a pass that failed left it."""
        if self._hooks is not None:
            self._hooks.__exit__(None, None, None)
            self._hooks = None
            self._most = sum(self._seen.values())
            self._seen.clear()

    def read(self) -> int:
        """Bytes; on a GPU the mark starts anew."""
        most = self._most
        if self._device.type == "cuda":
            self._most = 0
        return most


def _local(tensor: Tensor) -> Tensor:
    """The part of a tensor that is in this process."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
