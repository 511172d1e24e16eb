"""The leaderboard's columns, said once: heading, explanation, the text of a cell and the value it sorts by.

The page, the Markdown file and the terminal show the same columns from here; none of them formats numbers itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from resbench.results.cells import Cell, size_order
from resbench.results.ranking import REFERENCE, verdict
from resbench.results.scaling.frontier import Multiplier

NOTHING = "–"
"""Shown where there is nothing to show."""

SortValue = float | str | None


@dataclass(frozen=True)
class DisplayColumn:
    """A column as people see it. `numeric` ones are aligned right; a narrow table takes columns by `brief`, lowest first, never 0.

    `why` is the reason for a cell with nothing to show, in a sentence; empty where there is none to give.
    """

    key: str
    heading: str
    explanation: str
    text: Callable[[Cell], str]
    order: Callable[[Cell], SortValue]
    numeric: bool = True
    brief: int = 0
    why: Callable[[Cell], str] = lambda _cell: ""


def signed(value: float, digits: int = 4) -> str:
    """A number with its sign, with a real minus sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def quantity(value: float | None, digits: int = 3) -> str:
    """A count or a rate with a decimal prefix: 1234567 -> `1.23M`."""
    if value is None:
        return NOTHING
    for scale, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale:
            return f"{value / scale:#.{digits}g}".rstrip(".") + prefix
    return f"{value:.{digits}g}"


def printable(text: str) -> str:
    """Text from a run with everything that a terminal or a page would not show but act on (escapes, direction marks) made visible."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def one_and_more(values: Iterable[str], length: int | None = None) -> str:
    """The first of several values, shortened, and how many others there are."""
    listed = list(values)
    if not listed:
        return NOTHING
    return listed[0][:length] + (f" (+{len(listed) - 1})" if len(listed) > 1 else "")


def _text(key: str, heading: str, explanation: str, value: Callable[[Cell], str], brief: int = 0) -> DisplayColumn:
    return DisplayColumn(
        key, heading, explanation, lambda cell: printable(value(cell)), value, numeric=False, brief=brief
    )


def _counted(
    key: str, heading: str, explanation: str, value: Callable[[Cell], float | None], brief: int = 0
) -> DisplayColumn:
    return DisplayColumn(key, heading, explanation, lambda cell: quantity(value(cell)), value, brief=brief)


def _measured(
    key: str, heading: str, explanation: str, value: Callable[[Cell], float | None], digits: int, brief: int = 0
) -> DisplayColumn:
    def text(cell: Cell) -> str:
        measured = value(cell)
        return NOTHING if measured is None else f"{measured:.{digits}f}"

    return DisplayColumn(key, heading, explanation, text, value, brief=brief)


def _rank(cell: Cell) -> str:
    if cell.rank is None:
        return NOTHING
    return f"{cell.rank}=" if cell.tied else str(cell.rank)


def _loss(cell: Cell) -> str:
    estimate = cell.val_loss
    if estimate.mean is None:
        return NOTHING
    if estimate.half_width is None:
        return f"{estimate.mean:.4f} (one seed)"
    return f"{estimate.mean:.4f} ± {estimate.half_width:.4f}"


def _difference(cell: Cell) -> str:
    if cell.is_reference:
        return "reference"
    mean, half_width = (
        (cell.comparison.difference.mean, cell.comparison.difference.half_width) if cell.comparison else (None, None)
    )
    if mean is None:
        return NOTHING
    return f"{signed(mean)} (one pair)" if half_width is None else f"{signed(mean)} ± {half_width:.4f}"


def _p(cell: Cell) -> str:
    if cell.holm_p is None:
        return NOTHING
    return "<0.001" if cell.holm_p < 0.001 else f"{cell.holm_p:.3f}"


def _verdict(cell: Cell) -> str:
    found = verdict(cell)
    if found is None or cell.comparison is None:
        return NOTHING
    if found == "equivalent" and cell.comparison.equivalence is not None:
        return f"equal within {cell.comparison.equivalence.margin:g}"
    return found


def _within(cell: Cell) -> float | None:
    return cell.comparison.equivalence.within if cell.comparison and cell.comparison.equivalence else None


def _difference_order(cell: Cell) -> float | None:
    if cell.is_reference:
        return 0.0
    return cell.comparison.difference.mean if cell.comparison else None


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


def _overhead(cell: Cell) -> str:
    if not cell.tokens_per_s_ratio:
        return NOTHING
    return f"{100 * (1 / cell.tokens_per_s_ratio - 1):+.1f} %".replace("-", "−")


def _multiplier(cost: str, heading: str, what: str) -> DisplayColumn:
    def known(cell: Cell) -> Multiplier | None:
        found = cell.multipliers.get(cost)
        return None if found is None or isinstance(found, str) else found

    def text(cell: Cell) -> str:
        if cell.is_reference and known(cell) is None:
            return NOTHING
        found = known(cell)
        if found is None:
            return NOTHING
        ends = f" [{found.interval[0]:.2f}, {found.interval[1]:.2f}]" if found.interval else ""
        return f"{found.value:.2f}×{ends} at {found.worst:.2f} to {found.best:.2f}"

    return DisplayColumn(
        f"multiplier_{cost}",
        heading,
        f"{what} that {REFERENCE} needs for the same loss, over the scheme's, with its 95 % interval and the losses (nats/token) between which it "
        "holds; above 1 the scheme saves. Over all sizes and budgets of the study.",
        text,
        lambda c: m.value if (m := known(c)) else None,
        why=lambda c: reason if isinstance(reason := c.multipliers.get(cost), str) else "",
    )


def _lr_sensitivity(cell: Cell) -> str:
    found = cell.lr_sensitivity
    return NOTHING if found is None else f"{found.value:.4f} over {found.rates} rates"


COLUMNS: tuple[DisplayColumn, ...] = (
    DisplayColumn(
        "rank",
        "Rank",
        "By mean loss within its comparison group; rows that cannot be told apart share a rank (=).",
        _rank,
        lambda c: c.rank,
        brief=1,
        why=lambda c: c.unranked,
    ),
    _text("label", "Scheme", "Residual scheme, with what the sweep varied in it.", lambda c: c.label, brief=1),
    DisplayColumn(
        "size", "Size", "Named model size.", lambda c: c.group.size, lambda c: min(size_order(c.group.size), 1e30)
    ),
    _text("setting", "Setting", "The sweep's other factors.", lambda c: c.group.setting or NOTHING),
    _text("task", "Task", "What is learned.", lambda c: c.group.task),
    _text(
        "track",
        "Track",
        "Frozen rules that every run of the row kept; open where it fits none.",
        lambda c: c.group.track,
    ),
    _counted("tokens", "Tokens", "Training tokens planned for each run.", lambda c: c.group.tokens),
    DisplayColumn(
        "val_loss",
        "Val. loss",
        "Validation loss: mean over complete runs ± half of its 95 % t interval, nats per token. Lower is better.",
        _loss,
        lambda c: c.val_loss.mean,
        brief=1,
    ),
    DisplayColumn(
        "n", "Seeds", "Complete runs behind the mean.", lambda c: str(c.val_loss.n), lambda c: c.val_loss.n, brief=2
    ),
    DisplayColumn(
        "difference",
        "Δ to resnet",
        "Mean paired difference in loss to resnet over common seeds ± half of its 95 % t interval. Negative is better.",
        _difference,
        _difference_order,
        brief=1,
    ),
    _measured(
        "detectable",
        "Detectable",
        "Smallest true difference that so many pairs with this spread would reveal four times out of five.",
        lambda c: c.comparison.detectable if c.comparison else None,
        4,
        brief=2,
    ),
    DisplayColumn(
        "verdict",
        "Verdict",
        "At the 5 % level, Holm-corrected: better or worse (paired t test), else equal within a margin (two one-sided tests), else undecided.",
        _verdict,
        lambda c: verdict(c) or None,
        numeric=False,
        brief=3,
    ),
    _measured(
        "within",
        "Equal within",
        "Smallest margin, nats per token, at which these pairs would pass the equivalence test (5 % level, uncorrected).",
        _within,
        4,
    ),
    DisplayColumn(
        "holm_p",
        "p (Holm)",
        "Paired t test, corrected over the schemes compared in the group.",
        _p,
        lambda c: c.holm_p,
        brief=4,
    ),
    _measured("bits_per_byte", "Bits/byte", "Validation loss per byte of text.", lambda c: c.bits_per_byte, 3, brief=2),
    _measured(
        "unigram",
        "Unigram",
        "Bits per byte of a model that knows token frequencies only: what learning nothing else gives.",
        lambda c: c.unigram_bits_per_byte,
        3,
    ),
    _measured("accuracy", "Accuracy", "Share of right answers in validation.", lambda c: c.accuracy, 4, brief=2),
    _measured("chance", "Chance", "Accuracy of a guess that does not solve the task.", lambda c: c.chance_accuracy, 4),
    DisplayColumn(
        "diverged",
        "Diverged",
        "Diverged runs of those complete or diverged.",
        _diverged,
        lambda c: c.outcomes.diverged_fraction,
        brief=3,
    ),
    DisplayColumn("missing", "No result", "Planned runs without a result, and why.", _missing, _not_run),
    _text(
        "conformance",
        "Conforms",
        "Checks of `resbench check-scheme` that the scheme passed, of those that apply to it.",
        lambda c: c.conformance or NOTHING,
    ),
    _counted(
        "tokens_per_s", "Tokens/s", "Training throughput, mean over complete runs.", lambda c: c.tokens_per_s, brief=3
    ),
    DisplayColumn(
        "tokens_per_s_ratio",
        "Speed",
        "Throughput relative to resnet on the same hardware.",
        _ratio,
        lambda c: c.tokens_per_s_ratio,
        brief=4,
    ),
    DisplayColumn(
        "overhead",
        "Overhead",
        "Extra time per training token over resnet on the same hardware.",
        _overhead,
        lambda c: 1 / c.tokens_per_s_ratio - 1 if c.tokens_per_s_ratio else None,
    ),
    _measured(
        "peak_gib", "GiB", "Peak memory: allocated on a GPU, resident on a CPU.", lambda c: c.peak_gib, 2, brief=4
    ),
    DisplayColumn(
        "peak_gib_ratio",
        "Memory",
        "Peak memory relative to resnet on the same hardware.",
        lambda c: NOTHING if c.peak_gib_ratio is None else f"{c.peak_gib_ratio:.2f}×",
        lambda c: c.peak_gib_ratio,
    ),
    _counted(
        "gain_forward",
        "Gain →",
        "Forward gain of all mixing matrices multiplied (largest absolute row sum), last measured; 1 is neutral.",
        lambda c: c.gain_forward,
        brief=4,
    ),
    _counted(
        "gain_backward",
        "Gain ←",
        "The same backward (largest absolute column sum).",
        lambda c: c.gain_backward,
        brief=5,
    ),
    _counted("params_total", "Parameters", "All parameters.", lambda c: c.params_total),
    _counted(
        "params_connection",
        "Connection",
        "Parameters of the residual connections alone.",
        lambda c: c.params_connection,
    ),
    _counted(
        "flops_per_token", "FLOPs/token", "Training FLOPs per token, connections included.", lambda c: c.flops_per_token
    ),
    _multiplier("flops", "Compute ×", "Training compute"),
    _multiplier("wall_s", "Wall-clock ×", "Time of all steps, at steady throughput,"),
    _multiplier("peak_gib", "Memory ×", "Peak memory"),
    DisplayColumn(
        "lr_sensitivity",
        "LR sens.",
        "Nats/token that the loss is worse on average over the sweep's grid of learning rates than at the best of them (a diverged run counts "
        "as untrained).",
        _lr_sensitivity,
        lambda c: c.lr_sensitivity.value if c.lr_sensitivity else None,
        why=lambda c: (
            ""
            if c.lr_sensitivity
            else "no grid of learning rates (a factor `lr`); a search tries each scheme at its own"
        ),
    ),
    DisplayColumn(
        "tuning_runs",
        "Tuning",
        "Search trials, pruned ones included, that chose this row's hyper-parameters; 0 where they were given.",
        lambda c: str(c.tuning_runs),
        lambda c: c.tuning_runs,
    ),
    _measured("wall_s", "Time, s", "Wall-clock time of a run.", lambda c: c.wall_s, 1),
    _counted(
        "pairs",
        "Pairs",
        "Seeds that both this scheme and resnet completed.",
        lambda c: c.comparison.difference.n if c.comparison else None,
    ),
    _counted("n_streams", "Streams", "Residual streams.", lambda c: c.n_streams),
    _counted("sinkhorn_iterations", "Sinkhorn", "Sinkhorn iterations.", lambda c: c.sinkhorn_iterations),
    _text("hardware", "Hardware", "What it ran on.", lambda c: one_and_more(c.hardware)),
    _text(
        "kernels",
        "Kernels",
        "What computed the residual connections: triton (the fused kernels) or torch.",
        lambda c: one_and_more(c.kernels),
    ),
    _text(
        "commit",
        "Commit",
        "Commit of the code; * marks uncommitted changes.",
        lambda c: one_and_more(c.commits, 10) + ("*" if c.dirty else ""),
    ),
    _text("config_hash", "Config", "Hash of the resolved configuration.", lambda c: one_and_more(c.config_hashes, 10)),
    _text(
        "verified",
        "Verified",
        "Whether a rerun on another machine found the submitted losses (`resbench leaderboard verify`).",
        lambda c: c.verified or "no",
    ),
)


def shown_columns(cells: Sequence[Cell]) -> list[DisplayColumn]:
    """The columns in which at least one row has something to show."""
    return [column for column in COLUMNS if any(column.text(cell) != NOTHING for cell in cells)]
