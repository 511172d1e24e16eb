"""Saving the run every so many steps and after the last one, with everything that decides how it goes on."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint

from resbench.harness.callbacks.context import RunContext
from resbench.harness.checkpoint_io import checkpoints

KEPT = 2
"""The newest checkpoint and the one before it, should the newest turn out damaged."""


class Checkpoint(LightningCheckpoint):
    """Writes ``<folder>/step-<n>.ckpt``. Lightning runs it after all other callbacks, so that their state is that of the step's end.

    Lightning saves weights, optimizer, schedule, loops, data order and callbacks; the states of the random generators are added here.
    """

    def __init__(self, context: RunContext, folder: Path, every_steps: int) -> None:
        self._context = context
        self._folder = folder
        self._every = every_steps
        self._step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._folder = trainer.strategy.broadcast(self._folder)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        if self._step % self._every == 0 or self._step == self._context.steps:
            with self._context.clock.paused():
                trainer.save_checkpoint(self._folder / f"step-{self._step:08d}.ckpt")
                if trainer.is_global_zero:
                    for old in checkpoints(self._folder)[:-KEPT]:
                        old.unlink(missing_ok=True)

    def state_dict(self) -> dict[str, Any]:
        name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
        return {
            "python": random.getstate(),
            "numpy": (name, [int(key) for key in keys], int(position), int(has_gauss), float(cached)),
            "torch": torch.get_rng_state(),
            "unsent": self._context.run.unsent() if self._context.run is not None else [],
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._context.run is not None:
            self._context.run.requeue(state_dict["unsent"])
        random.setstate(state_dict["python"])
        name, keys, position, has_gauss, cached = state_dict["numpy"]
        np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
        torch.set_rng_state(state_dict["torch"].cpu())
        for device, state in enumerate(state_dict["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(state.cpu(), device)
