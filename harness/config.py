"""The configuration of one run: what `resbench fit` accepts, from YAML files and the command line, through LightningCLI."""

import contextlib
import copy
import functools
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ActionYesNo, ArgumentError, Namespace
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from resbench.architectures.registry import BrokenPlugin
from resbench.harness import sharding
from resbench.harness.config_errors import Source, explain, in_its_file, raised_by_constructor, where_given
from resbench.harness.gpus import inventory
from resbench.harness.module import LanguageModel
from resbench.harness.shortnames import SLOTS, class_path, replace_in_argv, replace_in_tree
from resbench.tasks.task import tokens_per_example


@dataclass(frozen=True)
class Budget:
    """How much is trained.

    Parameters
    ----------
    tokens: training tokens of the run, rounded up to whole optimizer steps; for a vision task an image counts as one.
    """

    tokens: int = 1_000_000

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ValueError(f"budget.tokens={self.tokens}: expected at least 1")


@dataclass(frozen=True)
class Every:
    """How often things happen, in training tokens, rounded to whole steps.

    Parameters
    ----------
    validation: tokens between validations; null for ten in a run. The last step is always validated.
    checkpoint: tokens between checkpoints; null for ten in a run, 0 for none. The last step is always saved unless it is 0.
    gain_sequences: validation sequences on which each validation measures gains; 0 turns the measurement off.
    """

    validation: int | None = None
    checkpoint: int | None = None
    gain_sequences: int = 2

    def __post_init__(self) -> None:
        if self.validation is not None and self.validation < 1:
            raise ValueError(f"every.validation={self.validation}: expected at least 1 token, or null")
        if self.checkpoint is not None and self.checkpoint < 0:
            raise ValueError(f"every.checkpoint={self.checkpoint}: expected at least 0 tokens, or null")
        if self.gain_sequences < 0:
            raise ValueError(f"every.gain_sequences={self.gain_sequences}: expected at least 0")


@dataclass(frozen=True)
class Tracking:
    """Where the run is logged.

    Parameters
    ----------
    uri: MLflow tracking URI; null means MLFLOW_TRACKING_URI, or a SQLite database in the output directory.
    experiment: name of the MLflow experiment.
    weights: log the weights of a complete run as an MLflow model, which anyone with access to the store can load; 4 bytes a parameter.
    """

    uri: str | None = None
    experiment: str = "resbench"
    weights: bool = True


DECIDED_BY_US: dict[str, str] = {
    "logger": "runs are logged to MLflow: see tracking.uri",
    "max_steps": "set budget.tokens",
    "min_steps": "set budget.tokens",
    "max_epochs": "set budget.tokens",
    "min_epochs": "set budget.tokens",
    "max_time": "set budget.tokens",
    "val_check_interval": "set every.validation, in tokens",
    "check_val_every_n_epoch": "set every.validation, in tokens",
    "limit_train_batches": "set budget.tokens",
    "limit_val_batches": "set data.init_args.val_sequences",
    "limit_test_batches": "there is no test set",
    "limit_predict_batches": "there is nothing to predict",
    "overfit_batches": "set budget.tokens",
    "fast_dev_run": "set a small budget.tokens",
    "barebones": "use `resbench kernels bench` to measure without logging",
    "num_sanity_val_steps": "the untrained model is validated in full",
    "enable_checkpointing": "set every.checkpoint to 0",
    "enable_model_summary": "parameter counts are in the run's params",
    "default_root_dir": "set output_dir",
    "use_distributed_sampler": "tasks shard their own data",
    "reload_dataloaders_every_n_epochs": "training has no epochs",
    "sync_batchnorm": "each process normalises over its own images",
    "inference_mode": "validation always runs without gradients",
    "model_registry": "runs keep their checkpoints in output_dir",
    "enable_autolog_hparams": "parameters are always logged",
}
"""Arguments of Lightning's Trainer that a run derives, with what to set in their place."""


STRATEGIES = {"auto": "ddp for several devices", "ddp": "whole weights everywhere", "fsdp2": "sharded weights"}
GROUPED = ("ddp", "fsdp2")
"""Strategies that form a process group even for one process."""

SEED_OF_DATA = "data.init_args.seed"


class RunParser(LightningArgumentParser):
    """Reads configuration files with registry names in them and remembers which files it read."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sources: list[Source] = []

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Namespace:
        """A configuration file, registry names and all. Raises ValueError that names the file."""
        tree = read_yaml(str(path))
        self.sources.append(Source(str(path), tree))
        try:
            text = yaml.safe_dump(replace_in_tree(tree))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return self.parse_string(text, str(path), *args, **kwargs)


def read_yaml(path: str) -> dict[str, Any]:
    """The mapping in a YAML file. Raises FileNotFoundError, or ValueError for what is no YAML mapping."""
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid YAML: {error}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: expected a mapping such as `model: ...`, found {type(tree).__name__}")
    return tree


class RunCLI(LightningCLI):
    """LightningCLI for one run; parses and builds model and data when constructed, the Trainer when asked.

    Attributes: ``config`` as resolved, ``model``, ``datamodule``, ``budget``, ``every``, ``tracking``, ``output_dir``, ``resume``, ``profile``.
    """

    parser: RunParser
    model: LanguageModel
    budget: Budget
    every: Every
    tracking: Tracking

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--seed_everything",
            type=int,
            default=0,
            help="Seed of initial weights, data order and everything else random.",
        )

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        skip: set[str | int] = set(DECIDED_BY_US)
        parser.add_class_arguments(
            Trainer, "trainer", fail_untyped=False, instantiate=False, sub_configs=True, skip=skip
        )
        parser.add_lightning_class_args(LanguageModel, "model")
        parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(Budget, "budget")
        parser.add_class_arguments(Every, "every")
        parser.add_class_arguments(Tracking, "tracking")
        parser.add_argument(
            "--output_dir", type=str, default="runs", help="Where checkpoints and the default MLflow database go."
        )
        parser.add_argument(
            "--resume",
            type=str | None,
            default=None,
            help="Id of an MLflow run to go on with, from its last checkpoint; `auto` finds the newest unfinished run of the same "
            "configuration, seed and output directory, and starts a new one if there is none.",
        )
        sharding.register()
        parser.add_argument(
            "--profile",
            action=ActionYesNo(no_prefix="no_"),
            nargs="?",
            default=False,
            help="Profile a few steps: a trace, and time by family of kernels.",
        )
        parser.link_arguments("seed_everything", SEED_OF_DATA)
        parser.set_defaults(
            {
                "model.scheme": {"class_path": class_path("scheme", "resnet")},
                "model.backbone": {"class_path": class_path("backbone", "transformer")},
                "data": {"class_path": class_path("task", "python-source")},
                "trainer.devices": 1,
                "trainer.gradient_clip_val": 1.0,
                "trainer.log_every_n_steps": 10,
            }
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        assert isinstance(parser, RunParser)
        assert isinstance(args, list)
        self._argv: list[str] = args
        chosen: dict[str, str] = {}
        argv = replace_in_argv(args, lambda path: read_yaml(path) if os.path.isfile(path) else None, chosen)
        # jsonargparse would keep what the default class and the chosen one have in common: a transformer's size, a text task's batch size.
        for slot, name in chosen.items():
            with contextlib.suppress(ValueError, BrokenPlugin):  # the parser is to say what is wrong with it
                parser.set_defaults({slot: {"class_path": class_path(SLOTS[slot], name)}})
        try:
            self.config = parser.parse_args(argv)
        except ArgumentError as error:
            decided = {f"trainer.{name}": instead for name, instead in DECIDED_BY_US.items()}
            raise ValueError(explain(str(error), parser, parser.sources, argv, decided)) from error
        if (place := where_given(SEED_OF_DATA, parser.sources, args)) is not None:
            raise ValueError(f"{place}{SEED_OF_DATA} cannot be set: it follows seed_everything")
        strategy = self.config.trainer.strategy
        if isinstance(strategy, str) and strategy not in STRATEGIES:
            known = ", ".join(f"{name} ({what})" for name, what in STRATEGIES.items())
            raise ValueError(f"trainer.strategy={strategy!r}: expected one of {known}")
        accumulated = self.config.trainer.accumulate_grad_batches or 1
        if self.config.model.compile_mode == "reduce-overhead" and accumulated != 1:
            # A replayed graph writes the gradients of one micro-batch where those of the last one are.
            raise ValueError(
                f"model.compile_mode=reduce-overhead cannot be used with trainer.accumulate_grad_batches={accumulated}: "
                "expected model.compile_mode=default, or trainer.accumulate_grad_batches=1 with a larger data.batch_size"
            )
        self.config.trainer.precision = self.config.trainer.precision or default_precision(
            self.config.trainer.accelerator
        )

    def instantiate_classes(self) -> None:
        try:
            config = self.parser.instantiate(self.config)
        except ValueError as error:
            raise ValueError(self.in_its_file(raised_by_constructor(str(error)))) from error
        self.config_init = config
        self.model, self.datamodule = config.model, config.data
        self.budget, self.every, self.tracking = config.budget, config.every, config.tracking
        self.output_dir: str = config.output_dir
        self.resume: str | None = config.resume
        self.profile: bool = config.profile

    def in_its_file(self, message: str) -> str:
        """What a constructor said about ``FIELD=VALUE``, with the file and the whole key that gave it."""
        return in_its_file(message, self.parser.sources, self._argv)

    def resolved(self) -> dict[str, Any]:
        """The whole configuration in plain values, every default filled in; `resbench fit --config` accepts it again."""
        tree: dict[str, Any] = copy.deepcopy(self._resolved)
        return tree

    def dump(self) -> str:
        """`resolved` as YAML."""
        return self.parser.dump(self.config, skip_unset=False)

    @functools.cached_property
    def _resolved(self) -> Any:
        """Made once: a run asks half a dozen times, and `config` stays as it was parsed."""
        return yaml.safe_load(self.dump())

    @property
    def vocab_size(self) -> int:
        """Of the task; token ids are below it."""
        data: Any = self.datamodule
        return int(data.vocab_size)

    @property
    def tokens_per_step(self) -> int:
        """Training tokens of one optimizer step, over all processes."""
        data: Any = self.datamodule
        trainer = self.config.trainer
        sequences = data.batch_size * (trainer.accumulate_grad_batches or 1) * world_size(trainer)
        return int(sequences * tokens_per_example(data))

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return math.ceil(self.budget.tokens / self.tokens_per_step)


def parse(argv: list[str]) -> RunCLI:
    """Configuration, model and data module of a run, from command-line arguments.

    Raises ValueError for what is wrong with them, naming key and file; BrokenPlugin; OSError for a file that cannot be read. ``--help`` and
    ``--print_config`` print and raise SystemExit(0).
    """
    return RunCLI(
        LanguageModel,
        LightningDataModule,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        save_config_callback=None,
        parser_class=RunParser,
        parser_kwargs={
            "exit_on_error": False,
            "prog": "resbench fit",
            "description": "Train one model.",
            "allow_abbrev": False,
        },
        args=argv,
        run=False,
    )


def default_precision(accelerator: str | None) -> str:
    """bf16 autocast over float32 weights where the hardware has it, float32 elsewhere."""
    if accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return "32-true"
    # torch.cuda.is_bf16_supported() initialises CUDA, and this is asked by processes that others are forked from.
    found = inventory()
    able = found[0].capability >= (8, 0) if found else torch.cuda.is_bf16_supported()
    return "bf16-mixed" if able else "32-true"


def world_size(trainer: Mapping[str, Any] | Namespace) -> int:
    """How many processes the Trainer's arguments ask for."""
    devices = trainer["devices"]
    if isinstance(devices, str) and "," in devices:
        count = len([part for part in devices.split(",") if part.strip()])
    elif isinstance(devices, list):
        count = len(devices)
    elif devices in ("auto", -1, "-1"):
        count = max(1, torch.cuda.device_count())
    else:
        count = int(devices)
    return count * int(trainer["num_nodes"] or 1)
