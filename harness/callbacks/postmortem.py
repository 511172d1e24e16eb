"""What a diverged run leaves behind: the sublayer that broke, with figures, and the checkpoint from before it did."""

import json
from collections import deque
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from resbench.harness import names
from resbench.harness.callbacks.context import Diverged, RunContext
from resbench.harness.checkpoint_io import checkpoints
from resbench.harness.diagnosis import PANELS, Diagnosis, diagnose
from resbench.harness.hardware import is_out_of_memory
from resbench.harness.module import LanguageModel
from resbench.harness.structure_figure import draw_profile


class PostMortem(Callback):
    """Keeps the batches since the last reading, and on `Diverged` runs the one of the offending step again.

    The module does not update weights once a gradient was not finite, so that for such a step the weights are still those it was taken with. A loss
    above its bound is found some steps later, and looked at with the weights of that moment.
    """

    def __init__(self, context: RunContext, folder: Path, read_every: int) -> None:
        self._context, self._folder = context, folder
        self._recent: deque[tuple[int, Any]] = deque(maxlen=read_every + 1)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step + 1
        if not self._recent or self._recent[-1][0] != step:  # of accumulated micro-batches the first
            self._recent.append((step, batch))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if not isinstance(exception, Diverged):
            return
        kept = checkpoints(self._folder)
        exception.last_good = kept[-1] if kept else None
        step = exception.tokens // self._context.tokens_per_step
        found = self._look(trainer, pl_module, step)
        if found is not None:
            exception.verdict = found.verdict
            self._save(found, exception, step)

    def _look(self, trainer: Trainer, module: LightningModule, step: int) -> Diagnosis | None:
        assert isinstance(module, LanguageModel)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        batch = dict(self._recent).get(step)
        if batch is None:  # diverged in validation
            batch = self._recent[-1][1] if self._recent else next(iter(data.val_dataloader()))
        try:
            with trainer.precision_plugin.forward_context():
                assert module.network is not None
                return diagnose(module.network, trainer.strategy.batch_to_device(batch))
        except (
            RuntimeError,
            TypeError,
        ) as error:  # without the memory for it, or a backbone that takes no observer, the run has still diverged
            if isinstance(error, RuntimeError) and not is_out_of_memory(error):
                raise
            return None

    def _save(self, found: Diagnosis, exception: Diverged, step: int) -> None:
        run = self._context.run
        if run is None:
            return
        facts = {
            "step": step,
            "tokens": exception.tokens,
            "reason": str(exception),
            "last_good_checkpoint": str(exception.last_good) if exception.last_good is not None else None,
            **found.as_dict(),
        }
        run.log_text_later(json.dumps(facts, indent=1), names.DIVERGENCE_ARTIFACT)
        if found.columns["sublayer"]:
            title = f"step {step}: {found.verdict}"
            figure = draw_profile(found.columns, title, PANELS)
            run.log_text_later(figure, names.DIVERGENCE_ARTIFACT.replace(".json", ".svg"))
