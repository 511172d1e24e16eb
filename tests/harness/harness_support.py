"""Reading a run back from MLflow, and schemes that misbehave on purpose."""

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from mlflow import MlflowClient
from mlflow.entities import Run
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from resbench.architectures.schemes.resnet import ResNet
from resbench.harness.store import default_tracking_uri, open_store

Argv = Callable[..., list[str]]

MEASURED = ("system/", "start/", "perf/", "mem/", "progress/wall_s", "progress/validation_s")
"""Metrics of time and memory, which no two runs share."""


def client_of(output_dir: Path) -> MlflowClient:
    return open_store(default_tracking_uri(output_dir))


def run_of(output_dir: Path, run_id: str) -> Run:
    return client_of(output_dir).get_run(run_id)


def history(output_dir: Path, run_id: str, metric: str) -> list[tuple[int, float]]:
    """(tokens, value) of every point of a metric, in the order of tokens; a point logged twice is there twice."""
    points = client_of(output_dir).get_metric_history(run_id, metric)
    return sorted((point.step, point.value) for point in points)


def artifact(output_dir: Path, run_id: str, name: str) -> str:
    return Path(client_of(output_dir).download_artifacts(run_id, name)).read_text()


class Hungry(ResNet):
    """Runs out of memory at its third training step."""

    def __init__(self, width: int, n_sublayers: int) -> None:
        super().__init__(width, n_sublayers)
        self.steps = 0

    def enter(self, x: Tensor) -> Tensor:
        self.steps += torch.is_grad_enabled()
        if self.steps == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 TiB")
        return super().enter(x)


class Breaking(ResNet):
    """Does something that torch.compile cannot follow."""

    def enter(self, x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return x


class Buggy(ResNet):
    """Has a bug that shows at the first step."""

    def enter(self, x: Tensor) -> Tensor:
        raise RuntimeError("shape mismatch in my scheme")


class Noisy(ResNet):
    """Draws random numbers while it trains, as dropout does."""

    def enter(self, x: Tensor) -> Tensor:
        return x + 0.01 * torch.randn_like(x) if torch.is_grad_enabled() else x


class SecondRunsOut(ResNet):
    """Runs out of memory at its third training step, on the second process only."""

    def __init__(self, width: int, n_sublayers: int) -> None:
        super().__init__(width, n_sublayers)
        self.steps = 0

    def enter(self, x: Tensor) -> Tensor:
        self.steps += torch.is_grad_enabled()
        if self.steps == 3 and torch.distributed.get_rank() == 1:
            self.end()
        return super().enter(x)

    def end(self) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 TiB")


class SecondIsKilled(SecondRunsOut):
    """The second process is killed at its third training step."""

    def end(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class AsksForTooMuch(Hungry):
    """Asks for a pebibyte at its third training step; no machine grants it."""

    def enter(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and self.steps == 2:
            torch.ones(2**50, dtype=torch.uint8, device=x.device)
        self.steps += torch.is_grad_enabled()
        return x


class FillsTheGpu(Hungry):
    """Takes GPU memory in gibibytes at its third training step until there is none."""

    def enter(self, x: Tensor) -> Tensor:
        taken = []
        while torch.is_grad_enabled() and self.steps == 2:
            taken.append(torch.empty(2**30, dtype=torch.uint8, device=x.device))
        self.steps += torch.is_grad_enabled()
        return x


class BreaksForward(ResNet):
    """The output of sublayer 3 becomes infinite on the fourteenth batch, whenever that is looked at."""

    def __init__(self, width: int, n_sublayers: int) -> None:
        super().__init__(width, n_sublayers)
        self.now = 0

    def enter(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self.now += 1
        return x

    def read(self, state: Tensor, i: int) -> tuple[Tensor, None]:
        u, ctx = super().read(state, i)
        return self.spoil(u) if i == 3 and self.spoiling() else u, ctx

    def boundary(self, state: Tensor, ctx: None, y: Tensor, i: int) -> tuple[Tensor, Tensor, None]:
        state, u, ctx = super().boundary(state, ctx, y, i)
        return state, self.spoil(u) if i == 2 and self.spoiling() else u, ctx

    def spoiling(self) -> bool:
        """At step 14, and when that is run again afterwards."""
        return torch.is_grad_enabled() and self.now >= 14

    def spoil(self, u: Tensor) -> Tensor:
        return u * math.inf


class BreaksBackward(BreaksForward):
    """The gradient becomes infinite on its way to sublayers 0, 1 and 2 and at the output of 3."""

    def boundary(self, state: Tensor, ctx: None, y: Tensor, i: int) -> tuple[Tensor, Tensor, None]:
        if i == 3 and self.spoiling():
            y = Spoil.apply(y)
        return ResNet.boundary(self, state, ctx, y, i)


class Spoil(torch.autograd.Function):
    """Identity whose gradient is infinite."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * math.inf


class Watch(Callback):
    """Counts, for every step, how often a value was fetched from a tensor: on a GPU each would wait for the device."""

    fetched: ClassVar[list[int]] = []

    def __init__(self) -> None:
        self._mode = _CountFetches()
        Watch.fetched = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._mode.count = 0
        self._mode.__enter__()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._mode.__exit__(None, None, None)
        Watch.fetched.append(self._mode.count)


class ForbidsWaiting(Callback):
    """From the sixth step to the start of the 36th, an operation that waits for the GPU is an error. Compiling waits, before that."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 4:
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 35:
            torch.cuda.set_sync_debug_mode("default")


class _CountFetches(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


class BreaksOnStep14(BreaksForward):
    """The same in a network of two sublayers: it is sublayer 1."""

    def boundary(self, state: Tensor, ctx: None, y: Tensor, i: int) -> tuple[Tensor, Tensor, None]:
        state, u, ctx = ResNet.boundary(self, state, ctx, y, i)
        return state, self.spoil(u) if self.spoiling() else u, ctx
