"""`--profile`: a few steps under PyTorch's profiler, kept as a trace and as a table and figure of time per family of kernels."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, schedule

from resbench.harness.callbacks.context import RunContext
from resbench.harness.kernel_families import FamilyTime, by_family, table
from resbench.harness.provenance import hardware

STEPS = 4
"""Profiled steps."""
BEFORE = 10
"""Steps left out at the start: compilation, allocation."""


ANNOTATIONS = ("ProfilerStep", "[pl]", "Optimizer.", "## Call CompiledFxGraph", "Torch-Compiled Region")
"""Names that stand around kernels and are none."""


class Profile(Callback):
    """Profiles `STEPS` steps once the run is under way and writes ``profile/`` into its folder and its artifacts.

    ``trace.json.gz`` opens in chrome://tracing or https://ui.perfetto.dev; ``kernels.md`` and ``kernels.json`` have milliseconds per step: of kernels
    on a GPU, of operations (their own time, without what they call) on a CPU. Steps under the profiler are slower, and count in the run's speed.
    """

    def __init__(self, context: RunContext, folder: Path) -> None:
        self._context = context
        self._folder = folder / "profile"
        self._profiler: profile | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        left = self._context.steps - trainer.global_step
        active = max(1, min(STEPS, left - 2))
        self._device = trainer.strategy.root_device
        self._rank = trainer.global_rank
        activities = [ProfilerActivity.CPU]
        if self._device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        wait = max(0, min(BEFORE, left - active - 1))
        self._profiler = profile(
            activities=activities,
            schedule=schedule(wait=wait, warmup=1 if left > active else 0, active=active, repeat=1),
            on_trace_ready=lambda finished: self._write(finished, active),
        )
        self._profiler.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._profiler is not None:
            self._profiler.step()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._profiler is not None:
            profiler, self._profiler = self._profiler, None
            profiler.stop()

    def _write(self, finished: profile, steps: int) -> None:
        if self._rank != 0:
            return
        with self._context.clock.paused():
            self._folder.mkdir(parents=True, exist_ok=True)
            rows = by_family(timed(finished, self._device), steps)
            where = f"{hardware(self._device)}, torch {torch.__version__}, mean of {steps} steps"
            finished.export_chrome_trace(str(self._folder / "trace.json.gz"))
            (self._folder / "kernels.md").write_text(table(rows, where) + "\n", encoding="utf-8")
            found = {"where": where, "steps": steps, "families": [dataclasses.asdict(row) for row in rows]}
            (self._folder / "kernels.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            draw(rows, where, self._folder / "kernels.png")
            print(f"{table(rows, where)}\nTrace: {self._folder / 'trace.json.gz'}", flush=True)
            if self._context.run is not None:
                self._context.run.log_files(self._folder, "profile")


def timed(finished: profile, device: torch.device) -> list[tuple[str, float, int]]:
    """(name, microseconds, calls) of every kernel on the GPU, or of every operation's own time on a CPU."""
    on_gpu = device.type == "cuda"
    found = []
    for event in finished.key_averages():
        annotation = getattr(event, "is_user_annotation", False) or event.key.startswith(ANNOTATIONS)
        if annotation or (on_gpu and event.device_type != DeviceType.CUDA):
            continue
        time = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        found.append((event.key, float(time), int(event.count)))
    return [row for row in found if row[1] > 0]


def draw(rows: list[FamilyTime], where: str, file: Path) -> None:
    """A bar for each family."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.9 + 0.36 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(rows)), [row.ms for row in rows], color="#0072b2")
    axes.set_yticks(range(len(rows)), [row.family for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("ms per step")
    axes.set_title(where, loc="left", fontsize=9)
    for at, row in enumerate(rows):
        axes.text(row.ms, at, f" {row.ms:.2f} ms, {row.share:.0%}", va="center", fontsize=8)
    axes.set_xlim(0, 1.25 * max((row.ms for row in rows), default=1.0))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=130)
