"""Validation by tokens: loss, bits per byte and gains on fixed sequences, before the first step, at a cadence, and after the last step."""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F

from resbench.harness import names
from resbench.harness.callbacks.context import Diverged, Pruned, RunContext
from resbench.harness.hardware import is_out_of_memory
from resbench.harness.module import LanguageModel
from resbench.harness.structure import Structure, observe
from resbench.harness.structure_figure import draw_profile
from resbench.tasks.task import Task, model_inputs

OnValidation = Callable[[int, float], None]


@contextmanager
def evaluating(trainer: Trainer, network: nn.Module) -> Iterator[None]:
    """Without gradients, in evaluation mode and the run's precision."""
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            yield
    finally:
        network.train(was_training)


class Validation(Callback):
    """Evaluates every ``every_steps`` steps and at the last one.

    Every process evaluates all sequences, so that the loss needs no reduction. ``on_validation(tokens, loss)`` is called on the first process
    after each validation of a trained model and may raise `Pruned`.
    """

    def __init__(
        self,
        context: RunContext,
        every_steps: int,
        gain_sequences: int,
        loss_bound: float,
        on_validation: OnValidation | None = None,
    ) -> None:
        self._context = context
        self._every = every_steps
        self._gain_sequences = gain_sequences
        self._bound = loss_bound
        self._on_validation = on_validation
        self._step = 0
        self._structure_seconds = 0.0
        self._drawn_later: tuple[Structure, int] | None = None
        self._measured = -1
        self._batches: list[dict[str, Tensor]] | None = None
        self.last_loss: float | None = None
        self.last_bits_per_byte: float | None = None
        self.last_measures: dict[str, float] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step
        if self._step == 0:
            self._validate(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        if self._step % self._every == 0 or self._step == self._context.steps:
            self._validate(trainer, pl_module)

    def _validate(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, LanguageModel)
        tokens = self._step * self._context.tokens_per_step
        with self._context.clock.paused():
            began = time.perf_counter()
            loss, bits_per_byte, measures, structure = self._evaluate(trainer, module)
            if trainer.world_size > 1:
                # Equal but for the order in which a GPU adds; whether the run goes on must not depend on that.
                loss = trainer.strategy.broadcast(loss)
            metrics = {names.VAL_LOSS: loss, **measures, names.VALIDATION_S: time.perf_counter() - began}
            if bits_per_byte is not None:
                metrics[names.VAL_BITS_PER_BYTE] = bits_per_byte
            if structure is not None:
                metrics |= {**structure.metrics(), names.STRUCTURE_S: self._structure_seconds}
                self._save_profile(structure, tokens)
            self._context.log(metrics, tokens)
            self._measured = tokens
            self.last_loss, self.last_bits_per_byte, self.last_measures = loss, bits_per_byte, measures
            if not math.isfinite(loss) or loss > self._bound:
                raise Diverged(tokens, f"validation loss {loss:.4g} (bound {self._bound:.4g})")
            if tokens > 0:
                self._report(trainer, tokens, loss)

    def _report(self, trainer: Trainer, tokens: int, loss: float) -> None:
        """Ask on the first process whether to go on; all of them raise `Pruned` if not."""
        pruned: str | None = None
        if self._on_validation is not None and trainer.is_global_zero:
            try:
                self._on_validation(tokens, loss)
            except Pruned as error:
                pruned = str(error)
        if trainer.world_size > 1:
            pruned = trainer.strategy.broadcast(pruned)
        if pruned is not None:
            raise Pruned(pruned)

    def _evaluate(
        self, trainer: Trainer, module: LanguageModel
    ) -> tuple[float, float | None, dict[str, float], Structure | None]:
        """Loss, bits per byte where the task knows bytes, the task's own measures, and the network's structure."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if self._batches is None:
            self._batches = list(data.val_dataloader())
        assert module.network is not None
        extra = getattr(data, "measures", None)
        if getattr(type(data), "measures", None) is Task.measures:
            extra = None  # nothing to measure: the logits need not exist all at once
        found: dict[str, Tensor] = {}
        with evaluating(trainer, module.network):
            sums = torch.zeros(2, dtype=torch.float64, device=trainer.strategy.root_device)
            for batch in self._batches:
                batch = trainer.strategy.batch_to_device(batch)
                targets = batch["targets"].flatten()
                scored = (targets != -100).sum()
                sums[1] += scored
                if extra is None:
                    sums[0] += torch.where(scored > 0, module.evaluate(batch).double() * scored, 0.0)
                    continue
                logits = module.network(*model_inputs(batch)).float()
                flat = logits.flatten(0, -2)
                sums[0] += F.cross_entropy(flat, targets, ignore_index=-100, reduction="sum").double()
                for name, pair in extra(logits, batch).items():
                    found[name] = found.get(name, 0) + torch.stack([part.double() for part in pair])
            total, count = sums.tolist()
            began = time.perf_counter()
            structure = self._structure(trainer, module)
            self._structure_seconds = time.perf_counter() - began
        loss = total / count
        bytes_per_token = getattr(data, "bytes_per_token", None)
        bits_per_byte = loss / math.log(2) / bytes_per_token if bytes_per_token else None
        measures = {name: float(pair[0] / pair[1]) for name, pair in found.items() if pair[1] > 0}
        return loss, bits_per_byte, measures, structure

    def _structure(self, trainer: Trainer, module: LanguageModel) -> Structure | None:
        """What `observe` sees on the first validation sequences; None when switched off."""
        if self._gain_sequences == 0:
            return None
        assert self._batches is not None
        assert module.network is not None
        count = self._gain_sequences
        columns = zip(*(model_inputs(batch) for batch in self._batches[:count]), strict=True)
        inputs = [torch.cat(parts)[:count] for parts in columns]
        return observe(module.network, trainer.strategy.batch_to_device(inputs))

    def _save_profile(self, structure: Structure, tokens: int) -> None:
        if self._context.run is not None:
            text = json.dumps({"tokens": tokens, **structure.as_dict()})
            self._context.run.log_text_later(text, names.PROFILE_ARTIFACT.replace(".json", f"_{tokens}.json"))
            self._context.run.log_text_later(text, names.PROFILE_ARTIFACT)
            self._drawn_later = (structure, tokens)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, Diverged):
            if exception.tokens > self._measured:
                self._measure_broken(trainer, pl_module, exception.tokens)
            self._draw()

    def _measure_broken(self, trainer: Trainer, module: LightningModule, tokens: int) -> None:
        """The structure of a network that diverged since the last validation: how far the gains had come. What is not finite is left out.

        As in the post-mortem, a loss above its bound is found some steps later, and the weights are those of that moment.
        """
        assert isinstance(module, LanguageModel)
        assert module.network is not None
        try:
            with evaluating(trainer, module.network):
                structure = self._structure(trainer, module)
        except RuntimeError as error:  # the run has diverged all the same
            if not isinstance(error, torch.linalg.LinAlgError) and not is_out_of_memory(error):
                raise
            print(f"Its gains could not be measured: {str(error).splitlines()[0]}")
            return
        if structure is not None:
            found = {name: value for name, value in structure.metrics().items() if math.isfinite(value)}
            self._context.log(found, tokens)
            self._save_profile(structure, tokens)

    def _draw(self) -> None:
        """The last profile as a figure. Once: drawing takes longer than measuring."""
        if self._drawn_later is not None and self._context.run is not None:
            structure, tokens = self._drawn_later
            title = f"Sublayers after {tokens:,} tokens, averages over the tokens of the first validation sequences"
            self._context.run.log_text_later(draw_profile(structure.as_dict(), title), names.PROFILE_FIGURE)
            self._drawn_later = None

    def state_dict(self) -> dict[str, Any]:
        return {
            "last_loss": self.last_loss,
            "last_bits_per_byte": self.last_bits_per_byte,
            "last_measures": self.last_measures,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.last_loss, self.last_bits_per_byte = state_dict["last_loss"], state_dict["last_bits_per_byte"]
        self.last_measures = state_dict["last_measures"]
