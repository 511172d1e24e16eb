"""What `resbench bench run` found: a table, JSON and a figure."""

import dataclasses
import json
import math
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from resbench.harness import names
from resbench.harness.bench.run import CONFIDENCE, Plan, Row, Speed
from resbench.harness.hardware import peak_flops
from resbench.harness.provenance import code_state, hardware, installed

FORMULA = (
    "MFU = tokens/s x training FLOPs per token / peak. FLOPs per token: 3 x the forward pass; forward: two per weight of attention, MLP and output "
    "projections, attention scores and values over the causal mean of (T + 1) / 2 positions, and the connections as their scheme states them. "
    "'6N' is the common 6 x parameters without the embedding + 12 x layers x width x T, which counts masked positions and no connections."
)


def environment(device: torch.device) -> dict[str, Any]:
    """Where the numbers come from."""
    commit, dirty = code_state()
    peak = peak_flops(device, "bf16-mixed")
    return {
        "hardware": hardware(device),
        "peak_tflops": None if peak is None else peak / 1e12,
        "torch": torch.__version__,
        "triton": installed("triton"),
        "lightning": installed("lightning"),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "commit": commit,
        "dirty": dirty,
    }


def save(rows: Sequence[Row], plan: Plan, device: torch.device, folder: Path) -> None:
    """Write ``bench.json``, ``table.md`` and ``bench.png`` into the folder, replacing what was there."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "command": ["resbench", *sys.argv[1:]],
        "environment": environment(device),
        "seed": plan.seed,
        "vocab_size": plan.vocab_size,
        "head_width": plan.head_width,
        "settings": list(plan.settings),
        "interval": f"{CONFIDENCE:.0%} t interval over blocks of ten steps",
        "formula": FORMULA,
        "rows": [dataclasses.asdict(row) | {"metrics_share": row.metrics_share} for row in rows],
    }
    (folder / "bench.json").write_text(json.dumps(_finite(content), indent=1) + "\n")
    (folder / "table.md").write_text(markdown(rows) + "\n")
    if any(row.fit is not None for row in rows):
        draw(rows, hardware(device)).savefig(folder / "bench.png", dpi=150)


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


HEADINGS = (
    "scheme", "shape", "bare tokens/s", "fit tokens/s", "fit / bare", "MFU bare", "MFU fit", "MFU fit (6N)",
    "data / forward / backward / optimizer ms", "metrics", "structure, steps", "peak GiB bare / fit", "activations GiB", "first step s",
)  # fmt: skip


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [f"| {' | '.join(HEADINGS)} |", f"|{' --- |' * len(HEADINGS)}"]
    return "\n".join([*lines, *(f"| {' | '.join(cells(row))} |" for row in rows)])


def cells(row: Row) -> list[str]:
    """A row in the order of `HEADINGS`; what is not known is a dash."""
    if row.outcome != "complete":
        return [row.scheme, row.shape, *["–"] * (len(HEADINGS) - 3), f"{row.outcome}: {row.reason}"]
    found = row.fit_metrics
    parts = [f"{found[name]:.1f}" if name in found else "–" for name in names.STEP_PARTS_MS.values()]
    return [
        row.scheme,
        row.shape,
        _speed(row.bare, row.tokens_per_step),
        _speed(row.fit, row.tokens_per_step),
        _number(row.ratio, ".3f") + (f" ± {row.ratio_half_width:.3f}" if row.ratio_half_width is not None else ""),
        _number(row.mfu_bare, ".1%"),
        _number(row.mfu_fit, ".1%"),
        _number(row.mfu_fit_6n, ".1%"),
        " / ".join(parts),
        _number(row.metrics_share, ".2%"),
        _number(row.structure_steps, ".2f"),
        f"{_number(row.bare_peak_gib, '.1f')} / {_number(found.get(names.PEAK_GIB), '.2f')}",
        _number(found.get(names.ACTIVATIONS_GIB), ".2f"),
        _number(row.first_step_s, ".1f"),
    ]


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _speed(speed: Speed | None, tokens: int) -> str:
    if speed is None:
        return "–"
    rate = 1e3 * tokens / speed.step_ms
    return f"{rate:,.0f} ± {rate * speed.half_width_ms / speed.step_ms:,.0f} (n={speed.blocks})"


COLOURS = {"bare": "#6b7683", "fit": "#0072b2"}
PART_COLOURS = ("#e69f00", "#56b4e9", "#0072b2", "#009e73")


def draw(rows: Sequence[Row], where: str) -> Figure:
    """Speed of both sides at every shape, and where the time of `fit`'s steps goes."""
    drawn = [row for row in rows if row.fit is not None and row.bare is not None]
    figure = Figure(figsize=(10, 1.6 + 0.62 * len(drawn)), layout="constrained")
    speeds, parts = figure.subplots(1, 2, sharey=True)
    labels = [f"{row.scheme}\n{row.shape}" for row in drawn]
    _speeds(speeds, drawn)
    _parts(parts, drawn)
    speeds.set_yticks(range(len(drawn)), labels)
    speeds.set_ylim(len(drawn) - 0.4, -0.6)
    figure.suptitle(where, x=0.01, ha="left", fontsize=10)
    return figure


def _speeds(axes: Axes, rows: Sequence[Row]) -> None:
    known = all(row.mfu_fit is not None for row in rows)
    for offset, side in ((-0.2, "bare"), (0.2, "fit")):
        for at, row in enumerate(rows):
            speed = row.bare if side == "bare" else row.fit
            assert speed is not None
            mfu = row.mfu_bare if side == "bare" else row.mfu_fit
            value = 100 * mfu if known and mfu is not None else row.tokens_per_step / speed.step_ms
            error = value * speed.half_width_ms / speed.step_ms
            axes.barh(at + offset, value, 0.36, color=COLOURS[side], label=side if at == 0 else None)
            axes.errorbar(
                value, at + offset, xerr=0 if math.isnan(error) else error, color="black", capsize=2, linewidth=1
            )
            axes.text(0, at + offset, f" {value:.1f}", va="center", fontsize=8, color="white")
    axes.set_xlabel("MFU, % of peak" if known else "thousand tokens/s")
    axes.set_title("bare loop and resbench fit, 95 % interval", loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.25), ncols=2)


def _parts(axes: Axes, rows: Sequence[Row]) -> None:
    for at, row in enumerate(rows):
        left = 0.0
        for (part, name), colour in zip(names.STEP_PARTS_MS.items(), PART_COLOURS, strict=True):
            value = row.fit_metrics.get(name, 0.0)
            axes.barh(at, value, 0.6, left=left, color=colour, label=part if at == 0 else None)
            left += value
    axes.set_xlabel("ms per step")
    axes.set_title("where a step of resbench fit goes", loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.25), ncols=4)
