"""Saving the run every so many steps and after the last one, with everything that decides how it goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint

from resbench.harness.callbacks.context import RunContext
from resbench.harness.checkpoint_io import checkpoints, file_name

KEPT = 2
"""The newest checkpoint and the one before it, should the newest turn out damaged."""


class Checkpoint(LightningCheckpoint):
    """Writes ``<folder>/step-<n>.ckpt``. Lightning runs it after all other callbacks, so that their state is that of the step's end.

    Lightning saves weights, optimizer, schedule, loops, data order and callbacks (`Randomness` among them); what MLflow has not taken yet is
    added here.
    """

    def __init__(self, context: RunContext, folder: Path, every_steps: int, verify: Callable[[Trainer], None]) -> None:
        self._verify = verify
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
            self.save(trainer)

    def save(self, trainer: Trainer) -> Path:
        """Write the checkpoint of the present step and drop those that are no longer kept.

        ``verify`` raises `Diverged` before a run that has diverged unnoticed, between two readings, pushes out its last good checkpoint. Raises
        OSError.
        """
        self._verify(trainer)
        path = self._folder / file_name(trainer.global_step)
        with self._context.clock.paused():
            trainer.save_checkpoint(path)
            if trainer.is_global_zero:
                for old in checkpoints(self._folder)[:-KEPT]:
                    old.unlink(missing_ok=True)
        return path

    def state_dict(self) -> dict[str, Any]:
        run = self._context.run
        return {"unsent": run.unsent(), "texts": run.unsent_texts()} if run is not None else {"unsent": [], "texts": {}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._context.run is not None:
            self._context.run.requeue(state_dict["unsent"])
            for artifact, content in state_dict["texts"].items():
                self._context.run.log_text_later(content, artifact)
