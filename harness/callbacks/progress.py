"""What the user sees of a run: a bar with tokens, loss, speed and time left, or plain lines when nobody watches a terminal."""

import sys
import time
from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from resbench.harness import names
from resbench.harness.callbacks.context import RunContext

LINE_EVERY_S = 15.0
_LOSSES = (("loss", names.TRAIN_LOSS), ("val", names.VAL_LOSS))


class RunProgress(ProgressBar):
    """On stderr. In place of Lightning's bar, which counts batches of an epoch that never ends."""

    def __init__(self, context: RunContext, label: str) -> None:
        super().__init__()
        self._context = context
        self._label = label
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._last_line = 0.0
        self._shown = True

    def disable(self) -> None:
        self._shown = False

    def enable(self) -> None:
        self._shown = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        print(*args, file=sys.stderr)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last_line = time.monotonic()
        if not self._shown or not trainer.is_global_zero:
            return
        console = Console(stderr=True)
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=12),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(compact=True, elapsed_when_finished=True),
                console=console,
            )
            self._task = self._bar.add_task(
                self._label, total=self._context.steps, completed=trainer.global_step, figures=""
            )
            self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._shown or not trainer.is_global_zero:
            return
        step = trainer.global_step
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, figures=self._figures(step, short))
        elif time.monotonic() - self._last_line >= LINE_EVERY_S or step == self._context.steps:
            self._last_line = time.monotonic()
            print(f"{self._label}  {self._figures(step, _exact)}{self._left(step)}", file=sys.stderr, flush=True)

    def _figures(self, step: int, count: Callable[[float], str]) -> str:
        """Tokens, then the last training and validation loss and the speed, as far as they are known."""
        context, latest = self._context, self._context.latest
        parts = [f"{count(step * context.tokens_per_step)}/{count(context.steps * context.tokens_per_step)} tokens"]
        parts += [f"{word} {latest[name]:.3f}" for word, name in _LOSSES if name in latest]
        if names.TOKENS_PER_S in latest:
            parts.append(f"{count(latest[names.TOKENS_PER_S])}/s")
        return "  ".join(parts)

    def _left(self, step: int) -> str:
        """Time left at the present speed, once there is one to go by."""
        speed = self._context.latest.get(names.TOKENS_PER_S)
        if speed is None or step == self._context.steps:
            return ""
        return f"  {_clock((self._context.steps - step) * self._context.tokens_per_step / speed)} left"

    def stop(self) -> None:
        """Take the bar off the screen, however the run ended."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.stop()


def _exact(count: float) -> str:
    return f"{count:,.0f}"


def short(count: float) -> str:
    """Three digits: 999, 46.6k, 1.20M, 10.0B."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * size:
            value = count / size
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}{letter}"
    return f"{count:.0f}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
