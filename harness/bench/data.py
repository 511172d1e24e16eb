"""`resbench bench data`: how many tokens per second the loaders deliver, by kind and number of workers, against what a model consumes.

A run must never wait for data. What it needs is stated, not assumed silently: a model of 125M parameters consumes about 450,000 tokens/s on one H200
(compiled, bf16), and a loader should have five times that to spare, so that eight of them on a host with few cores still keep up.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from matplotlib.figure import Figure

from resbench.harness.provenance import code_state, cpu_model, installed
from resbench.tasks.hub_text import HubText
from resbench.tasks.python_source import PythonSource
from resbench.tasks.streamed_text import StreamedText
from resbench.tasks.task import Batch

Kind = Literal["cached", "streamed bytes", "streamed bpe", "streamed bpe, decontaminated"]
KINDS: tuple[Kind, ...] = ("cached", "streamed bytes", "streamed bpe", "streamed bpe, decontaminated")
VOCABULARY = 8192
WARM_UP_BATCHES = 8
REPEATS = 3
SHUFFLE_BLOCK = 64
"""Sequences: small, so that what is measured is a steady flow and not how full a block was."""


@dataclass(frozen=True)
class Plan:
    """What is measured: ``seconds`` for each repeat of each kind and number of workers; ``files`` are Parquet shards with a column ``text``."""

    files: tuple[Path, ...]
    cache: Path
    context_length: int
    batch_size: int
    seconds: float


@dataclass(frozen=True)
class Rate:
    """Tokens per second of one loader: the median of the repeats, the slowest and the fastest."""

    kind: Kind
    workers: int
    tokens_per_s: float
    slowest: float
    fastest: float


def write_shards(folder: Path, shards: int) -> tuple[Path, ...]:
    """The documents of `python-source` as Parquet files with a column ``text``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found: list[str] = []

    class Sink:
        documents: dict[str, int] = {"train": 1}  # noqa: RUF012

        def add(self, document: bytes, split: object = None) -> None:
            found.append(document.decode())

        def is_full(self, split: object) -> bool:
            return False

    PythonSource().collect(Sink())
    files = tuple(folder / f"{shard:03d}.parquet" for shard in range(shards))
    for shard, file in enumerate(files):
        pq.write_table(pa.table({"text": found[shard::shards]}), file)
    return files


def task_of(kind: Kind, workers: int, plan: Plan) -> HubText:
    """The task whose loader is measured, ready."""
    shared: dict[str, Any] = {
        "data_files": [str(file) for file in plan.files],
        "context_length": plan.context_length,
        "batch_size": plan.batch_size,
        "num_workers": workers,
        "cache_dir": str(plan.cache),
        "tokenizer": "bytes" if kind == "streamed bytes" else f"bpe:{VOCABULARY}",
        "max_val_bytes": 500_000,
    }
    task = (
        HubText(**shared)
        if kind == "cached"
        else StreamedText(
            **shared,
            max_train_bytes=2_000_000,
            shuffle_block=SHUFFLE_BLOCK,
            decontaminate=13 if "decontaminated" in kind else None,
        )
    )
    task.prepare_data()
    task.setup("fit")
    return task


def measure(kind: Kind, workers: int, plan: Plan) -> Rate:
    """Tokens per second that arrive in this process, after the workers have started and filled their queues."""
    batches: Iterator[Batch] = iter(task_of(kind, workers, plan).train_dataloader())
    for _ in range(WARM_UP_BATCHES * max(1, workers)):
        next(batches)
    rates = []
    for _ in range(REPEATS):
        start, tokens = time.perf_counter(), 0
        while (passed := time.perf_counter() - start) < plan.seconds:
            tokens += next(batches)["tokens"].numel()
        rates.append(tokens / passed)
    return Rate(kind, workers, median(rates), min(rates), max(rates))


def save(rates: Sequence[Rate], plan: Plan, consumed: float, margin: float, cores: int, folder: Path) -> None:
    """Write ``data.json`` and ``data.png`` into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    commit, dirty = code_state()
    content = {
        "command": ["resbench", *sys.argv[1:]],
        "environment": {
            "cpu": cpu_model(),
            "cores": cores,
            "commit": commit,
            "dirty": dirty,
            **{name: installed(name) for name in ("torch", "datasets", "tokenizers")},
        },
        "context_length": plan.context_length,
        "batch_size": plan.batch_size,
        "bytes": sum(file.stat().st_size for file in plan.files),
        "files": len(plan.files),
        "vocabulary": VOCABULARY,
        "assumed_consumption_tokens_per_s": consumed,
        "wanted_tokens_per_s": margin * consumed,
        "rates": [dataclasses.asdict(rate) for rate in rates],
    }
    (folder / "data.json").write_text(json.dumps(content, indent=1) + "\n")
    draw(rates, consumed, margin, cores).savefig(folder / "data.png", dpi=150)


def draw(rates: Sequence[Rate], consumed: float, margin: float, cores: int) -> Figure:
    """Tokens/s by number of workers, a line per kind of loader, and the two levels that matter."""
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    colours = ("#0072b2", "#009e73", "#d55e00", "#cc79a7")
    for kind, colour, marker in zip(KINDS, colours, "os^D", strict=True):
        ours = [rate for rate in rates if rate.kind == kind]
        if ours:
            middle = [rate.tokens_per_s for rate in ours]
            spread = [
                [r.tokens_per_s - r.slowest for r in ours],
                [r.fastest - r.tokens_per_s for r in ours],
            ]
            axes.errorbar([r.workers for r in ours], middle, spread, marker=marker, color=colour, capsize=3, label=kind)
    axes.set_yscale("log")
    for level, words in ((consumed, "a 125M model on one H200"), (margin * consumed, f"{margin:g} times that")):
        axes.axhline(level, color="#6b7683", linestyle="--", linewidth=1)
        axes.annotate(
            words,
            (1, level),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 3),
            textcoords="offset points",
            ha="right",
        )
    axes.set_xticks(sorted({rate.workers for rate in rates}))
    axes.set_xlabel("worker processes (0: the training process itself)")
    axes.set_ylabel("tokens/s delivered")
    axes.set_title(f"What the loaders deliver on {cores} cores", loc="left")
    axes.grid(color="#d3d9e0", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure
