"""Whether a stranger's configuration may be run here: only options that a run has, only plugins that are installed, no places, bounded sizes.

A configuration names classes to construct (`class_path`), and that is how one could run code of its choice. So every key is held against what
`resbench fit` knows, a class may stand only where a scheme, a backbone or a task belongs and only if an installed plugin is that class, and a
text may not be a path: data that is in files is given by whoever verifies (``given``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from resbench.architectures.registry import Kind, available
from resbench.tasks.python_source import SYMBOLS

TRAINER = {
    "accelerator": ("auto", "cpu", "gpu", "cuda", "mps"),
    "strategy": ("auto",),
    "devices": (1, "1"),
    "num_nodes": (1,),
    "precision": ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "32", None),
    "callbacks": (None, []),
    "plugins": (None, []),
    "profiler": (None,),
    "gradient_clip_algorithm": (None, "norm", "value"),
    "log_every_n_steps": int,
    "accumulate_grad_batches": int,
    "gradient_clip_val": float,
    "enable_progress_bar": bool,
    "deterministic": bool,
    "benchmark": bool,
    "detect_anomaly": bool,
}
"""Options of the Trainer and what they may be: one of these values, or a number or switch (or null). Whatever else it has is left at its default."""

MODEL = (
    "learning_rate", "weight_decay", "betas", "eps", "warmup_fraction", "decay_fraction", "final_learning_rate_fraction", "loss_bound", "loss",
    "attention", "compile", "compile_mode",
)  # fmt: skip
EVERY = ("validation", "checkpoint", "gain_sequences")
SECTIONS = ("trainer", "model", "data", "budget", "every")

FROM_FILES = ("root", "path", "data_files", "val_data_files", "cache_dir", "config_name", "revision")
"""Arguments of tasks that say where data is."""

LIMITS = {
    "depth": 512, "width": 32768, "ffn_width": 131072, "n_heads": 512, "n_streams": 64, "sinkhorn_iterations": 1000, "context_length": 65536,
    "batch_size": 65536, "val_sequences": 65536, "accumulate_grad_batches": 4096, "n_blocks": 512, "rank": 4096,
}  # fmt: skip
"""Options whose size is memory or time before the first step; any other number is at most `MOST`, but for tokens."""

MOST = 1_000_000

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.:+-]*")


def not_rerunnable(config: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> list[str]:
    """Why a configuration will not be run here, a sentence each; empty if it will be.

    ``given``: what the verifier says of ``data.init_args``, by name; only those may say where data is.
    """
    return list(_problems(config, given or {}))


def _problems(config: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[str]:
    for section in config:
        if section not in SECTIONS:
            yield f"{section}: no part of a run's configuration that a rerun would take"
    for section in SECTIONS:
        if not isinstance(config.get(section), Mapping):
            yield f"{section}: missing"
            return
    yield from _trainer(config["trainer"])
    yield from _model(config["model"])
    yield from _plugin("task", config["data"], "data", given)
    yield from _only(config["budget"], ("tokens",), "budget")
    yield from _only(config["every"], EVERY, "every")
    tokens = config["budget"].get("tokens")
    if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1:
        yield f"budget.tokens: {str(tokens)[:40]!r}, expected a number of tokens"
    for name, value in config["every"].items():
        if not (value is None or (isinstance(value, int) and not isinstance(value, bool))):
            yield f"every.{name}: {str(value)[:40]!r}, expected a number of tokens"


def _trainer(trainer: Mapping[str, Any]) -> Iterator[str]:
    for name, value in trainer.items():
        allowed = TRAINER.get(name)
        if allowed is None:
            yield f"trainer.{name}: not an option that a rerun would take"
        elif isinstance(allowed, tuple):
            if isinstance(value, Mapping) or value not in allowed:
                yield f"trainer.{name}: {str(value)[:60]!r}; a rerun takes {', '.join(map(repr, allowed))}"
        elif value is not None and not isinstance(value, int | float):
            yield f"trainer.{name}: {str(value)[:60]!r}, expected a number or a switch"
        else:
            yield from _size(name, value, f"trainer.{name}")


def _model(model: Mapping[str, Any]) -> Iterator[str]:
    for name, value in model.items():
        if name in ("scheme", "backbone"):
            yield from _plugin("scheme" if name == "scheme" else "backbone", value, f"model.{name}", {})
        elif name not in MODEL:
            yield f"model.{name}: not an option that a rerun would take"
        else:
            yield from _value(name, value, f"model.{name}")
    for name in ("scheme", "backbone"):
        if name not in model:
            yield f"model.{name}: missing"


def _plugin(kind: Kind, value: Any, where: str, given: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(value, Mapping) or not isinstance(value.get("class_path"), str):
        yield f"{where}: no class_path"
        return
    yield from _only(value, ("class_path", "init_args"), where)
    known = {plugin.class_path for plugin in available(kind).values() if plugin.rival is None}
    if value["class_path"] not in known:
        yield f"{where}.class_path: {value['class_path'][:120]!r} is no {kind} that is installed here"
    arguments = value.get("init_args") or {}
    if not isinstance(arguments, Mapping):
        yield f"{where}.init_args: no mapping"
        return
    for name, argument in arguments.items():
        place = f"{where}.init_args.{name}"
        if isinstance(argument, Mapping):
            yield from _plugin(
                "scheme", argument, place, {}
            )  # `wide` is matched to another scheme; nothing else takes a class
        elif kind == "task" and name in FROM_FILES and argument is not None and name not in given:
            if not (name == "root" and _everywhere(argument)):
                yield f"{place}: {str(argument)[:60]!r} is a place of the submitter's; give your copy of the data with --data {name}=PLACE"
        elif kind == "task" and name == "tokenizer" and argument is not None and name not in given:
            if not (argument == "bytes" or re.fullmatch(r"bpe:\d{1,6}", str(argument))):
                yield f"{place}: {str(argument)[:60]!r} is a file of the submitter's; give yours with --data tokenizer=FILE"
        elif name not in given:
            yield from _value(name, argument, place)


def _everywhere(root: Any) -> bool:
    """Whether a root names only folders that every machine has."""
    return all(isinstance(name, str) and name in SYMBOLS for name in (root if isinstance(root, list) else [root]))


def _value(name: str, value: Any, where: str) -> Iterator[str]:
    if isinstance(value, list):
        if len(value) > 64:
            yield f"{where}: {len(value)} values"
        for item in value[:64]:
            yield from _value(name, item, where)
    elif isinstance(value, Mapping):
        yield f"{where}: a mapping, where a value belongs"
    elif isinstance(value, str):
        if not _WORD.fullmatch(value) or ".." in value:
            yield f"{where}: {value[:60]!r} looks like a place or a command, not like a choice"
    else:
        yield from _size(name, value, where)


def _size(name: str, value: Any, where: str) -> Iterator[str]:
    if isinstance(value, int | float) and abs(value) > LIMITS.get(name, MOST):
        yield f"{where}: {value:g} is more than a rerun takes, {LIMITS.get(name, MOST):,}"


def _only(value: Mapping[str, Any], names: tuple[str, ...], where: str) -> Iterator[str]:
    for name in value:
        if name not in names:
            yield f"{where}.{name}: not an option that a rerun would take"
