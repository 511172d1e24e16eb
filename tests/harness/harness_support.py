"""Reading a run back from MLflow, and schemes that misbehave on purpose."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from torch import Tensor

from resbench.architectures.schemes.resnet import ResNet
from resbench.harness.store import default_tracking_uri, open_store

Argv = Callable[..., list[str]]


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
