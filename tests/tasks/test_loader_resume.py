"""A run that Lightning resumes from a checkpoint sees exactly the batches that an undisturbed run sees."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from resbench.tasks.hub_text import HubText

TextTask = Callable[..., HubText]
STEPS = 14


class Recorder(LightningModule):
    """Trains one number and notes which batch each optimizer step had; `die_at` raises in the step after that many."""

    def __init__(self, die_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[list[int]]] = []
        self.die_at = die_at

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        if len(self.seen) == self.die_at:
            raise RuntimeError("struck")
        self.seen.append(batch["tokens"].tolist())
        return (self.weight - batch["targets"].double().mean()).square()

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        self.log("val_loss", batch["targets"].double().mean(), batch_size=len(batch["targets"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.1)


class SaveOnException(Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        trainer.save_checkpoint(self.path)


def trainer(directory: Path, callbacks: list[Callback], **arguments: Any) -> Trainer:
    return Trainer(
        default_root_dir=directory,
        accelerator="cpu",
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        **{
            "max_steps": STEPS,
            "val_check_interval": 4,
            "num_sanity_val_steps": 1,
            "check_val_every_n_epoch": None,
            **arguments,
        },
    )


def undisturbed(task: HubText, directory: Path, **arguments: Any) -> Recorder:
    model = Recorder()
    trainer(directory, [], **arguments).fit(model, datamodule=task)
    return model


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("saved_at", [3, 5, 8])  # at 8 there is a validation, before which Lightning saves too
def test_resumed_run_sees_the_same_batches(
    numbers_task: TextTask, tmp_path: Path, saved_at: int, num_workers: int
) -> None:
    whole = undisturbed(numbers_task(), tmp_path)
    assert len(whole.seen) == STEPS

    first = Recorder()
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=saved_at, save_top_k=-1)
    trainer(tmp_path, [keep], max_steps=saved_at + 2).fit(first, datamodule=numbers_task(num_workers=num_workers))
    resumed = Recorder()
    checkpoint = tmp_path / f"step={saved_at}.ckpt"
    trainer(tmp_path, []).fit(resumed, datamodule=numbers_task(num_workers=num_workers), ckpt_path=checkpoint)

    assert first.seen == whole.seen[: saved_at + 2]
    assert resumed.seen == whole.seen[saved_at:]
    assert torch.equal(resumed.weight, whole.weight)


def test_saved_at_the_end_of_a_validation(numbers_task: TextTask, tmp_path: Path) -> None:
    whole = undisturbed(numbers_task(), tmp_path)
    keep = ModelCheckpoint(tmp_path, "validated", monitor="val_loss", save_on_train_epoch_end=False)
    trainer(tmp_path, [keep], max_steps=5).fit(Recorder(), datamodule=numbers_task())
    resumed = Recorder()
    trainer(tmp_path, []).fit(resumed, datamodule=numbers_task(), ckpt_path=tmp_path / "validated.ckpt")
    assert resumed.seen == whole.seen[4:]
    assert torch.equal(resumed.weight, whole.weight)


def test_a_step_that_an_exception_interrupted_is_done_again(numbers_task: TextTask, tmp_path: Path) -> None:
    whole = undisturbed(numbers_task(), tmp_path)
    broken = Recorder(die_at=6)
    with pytest.raises(RuntimeError, match="struck"):
        trainer(tmp_path, [SaveOnException(tmp_path / "last.ckpt")]).fit(broken, datamodule=numbers_task())
    resumed = Recorder()
    trainer(tmp_path, []).fit(resumed, datamodule=numbers_task(), ckpt_path=tmp_path / "last.ckpt")
    assert broken.seen + resumed.seen == whole.seen
    assert torch.equal(resumed.weight, whole.weight)


def test_resuming_twice(numbers_task: TextTask, tmp_path: Path) -> None:
    whole = undisturbed(numbers_task(), tmp_path)
    seen: list[list[list[int]]] = []
    checkpoint: Path | None = None
    for stop in (4, 9, STEPS):
        model = Recorder()
        run = trainer(tmp_path, [], max_steps=stop)
        run.fit(model, datamodule=numbers_task(), ckpt_path=checkpoint)
        checkpoint = tmp_path / f"{stop}.ckpt"
        run.save_checkpoint(checkpoint)
        seen += model.seen
    assert seen == whole.seen


def test_accumulated_gradients(numbers_task: TextTask, tmp_path: Path) -> None:
    arguments = {"accumulate_grad_batches": 2, "max_steps": 6}
    whole = undisturbed(numbers_task(), tmp_path, **arguments)
    assert len(whole.seen) == 12
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
    trainer(tmp_path, [keep], **{**arguments, "max_steps": 3}).fit(Recorder(), datamodule=numbers_task())
    resumed = Recorder()
    trainer(tmp_path, [], **arguments).fit(resumed, datamodule=numbers_task(), ckpt_path=tmp_path / "step=2.ckpt")
    assert resumed.seen == whole.seen[4:]
    assert torch.equal(resumed.weight, whole.weight)


def test_epochs_of_limited_length_go_on_through_the_stream(numbers_task: TextTask, tmp_path: Path) -> None:
    whole = undisturbed(numbers_task(), tmp_path)
    limited = Recorder()
    trainer(tmp_path, [], limit_train_batches=5, val_check_interval=5).fit(limited, datamodule=numbers_task())
    assert limited.seen == whole.seen
