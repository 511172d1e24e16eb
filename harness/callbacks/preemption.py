"""Stopping at the end of a step when somebody asked for it, with a checkpoint of that step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from resbench.harness.callbacks.context import RunContext
from resbench.harness.errors import Preempted
from resbench.harness.preemption import Notice

Save = Callable[[Trainer], Path]


class Preemption(Callback):
    """Raises `Preempted` after the step in which a signal came; several processes agree every ``agree_every`` steps, where they meet anyway.

    ``save`` writes a checkpoint of the present step; None if the run keeps none.
    """

    def __init__(self, context: RunContext, notice: Notice, agree_every: int, save: Save | None) -> None:
        self._context, self._notice, self._agree_every, self._save = context, notice, agree_every, save
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step
        self._notice.listen()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:  # gradients are still being accumulated
            return
        self._step = trainer.global_step
        if self._step < self._context.steps and self._asked(trainer):
            path = self._save(trainer) if self._save is not None else None
            raise Preempted(self._step * self._context.tokens_per_step, path)

    def _asked(self, trainer: Trainer) -> bool:
        if trainer.world_size == 1:
            return self._notice.given
        # Each process may get the signal in another step, or not at all.
        return self._step % self._agree_every == 0 and trainer.strategy.reduce_boolean_decision(
            self._notice.given, all=False
        )
