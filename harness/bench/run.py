"""`resbench fit` beside a bare PyTorch loop over the same compiled module, in one process.

The bare loop is what one would write by hand: fetch a batch, autocast, loss, backward, clip, fused AdamW, zero the gradients. It has the module's own
loss and attention kernels, so that the difference is what Lightning, the metrics and the tracking cost; what the module itself gains
over a plainer one is measured by running this with other settings (``--set model.loss=plain``, ``--set model.attention=torch``).
Order: half of the bare loop's blocks, `fit`, the other half, so that a drifting clock does not favour either. A block is ten steps between two
waits for the device, in the bare loop as in `fit`; the first blocks are left out.
"""

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from scipy import stats
from torch import nn
from torch.optim import AdamW

from resbench.harness import names
from resbench.harness.config import parse
from resbench.harness.fit import RunResult, fit
from resbench.harness.hardware import peak_flops
from resbench.harness.module import LanguageModel
from resbench.harness.quiet import quiet_libraries
from resbench.harness.store import open_store

BLOCK = 10
"""Steps of a block: the default cadence of `fit`'s readings."""

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Shape:
    """A model and a batch: layers x width, tokens of a sequence x sequences."""

    depth: int
    width: int
    context_length: int
    batch_size: int

    @classmethod
    def parse(cls, text: str) -> "Shape":
        """``12x768:1024x64``. Raises ValueError for anything else."""
        try:
            model, _, batch = text.partition(":")
            depth, width = (int(number) for number in model.split("x"))
            context_length, batch_size = (int(number) for number in batch.split("x"))
        except ValueError:
            raise ValueError(
                f"--shape {text}: expected LAYERSxWIDTH:TOKENSxSEQUENCES, such as 12x768:1024x64"
            ) from None
        if min(depth, width, context_length, batch_size) < 1:
            raise ValueError(f"--shape {text}: every number must be at least 1")
        return cls(depth, width, context_length, batch_size)

    def __str__(self) -> str:
        return f"{self.depth}x{self.width}:{self.context_length}x{self.batch_size}"

    @property
    def tokens(self) -> int:
        return self.context_length * self.batch_size


@dataclass(frozen=True)
class Plan:
    """What is measured and for how long. ``settings`` are further ``KEY=VALUE`` arguments of `resbench fit`, for both sides."""

    vocab_size: int
    head_width: int
    warmup_blocks: int
    blocks: int
    seed: int
    folder: Path
    settings: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        """Of the run by `fit`."""
        return BLOCK * (self.warmup_blocks + self.blocks)


@dataclass
class Speed:
    """Milliseconds per step: mean over blocks, half the 95 % t interval, and how many blocks."""

    step_ms: float
    half_width_ms: float
    blocks: int

    @classmethod
    def of(cls, step_ms: Sequence[float]) -> "Speed":
        count = len(step_ms)
        half = (
            float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * stdev(step_ms) / math.sqrt(count)
            if count > 1
            else math.nan
        )
        return cls(fmean(step_ms), half, count)


@dataclass
class Row:
    """One scheme at one shape. ``ratio`` is `fit`'s speed over the bare loop's, with half of its 95 % interval; MFU is a share of 1."""

    scheme: str
    shape: str
    tokens_per_step: int
    outcome: str = "complete"
    reason: str = ""
    params_total: int = 0
    params_connection: int = 0
    flops_per_token: int = 0
    flops_per_token_6n: int = 0
    bare: Speed | None = None
    fit: Speed | None = None
    ratio: float | None = None
    ratio_half_width: float | None = None
    mfu_bare: float | None = None
    mfu_fit: float | None = None
    mfu_fit_6n: float | None = None
    first_step_s: float | None = None
    """Of the bare loop: compilation, warm or cold, and the first step."""
    bare_peak_gib: float | None = None
    fit_metrics: dict[str, float] = field(default_factory=dict)
    """Last values of `fit`'s ``perf/`` and ``mem/`` metrics; ``perf/*_ms`` are means over the blocks."""

    @property
    def metrics_share(self) -> float | None:
        """Host time of the step metrics over step time."""
        ours = self.fit_metrics.get(names.METRICS_MS)
        return None if ours is None or self.fit is None else ours / self.fit.step_ms

    @property
    def structure_steps(self) -> float | None:
        """What one measurement of gains, mixing, streams and attention costs, in steps."""
        seconds = self.fit_metrics.get(names.STRUCTURE_S)
        return None if seconds is None or self.fit is None else 1e3 * seconds / self.fit.step_ms


def arguments(scheme: str, shape: Shape, plan: Plan, settings: Sequence[str] = ()) -> list[str]:
    """The command line of `resbench fit`. ``scheme`` may carry arguments: ``mhc,n_streams=8``. Raises ValueError for a width without heads."""
    if shape.width % plan.head_width:
        raise ValueError(f"--shape {shape}: the width is no multiple of --head-width {plan.head_width}")
    name, *own = scheme.split(",")
    given = {
        "seed_everything": plan.seed,
        "output_dir": plan.folder / "runs",
        "tracking.uri": f"sqlite:///{plan.folder}/mlflow.db",
        "tracking.weights": "false",  # gigabytes, after the last step
        "data": "resbench.harness.bench.tokens.RandomTokens",
        "data.folder": plan.folder / "tokens",
        "data.vocab_size": plan.vocab_size,
        "data.context_length": shape.context_length,
        "data.batch_size": shape.batch_size,
        "model.backbone.depth": shape.depth,
        "model.backbone.width": shape.width,
        "model.backbone.n_heads": shape.width // plan.head_width,
        "model.scheme": name,
        **dict(_pair(f"model.scheme.{argument}", "--scheme") for argument in own),
        "budget.tokens": plan.steps * shape.tokens,
        "every.checkpoint": 0,
        "every.validation": plan.steps * shape.tokens,
        "trainer.log_every_n_steps": BLOCK,
        "trainer.enable_progress_bar": "false",
        **dict(_pair(setting, "--set") for setting in (*plan.settings, *settings)),
    }
    return [f"--{key}={value}" for key, value in given.items()]


def _pair(text: str, option: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{option} {text}: expected KEY=VALUE")
    return key, value


class BareLoop:
    """A training loop by hand over the module that `fit` trains."""

    def __init__(self, argv: list[str]) -> None:
        with quiet_libraries():
            cli = parse(argv)
        self.module: LanguageModel = cli.model
        data: Any = cli.datamodule
        data.prepare_data()
        data.setup("fit")
        on_gpu = cli.config.trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
        self.device = torch.device("cuda" if on_gpu else "cpu")
        self.precision = str(cli.config.trainer.precision)
        if self.precision not in ("bf16-mixed", "32-true"):
            raise ValueError(f"trainer.precision={self.precision}: the bare loop knows bf16-mixed and 32-true")
        self.network: Any = self.module.build(data.vocab_size, data.context_length).to(self.device)
        self.module.compile_for(self.device)
        self._clip = float(cli.config.trainer.gradient_clip_val or math.inf)
        self._optimizer = AdamW(self.module.parameter_groups(), lr=self.module.learning_rate, fused=True)
        self._parameters = list(self.network.parameters())
        self._batches: Iterator[dict[str, torch.Tensor]] = iter(data.train_dataloader())

    def block(self, steps: int = BLOCK) -> float:
        """Train so many steps; seconds, the device's last step included."""
        self._wait()
        began = time.perf_counter()
        for _ in range(steps):
            batch = {name: tensor.to(self.device, non_blocking=True) for name, tensor in next(self._batches).items()}
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed"):
                loss = self.module.loss(batch)
            loss.backward()
            nn.utils.clip_grad_norm_(self._parameters, self._clip)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def measure(scheme: str, shape: Shape, plan: Plan, say: Callable[[str], None] = lambda line: None) -> Row:
    """Both sides at one shape. A side that runs out of memory leaves a row that says so; Raises ValueError for settings that do not exist."""
    row = Row(scheme, str(shape), shape.tokens)
    argv = arguments(scheme, shape, plan)
    torch.manual_seed(plan.seed)
    try:
        bare = BareLoop(argv)
        row.params_total, row.params_connection = bare.network.params_total(), bare.network.params_connection()
        row.flops_per_token = 3 * bare.network.flops_per_token()
        embedding = plan.vocab_size * shape.width
        row.flops_per_token_6n = (
            6 * (row.params_total - embedding) + 12 * shape.depth * shape.width * shape.context_length
        )
        row.first_step_s = bare.block(1)
        say(f"{scheme} {shape}: first step after {row.first_step_s:.1f} s")
        blocks = bare_blocks(bare, plan.warmup_blocks, plan.blocks)
        row.bare_peak_gib = torch.cuda.max_memory_allocated() / 2**30 if bare.device.type == "cuda" else None
        gc.collect()
        resident = torch.cuda.memory_allocated() if bare.device.type == "cuda" else 0
        result = fit(argv)
        row.outcome, row.reason = result.outcome, result.reason
        if result.outcome == "complete":
            read_fit(row, result, plan, shape, resident)
            blocks += bare_blocks(bare, 1, plan.blocks)
        row.bare = Speed.of(blocks)
        finish(row, peak_flops(bare.device, bare.precision))
    except torch.OutOfMemoryError as error:
        row.outcome, row.reason = "oom", str(error).splitlines()[0]
    return row


def bare_blocks(bare: BareLoop, warmup: int, count: int) -> list[float]:
    """Milliseconds per step of half of ``count`` blocks, rounded up, after ``warmup`` blocks."""
    for _ in range(warmup):
        bare.block()
    return [1e3 * bare.block() / BLOCK for _ in range((count + 1) // 2)]


def read_fit(row: Row, result: RunResult, plan: Plan, shape: Shape, resident: int) -> None:
    """What the run logged: every reading after the warm-up is a block."""
    client = open_store(result.tracking_uri)
    first = plan.warmup_blocks * BLOCK * shape.tokens
    row.fit_metrics = {
        name: value
        for name, value in client.get_run(result.run_id).data.metrics.items()
        if name.startswith(("perf/", "mem/"))
    }
    for name in row.fit_metrics:
        if name.endswith("_ms"):
            points = [point for point in client.get_metric_history(result.run_id, name) if point.step > first]
            row.fit_metrics[name] = fmean(point.value for point in points)
            if name == names.STEP_MS:
                row.fit = Speed.of([point.value for point in points])
    if resident:
        row.fit_metrics[names.PEAK_GIB] -= resident / 2**30  # the bare loop's model was there as well


def finish(row: Row, peak: float | None) -> None:
    """Everything that follows from the two speeds."""
    if row.bare is None:
        return
    per_ms = 1e3 * row.tokens_per_step
    if peak is not None:
        row.mfu_bare = per_ms / row.bare.step_ms * row.flops_per_token / peak
    if row.fit is None:
        return
    row.ratio = row.bare.step_ms / row.fit.step_ms
    errors = [
        speed.half_width_ms / float(stats.t.ppf((1 + CONFIDENCE) / 2, speed.blocks - 1)) / speed.step_ms
        for speed in (row.bare, row.fit)
        if speed.blocks > 1
    ]
    if len(errors) == 2:
        fewest = min(row.bare.blocks, row.fit.blocks)
        row.ratio_half_width = row.ratio * math.hypot(*errors) * float(stats.t.ppf((1 + CONFIDENCE) / 2, fewest - 1))
    if peak is not None:
        row.mfu_fit = per_ms / row.fit.step_ms * row.flops_per_token / peak
        row.mfu_fit_6n = per_ms / row.fit.step_ms * row.flops_per_token_6n / peak
