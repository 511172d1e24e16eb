"""Loss, gradient norm, throughput, memory and progress, and the verdict that a run has diverged.

Losses and gradient norms of all steps stay on the device until the logging cadence (``trainer.log_every_n_steps``), where they are read at once:
between two readings no step waits for the device. ``train/loss`` and ``stability/grad_norm`` are means over the steps since the last reading.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from resbench.harness import names, start
from resbench.harness.breakdown import ActivationMemory, StepBreakdown
from resbench.harness.callbacks.context import Diverged, RunContext
from resbench.harness.callbacks.spikes import SpikeCounter
from resbench.harness.hardware import memory_metrics, peak_flops, reset_peak_memory


class StepMetrics(Callback):
    """Reads the device every ``trainer.log_every_n_steps`` steps, logs, and raises `Diverged`.

    Throughput leaves out start-up (the first steps of a process: allocation, compilation) and everything that is not training. ``tokens_per_s``
    is the rate since start-up, ``step_ms`` that of the steps since the last reading. ``mfu`` is tokens/s x training FLOPs per token / peak FLOP/s
    of the GPUs; it is absent where no peak is known. ``mem/peak_gib`` is allocated GPU memory, or the process's resident memory on a CPU.
    ``metrics_ms`` is what measuring costs the process per step: the time in these hooks less the wait for the device at a reading.
    """

    def __init__(self, context: RunContext, every_steps: int, loss_bound: float) -> None:
        self._context = context
        self._every = every_steps
        self._bound = loss_bound
        self._spikes, self._norm_spikes = SpikeCounter(), SpikeCounter()
        self._clipped_late = self._late = 0
        self._losses: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._micro: list[Tensor] = []
        self._step = 0
        self._steady_from: tuple[int, float] | None = None
        self._read_at: tuple[int, float] = (0, 0.0)
        self._first_step = 0
        self._learning_rate = 0.0
        self._clip = 0.0
        self._own_seconds = 0.0
        self._pauses = 0
        self._started = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trainer = trainer
        start.mark("model")
        device = trainer.strategy.root_device
        self._breakdown = StepBreakdown(device)
        self._activations = ActivationMemory(device, pl_module)
        self._step = self._first_step = trainer.global_step
        self._peak = peak_flops(trainer.strategy.root_device, str(trainer.precision))
        reset_peak_memory(trainer.strategy.root_device)
        self._losses = [loss.to(trainer.strategy.root_device) for loss in self._losses]  # from a checkpoint
        self._norms = [norm.to(trainer.strategy.root_device) for norm in self._norms]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._mark_start(trainer, "validation")
        self._context.clock.start()
        with self._costs():
            if self._context.clock.pauses != self._pauses:
                self._breakdown.interrupted()
            self._breakdown.start()
            self._activations.start()

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self._activations.end()  # the gradients of the step before are still there, as they were at its start

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._mark_start(trainer, "forward")
        with self._costs():
            self._activations.end()
            self._breakdown.reached()

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mark_start(trainer, "backward")
        with self._costs():
            self._breakdown.reached()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if hasattr(self, "_activations"):
            self._activations.close()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self._learning_rate = float(optimizer.param_groups[0]["lr"])  # by the end of the step it is the next one's

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._mark_start(trainer, "optimizer")
        with self._costs():
            self._breakdown.reached()
            self._collect(trainer, pl_module, outputs["loss"].detach())
        self._pauses = self._context.clock.pauses
        self._breakdown.ready()

    def _collect(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Keep what the step gave, and read it with what was kept before when it is time."""
        self._micro.append(loss)
        if trainer.global_step == self._step:  # gradients are still being accumulated
            return
        self._step = trainer.global_step
        # Lightning has divided each micro-batch's loss by their number.
        self._losses.append(torch.stack(self._micro).sum() if len(self._micro) > 1 else self._micro[0])
        self._micro.clear()
        norm: Any = pl_module.grad_norm
        self._norms.append(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        if self._step % self._every == 0 or self._step == self._context.steps:
            self._read(trainer)
        elif self._steady_from is None and self._step - self._first_step >= self._start_up_steps():
            self._mark_steady(trainer.strategy.root_device)

    def _mark_start(self, trainer: Trainer, phase: str) -> None:
        """A part of the first step of this process has ended."""
        if self._started:
            return
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize(trainer.strategy.root_device)
        start.mark(phase)
        if phase == "optimizer":
            self._started = True
            timeline = start.end()
            if timeline is not None and self._first_step == 0:
                parts = {names.START_S[phase]: seconds for phase, seconds in timeline.seconds.items()}
                self._context.log(parts | {names.START_TOTAL_S: timeline.total}, self._context.tokens_per_step)

    @contextlib.contextmanager
    def _costs(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._own_seconds += time.perf_counter() - began

    def _wait_for(self, device: torch.device) -> None:
        """Let the device finish what it was given; that takes its time, not ours."""
        if device.type == "cuda":
            began = time.perf_counter()
            torch.cuda.synchronize(device)
            self._own_seconds -= time.perf_counter() - began

    def _start_up_steps(self) -> int:
        return min(self._every, max(1, self._context.steps // 4))

    def _mark_steady(self, device: torch.device) -> None:
        self._wait_for(device)
        self._steady_from = self._read_at = (self._step, self._context.clock.seconds)
        self._breakdown.read(0)
        self._own_seconds = 0.0

    def _read(self, trainer: Trainer) -> None:
        """Bring the steps since the last reading to the host and log them."""
        self._wait_for(trainer.strategy.root_device)
        losses, norms = self._pending(trainer)
        self._losses.clear()
        self._norms.clear()
        first = self._step - len(losses) + 1
        bad = next(
            (i for i, (loss, norm) in enumerate(zip(losses, norms, strict=True)) if not self._sound(loss, norm)), None
        )
        if bad is not None:
            losses, norms = losses[bad : bad + 1], norms[bad : bad + 1]
        step = self._step if bad is None else first + bad
        self._spikes.add(losses)
        self._norm_spikes.add(norms)
        self._count_clipped(norms, step - len(norms) + 1, trainer.gradient_clip_val)
        context = self._context
        tokens = step * context.tokens_per_step
        metrics = {
            names.TRAIN_LOSS: sum(losses) / len(losses),
            names.GRAD_NORM: sum(norms) / len(norms),
            names.LOSS_SPIKES: self._spikes.share,
            names.GRAD_NORM_SPIKES: self._norm_spikes.share,
            **({names.CLIPPED_SHARE: self._clipped_late / self._late} if self._late else {}),
            names.LEARNING_RATE: self._learning_rate,
            **self._memory(trainer),
            names.PROGRESS_TOKENS: tokens,
            names.PROGRESS_STEP: step,
            names.PROGRESS_FLOPS: float(tokens) * context.flops_per_token,
            names.PROGRESS_WALL_S: context.clock.seconds,
            **self._throughput(trainer),
        }
        context.log(metrics, tokens)
        if bad is not None:
            raise Diverged(tokens, f"loss {losses[0]:.4g}, gradient norm {norms[0]:.4g} (bound {self._bound:.4g})")

    def _pending(self, trainer: Trainer) -> tuple[list[float], list[float]]:
        """Losses and gradient norms of the steps since the last reading, means over the processes."""
        if not self._losses:
            return [], []
        both = torch.stack([torch.stack(self._losses).float(), torch.stack(self._norms).float()])
        if trainer.world_size > 1:
            both = trainer.strategy.reduce(both, reduce_op="mean")
        losses, norms = both.tolist()
        return losses, norms

    def verify(self, trainer: Trainer) -> None:
        """Raise `Diverged` now if one of the steps since the last reading says so."""
        if not all(self._sound(loss, norm) for loss, norm in zip(*self._pending(trainer), strict=True)):
            self._read(trainer)

    def _memory(self, trainer: Trainer) -> dict[str, float]:
        """Of the process that needed most."""
        device = trainer.strategy.root_device
        own = memory_metrics(device, self._activations.read())
        if trainer.world_size == 1:
            return own
        most = trainer.strategy.reduce(torch.tensor(list(own.values()), device=device), reduce_op="max")
        return dict(zip(own, most.tolist(), strict=True))

    def _sound(self, loss: float, norm: float) -> bool:
        return math.isfinite(loss) and math.isfinite(norm) and loss <= self._bound

    def _count_clipped(self, norms: list[float], first: int, limit: float | None) -> None:
        """Of the steps from ``first`` on, count those in the run's second half, and those of them whose gradients were clipped."""
        if limit:
            late = [norm for step, norm in enumerate(norms, first) if step > self._context.steps // 2]
            self._late += len(late)
            self._clipped_late += sum(not norm <= limit for norm in late)

    def _throughput(self, trainer: Trainer) -> dict[str, float]:
        context = self._context
        now = context.clock.seconds
        metrics = {}
        parts = self._breakdown.read(self._step - self._read_at[0])
        if self._steady_from is not None and self._step > self._steady_from[0]:
            step, seconds = self._steady_from
            rate = (self._step - step) * context.tokens_per_step / (now - seconds)
            metrics[names.TOKENS_PER_S] = rate
            steps = self._step - self._read_at[0]
            metrics[names.STEP_MS] = 1e3 * (now - self._read_at[1]) / steps
            metrics[names.METRICS_MS] = 1e3 * self._own_seconds / steps
            metrics |= {names.STEP_PARTS_MS[part]: value for part, value in parts.items()}
            if self._peak is not None:
                metrics[names.MFU] = rate * context.flops_per_token / (self._peak * trainer.world_size)
        if self._steady_from is None:
            self._steady_from = (self._step, now)
        self._read_at = (self._step, now)
        self._own_seconds = 0.0
        return metrics

    def state_dict(self) -> dict[str, Any]:
        losses, norms = self._pending(self._trainer)  # all processes': any number of them may go on from here
        return {
            "losses": losses,
            "norms": norms,
            "spikes": self._spikes.state_dict(),
            "norm_spikes": self._norm_spikes.state_dict(),
            "clipped": [self._clipped_late, self._late],
            "seconds": self._context.clock.seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._losses = [torch.tensor(loss) for loss in state_dict["losses"]]
        self._norms = [torch.tensor(norm) for norm in state_dict["norms"]]
        self._spikes.load_state_dict(state_dict["spikes"])
        self._norm_spikes.load_state_dict(state_dict["norm_spikes"])
        self._clipped_late, self._late = state_dict["clipped"]
        self._context.clock.seconds = state_dict["seconds"]
