"""The leaderboard's columns, said once: heading, explanation, the text of a cell and the value it sorts by.

The page, the Markdown file and the terminal show the same columns from here; none of them formats numbers itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from resbench.results.cells import Cell, size_order

NOTHING = "–"
"""Shown where there is nothing to show."""

SortValue = float | str | None


@dataclass(frozen=True)
class DisplayColumn:
    """A column as people see it. `brief` columns make up the narrow tables; `numeric` ones are aligned right."""

    key: str
    heading: str
    explanation: str
    text: Callable[[Cell], str]
    order: Callable[[Cell], SortValue]
    numeric: bool = True
    brief: bool = False


def signed(value: float, digits: int = 4) -> str:
    """A number with its sign, with a real minus sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def quantity(value: float | None, digits: int = 3) -> str:
    """A count or a rate with a decimal prefix: 1234567 -> `1.23M`."""
    if value is None:
        return NOTHING
    for scale, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale:
            return f"{value / scale:.{digits}g}{prefix}"
    return f"{value:.{digits}g}"


def one_and_more(values: Iterable[str], length: int | None = None) -> str:
    """The first of several values, shortened, and how many others there are."""
    listed = list(values)
    if not listed:
        return NOTHING
    return listed[0][:length] + (f" (+{len(listed) - 1})" if len(listed) > 1 else "")


def _decimal(value: float | None, digits: int) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"


def _rank(cell: Cell) -> str:
    if cell.rank is None:
        return NOTHING
    return f"{cell.rank}=" if cell.tied else str(cell.rank)


def _loss(cell: Cell) -> str:
    estimate = cell.val_loss
    if estimate.mean is None:
        return NOTHING
    if estimate.half_width is None:
        return f"{estimate.mean:.4f} (no interval)"
    return f"{estimate.mean:.4f} ± {estimate.half_width:.4f}"


def _difference(cell: Cell) -> str:
    if cell.is_reference:
        return "reference"
    if cell.comparison is None or cell.comparison.difference.mean is None:
        return NOTHING
    difference = cell.comparison.difference
    if difference.low is None or difference.high is None or difference.mean is None:
        return f"{signed(difference.mean or 0.0)} (one pair)"
    return f"{signed(difference.mean)} [{signed(difference.low)}, {signed(difference.high)}]"


def _p(cell: Cell) -> str:
    if cell.holm_p is None:
        return NOTHING
    return "<0.001" if cell.holm_p < 0.001 else f"{cell.holm_p:.3f}"


def _detectable(cell: Cell) -> float | None:
    return cell.comparison.detectable if cell.comparison else None


def _pairs(cell: Cell) -> int | None:
    return cell.comparison.difference.n if cell.comparison else None


def _diverged(cell: Cell) -> str:
    shown = cell.outcomes.complete + cell.outcomes.diverged
    return f"{cell.outcomes.diverged}/{shown}" if shown else NOTHING


def _missing(cell: Cell) -> str:
    outcomes = cell.outcomes
    reasons = {"failed": outcomes.failed, "out of memory": outcomes.oom, "unfinished": outcomes.unfinished}
    told = ", ".join(f"{count} {reason}" for reason, count in reasons.items() if count)
    return told or "0"


def _not_run(cell: Cell) -> int:
    return cell.outcomes.failed + cell.outcomes.oom + cell.outcomes.unfinished


def _ratio(cell: Cell) -> str:
    return NOTHING if cell.tokens_per_s_ratio is None else f"{cell.tokens_per_s_ratio:.2f}×"


def _gain(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3g}"


COLUMNS: tuple[DisplayColumn, ...] = (
    DisplayColumn(
        "rank",
        "Rank",
        "By mean loss within its comparison group; rows that cannot be told apart share a rank (=).",
        _rank,
        lambda c: c.rank,
        brief=True,
    ),
    DisplayColumn(
        "label",
        "Scheme",
        "Residual scheme, with what the sweep varied in it.",
        lambda c: c.label,
        lambda c: c.label,
        numeric=False,
        brief=True,
    ),
    DisplayColumn(
        "size",
        "Size",
        "Named model size.",
        lambda c: c.group.size,
        lambda c: min(size_order(c.group.size), 1e30),
        numeric=True,
    ),
    DisplayColumn(
        "setting",
        "Setting",
        "The sweep's other factors.",
        lambda c: c.group.setting or NOTHING,
        lambda c: c.group.setting,
        numeric=False,
    ),
    DisplayColumn("task", "Task", "What is learned.", lambda c: c.group.task, lambda c: c.group.task, numeric=False),
    DisplayColumn(
        "tokens",
        "Tokens",
        "Training tokens planned for each run.",
        lambda c: quantity(c.group.tokens),
        lambda c: c.group.tokens,
    ),
    DisplayColumn(
        "val_loss",
        "Validation loss",
        "Mean over complete runs ± half of the 95 % t interval, nats per token. Lower is better.",
        _loss,
        lambda c: c.val_loss.mean,
        brief=True,
    ),
    DisplayColumn(
        "n", "Seeds", "Complete runs behind the mean.", lambda c: str(c.val_loss.n), lambda c: c.val_loss.n, brief=True
    ),
    DisplayColumn(
        "difference",
        "Δ to resnet",
        "Mean paired difference in loss to resnet over common seeds, with its 95 % t interval. Negative is better.",
        _difference,
        lambda c: 0.0 if c.is_reference else (c.comparison.difference.mean if c.comparison else None),
        brief=True,
    ),
    DisplayColumn(
        "pairs",
        "Pairs",
        "Seeds that both this scheme and resnet completed.",
        lambda c: NOTHING if _pairs(c) is None else str(_pairs(c)),
        _pairs,
    ),
    DisplayColumn(
        "holm_p",
        "p (Holm)",
        "Paired t test, corrected over the schemes compared in the group.",
        _p,
        lambda c: c.holm_p,
        brief=True,
    ),
    DisplayColumn(
        "detectable",
        "Detectable",
        "Smallest true difference that so many pairs with this spread would reveal four times out of five.",
        lambda c: _decimal(_detectable(c), 4),
        _detectable,
    ),
    DisplayColumn(
        "bits_per_byte",
        "Bits/byte",
        "Validation loss per byte of text.",
        lambda c: _decimal(c.bits_per_byte, 3),
        lambda c: c.bits_per_byte,
        brief=True,
    ),
    DisplayColumn(
        "unigram",
        "Unigram",
        "Bits per byte of a model that knows token frequencies only: what learning nothing else gives.",
        lambda c: _decimal(c.unigram_bits_per_byte, 3),
        lambda c: c.unigram_bits_per_byte,
    ),
    DisplayColumn(
        "diverged",
        "Diverged",
        "Diverged runs of those complete or diverged.",
        _diverged,
        lambda c: c.outcomes.diverged_fraction,
        brief=True,
    ),
    DisplayColumn("missing", "No result", "Planned runs without a result, and why.", _missing, _not_run),
    DisplayColumn(
        "tokens_per_s",
        "Tokens/s",
        "Training throughput, mean over complete runs.",
        lambda c: quantity(c.tokens_per_s),
        lambda c: c.tokens_per_s,
        brief=True,
    ),
    DisplayColumn(
        "tokens_per_s_ratio",
        "vs resnet",
        "Throughput relative to resnet on the same hardware.",
        _ratio,
        lambda c: c.tokens_per_s_ratio,
        brief=True,
    ),
    DisplayColumn(
        "peak_gib",
        "Memory, GiB",
        "Peak memory: allocated on a GPU, resident on a CPU.",
        lambda c: _decimal(c.peak_gib, 2),
        lambda c: c.peak_gib,
        brief=True,
    ),
    DisplayColumn(
        "wall_s", "Time, s", "Wall-clock time of a run.", lambda c: _decimal(c.wall_s, 1), lambda c: c.wall_s
    ),
    DisplayColumn(
        "params_total", "Parameters", "All parameters.", lambda c: quantity(c.params_total), lambda c: c.params_total
    ),
    DisplayColumn(
        "params_connection",
        "Connection",
        "Parameters of the residual connections alone.",
        lambda c: quantity(c.params_connection),
        lambda c: c.params_connection,
    ),
    DisplayColumn(
        "flops_per_token",
        "FLOPs/token",
        "Training FLOPs per token, connections included.",
        lambda c: quantity(c.flops_per_token),
        lambda c: c.flops_per_token,
    ),
    DisplayColumn(
        "gain_forward",
        "Gain →",
        "Forward gain of all sublayers' mixing matrices multiplied (largest absolute row sum), last measured; 1 is neutral.",
        lambda c: _gain(c.gain_forward),
        lambda c: c.gain_forward,
        brief=True,
    ),
    DisplayColumn(
        "gain_backward",
        "Gain ←",
        "The same backward (largest absolute column sum).",
        lambda c: _gain(c.gain_backward),
        lambda c: c.gain_backward,
    ),
    DisplayColumn(
        "n_streams",
        "Streams",
        "Residual streams.",
        lambda c: NOTHING if c.n_streams is None else str(c.n_streams),
        lambda c: c.n_streams,
    ),
    DisplayColumn(
        "sinkhorn_iterations",
        "Sinkhorn",
        "Sinkhorn iterations.",
        lambda c: NOTHING if c.sinkhorn_iterations is None else str(c.sinkhorn_iterations),
        lambda c: c.sinkhorn_iterations,
    ),
    DisplayColumn(
        "hardware",
        "Hardware",
        "What it ran on.",
        lambda c: one_and_more(c.hardware),
        lambda c: one_and_more(c.hardware),
        numeric=False,
    ),
    DisplayColumn(
        "commit",
        "Commit",
        "Commit of the code; * marks uncommitted changes.",
        lambda c: one_and_more(c.commits, 10) + ("*" if c.dirty else ""),
        lambda c: one_and_more(c.commits),
        numeric=False,
    ),
    DisplayColumn(
        "config_hash",
        "Config",
        "Hash of the resolved configuration.",
        lambda c: one_and_more(c.config_hashes, 10),
        lambda c: one_and_more(c.config_hashes),
        numeric=False,
    ),
)
