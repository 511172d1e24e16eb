"""The Trainer of one run, put together: callbacks, logger, checkpoint files and the environment it runs in."""

import signal
import threading
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment

from resbench.harness import names
from resbench.harness.callbacks.checkpoint import Checkpoint
from resbench.harness.callbacks.context import RunContext
from resbench.harness.callbacks.postmortem import PostMortem
from resbench.harness.callbacks.preemption import Preemption
from resbench.harness.callbacks.profile import Profile
from resbench.harness.callbacks.progress import RunProgress
from resbench.harness.callbacks.randomness import Randomness
from resbench.harness.callbacks.save_config import SaveConfig
from resbench.harness.callbacks.step_metrics import StepMetrics
from resbench.harness.callbacks.validation import OnValidation, Validation
from resbench.harness.checkpoint_io import AtomicCheckpointIO
from resbench.harness.config import RunCLI
from resbench.harness.logger import MlflowRunLogger
from resbench.harness.preemption import Notice
from resbench.harness.record import Facts, run_tags
from resbench.harness.tracking import TrackedRun


class Training:
    """Everything between a parsed configuration and the last step. ``run`` is None on every process but the first."""

    def __init__(
        self,
        cli: RunCLI,
        facts: Facts,
        run: TrackedRun | None,
        folder: Path,
        on_validation: OnValidation | None,
        notice: Notice,
    ) -> None:
        self._cli = cli
        self.context = RunContext(run, facts.tokens_per_step, facts.steps, facts.flops_per_token)
        bound = cli.model.bound_for(cli.vocab_size)
        self.validation = Validation(
            self.context,
            self.context.steps_for(cli.every.validation),
            cli.every.gain_sequences,
            bound,
            on_validation,
        )
        step_metrics = StepMetrics(self.context, self._logged_every(), bound)
        post_mortem = PostMortem(self.context, folder, self._logged_every())
        callbacks: list[Callback] = [step_metrics, self.validation, post_mortem]
        if cli.profile:
            callbacks.append(Profile(self.context, folder))
        if cli.config.trainer.enable_progress_bar is not False:
            callbacks.append(RunProgress(self.context, self._label()))
        callbacks.append(Randomness(int(cli.config.seed_everything)))
        saves = cli.every.checkpoint != 0
        every = self.context.steps_for(cli.every.checkpoint)
        checkpoint = Checkpoint(self.context, folder, every, step_metrics.verify) if saves else None
        save = checkpoint.save if checkpoint is not None else None
        callbacks.append(Preemption(self.context, notice, self._logged_every(), save))
        if checkpoint is not None:
            callbacks.append(checkpoint)
        self.trainer = self._trainer(callbacks, run, folder, saves)

    @property
    def device(self) -> torch.device:
        """Where this process trains."""
        return self.trainer.strategy.root_device

    @property
    def tokens(self) -> int:
        """Training tokens seen."""
        return int(self.trainer.global_step) * self.context.tokens_per_step

    def run(self, checkpoint: Path | None) -> None:
        """Train to the end of the budget, from a checkpoint if there is one. Raises KeyboardInterrupt on Ctrl-C."""
        main_thread = threading.current_thread() is threading.main_thread()
        handler = signal.getsignal(signal.SIGINT) if main_thread else None
        try:
            self.trainer.fit(
                self._cli.model,
                datamodule=self._cli.datamodule,
                ckpt_path=checkpoint,
                weights_only=True,  # a checkpoint may come from a shared folder: nothing in it is executed
            )
        except SystemExit as error:
            if isinstance(error.__context__, KeyboardInterrupt):  # Lightning's answer to Ctrl-C
                raise KeyboardInterrupt from error
            raise
        finally:
            self.context.clock.stop()
            if self._cli.config.trainer.profiler and self.trainer.is_global_zero:
                trainer: Any = self.trainer  # the attribute is set by one of Lightning's connectors
                print(trainer.profiler.summary())
            if main_thread:
                signal.signal(signal.SIGINT, handler)  # Lightning leaves it ignored

    def _trainer(self, callbacks: list[Callback], run: TrackedRun | None, folder: Path, saves: bool) -> Trainer:
        cli = self._cli
        given: Any = cli.config_init.trainer
        plugins: list[Any] = [AtomicCheckpointIO(), *_as_list(given.plugins)]
        if given.num_nodes == 1 and not dist.is_torchelastic_launched():
            # Under srun Lightning would take the number of tasks of the whole allocation for the size of this run.
            plugins.append(LightningEnvironment())
        cli.save_config_callback = SaveConfig
        cli.save_config_kwargs = {"save_to_log_dir": False}
        return cli.instantiate_trainer(
            callbacks=[*callbacks, *_as_list(given.callbacks)],
            logger=MlflowRunLogger(run, cli.tracking.experiment, self.context.tokens_per_step),
            plugins=plugins,
            max_steps=self.context.steps,
            max_epochs=-1,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            val_check_interval=None,
            check_val_every_n_epoch=None,
            enable_checkpointing=saves,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=folder,
        )

    def _logged_every(self) -> int:
        return max(1, int(self._cli.config.trainer.log_every_n_steps or 10))

    def _label(self) -> str:
        tags = run_tags(self._cli.resolved())
        return " ".join(str(tags[name]) for name in (names.TAG_SCHEME, names.TAG_SIZE) if tags[name])


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
