"""What is known of a run before its first step: counted from the configuration, and written to MLflow."""

import contextlib
import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from resbench.architectures.registry import BrokenPlugin, available, resolve
from resbench.harness import names
from resbench.harness.config import RunCLI
from resbench.harness.provenance import provenance_tags, resume_hash
from resbench.harness.shortnames import short_name
from resbench.harness.store import experiment_id
from resbench.harness.tracking import TrackedRun, flatten
from resbench.tasks.task import inputs_of

if TYPE_CHECKING:
    from mlflow import MlflowClient


ENDINGS = {
    names.TAG_ERROR,
    names.TAG_REASON,
    names.TAG_DIVERGED_AT_TOKENS,
    names.TAG_DIVERGED_IN,
    names.TAG_LAST_GOOD_CHECKPOINT,
}
"""Tags of how a run ended, which no longer hold once it goes on."""


@dataclass(frozen=True)
class Facts:
    """Sizes of a run. ``flops_per_token`` is of training, three times the forward pass."""

    params_total: int
    params_connection: int
    flops_per_token: int
    depth: int | None
    width: int | None
    steps: int
    tokens: int
    tokens_per_step: int


def count(cli: RunCLI) -> Facts:
    """Build the network without memory for its weights and count. Raises ValueError for a network that cannot be built."""
    data: Any = cli.datamodule
    check_inputs(cli)
    trial = copy.copy(cli.model)
    trial._modules = dict(cli.model._modules)  # the copy's network must not become the original's
    with torch.device("meta"):
        try:
            network: Any = trial.build(data.vocab_size, data.context_length)
        except TypeError as error:
            raise ValueError(f"the model cannot be built: {error}") from error
        except ValueError as error:
            raise ValueError(cli.in_its_file(str(error))) from error
    parameters = sum(p.numel() for p in network.parameters())
    return Facts(
        params_total=network.params_total() if hasattr(network, "params_total") else parameters,
        params_connection=network.params_connection() if hasattr(network, "params_connection") else 0,
        flops_per_token=3 * network.flops_per_token() if hasattr(network, "flops_per_token") else 6 * parameters,
        depth=getattr(network, "depth", None),
        width=getattr(network, "width", None),
        steps=cli.steps,
        tokens=cli.steps * cli.tokens_per_step,
        tokens_per_step=cli.tokens_per_step,
    )


def _most_on_a_gpu(*tags: Mapping[str, str]) -> str | None:
    """A run that goes on alone had company before: its speed is that of both parts."""
    shares = [int(some[names.TAG_GPU_SHARE]) for some in tags if names.TAG_GPU_SHARE in some]
    return str(max(shares)) if shares else None


def open_run(
    cli: RunCLI,
    facts: Facts,
    client: "MlflowClient",
    uri: str,
    run_id: str | None,
    checkpoint: Path | None,
    tags: Mapping[str, str],
) -> TrackedRun:
    """Create an MLflow run, or reopen ``run_id``, and write everything that is known before training.

    Raises ValueError when ``run_id`` does not exist or its checkpoint was written with another configuration.
    """
    from mlflow.exceptions import MlflowException

    config = cli.resolved()
    own = run_tags(config)
    if run_id is None:
        name = " ".join(str(own[tag]) for tag in (names.TAG_SCHEME, names.TAG_SIZE) if own.get(tag))
        created = client.create_run(
            experiment_id(client, uri, cli.tracking.experiment),
            tags={
                "mlflow.runName": f"{name}, seed {own[names.TAG_SEED]}",
                "mlflow.source.name": "resbench fit",
                **tags,
            },
        )
        run_id = str(created.info.run_id)
        earlier: dict[str, str] = {}
    else:
        try:
            earlier = dict(client.get_run(run_id).data.tags)
        except MlflowException as error:
            raise ValueError(f"cannot go on with the MLflow run {run_id!r}: {error.message}") from error
        theirs, ours = earlier.get(names.TAG_RESUME_HASH), resume_hash(config)
        if checkpoint is not None and theirs is not None and theirs != ours:
            raise ValueError(
                f"cannot go on from {checkpoint}: it was written with another configuration ({theirs}, this one is {ours}). "
                "Give the configuration of the run (its artifact config.yaml), or start a new run. The number of devices may change if "
                "data.init_args.batch_size x devices stays the same."
            )
        for stale in ENDINGS & earlier.keys():
            client.delete_tag(run_id, stale)
        client.update_run(run_id, status="RUNNING")
    data: Any = cli.datamodule
    run = TrackedRun(client, run_id, Path(cli.output_dir) / run_id / "unsent-metrics.json")
    if earlier:
        run.skip_what_is_logged()
        run.recover()
    run.set_tags(
        {
            **own,
            **provenance_tags(config, device_of(cli)),
            names.TAG_DATA_FINGERPRINT: getattr(data, "fingerprint", None),
            names.TAG_CHECKPOINT_DIR: str((Path(cli.output_dir) / run_id).resolve()),
            names.TAG_OUTCOME: "running",
            "mlflow.note.content": None if "mlflow.note.content" in earlier else description(cli, own, facts),
            **tags,
            names.TAG_GPU_SHARE: _most_on_a_gpu(tags, earlier if checkpoint else {}),
        }
    )
    run.log_params(
        {
            **flatten(config),
            names.PARAMS_TOTAL: facts.params_total,
            names.PARAMS_CONNECTION: facts.params_connection,
            names.PARAMS_BRANCHES: facts.params_total - facts.params_connection,
            names.FLOPS_PER_TOKEN: facts.flops_per_token,
            names.DATA_UNIGRAM_BITS_PER_BYTE: getattr(data, "unigram_bits_per_byte", None),
            **{f"data_{name}": value for name, value in (data.levels() if hasattr(data, "levels") else {}).items()},
            names.DEPTH: facts.depth,
            names.WIDTH: facts.width,
        }
    )
    if hasattr(data, "describe") and hasattr(data, "fingerprint"):
        run.log_dataset(str(own[names.TAG_TASK]), data.fingerprint[:36], data.describe())
    return run


def run_tags(config: Mapping[str, Any]) -> dict[str, str | None]:
    """What the run compares, in words of the registry."""
    model = config["model"]
    scheme, backbone = model["scheme"], model["backbone"]
    arguments = scheme.get("init_args") or {}
    shape = backbone.get("init_args") or {}
    own_shape = any(shape.get(key) is not None for key in ("depth", "width", "n_heads", "ffn_width"))
    return {
        names.TAG_SCHEME: short_name("scheme", scheme["class_path"]),
        names.TAG_SIZE: None if own_shape else shape.get("size"),
        names.TAG_N_STREAMS: _text(arguments.get("n_streams")),
        names.TAG_SINKHORN_ITERATIONS: _text(arguments.get("sinkhorn_iterations")),
        names.TAG_SEED: str(config["seed_everything"]),
        names.TAG_TASK: short_name("task", config["data"]["class_path"]),
    }


def check_inputs(cli: RunCLI) -> None:
    """Raise ValueError when the backbone cannot take what the task gives, naming backbones that can."""
    path = str(cli.config.model.backbone.class_path)
    given, taken = inputs_of(cli.datamodule), inputs_of(resolve("backbone", path))
    if set(given) <= set(taken):
        return
    able = []
    for plugin in available("backbone").values():
        with contextlib.suppress(BrokenPlugin):
            able += [plugin.name] if set(given) <= set(inputs_of(plugin.load())) else []
    raise ValueError(
        f"model.backbone={short_name('backbone', path)}: it takes {' and '.join(taken)}, and the task "
        f"{short_name('task', str(cli.config.data.class_path))} gives {' and '.join(given)}. "
        f"Backbones for this task: {', '.join(able) or 'none is installed'}"
    )


def device_of(cli: RunCLI) -> torch.device:
    """The kind of device the run will be on."""
    on_gpu = cli.config.trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return torch.device("cuda" if on_gpu else "cpu")


def description(cli: RunCLI, tags: Mapping[str, str | None], facts: Facts) -> str:
    """Markdown about the run for people who look at it in MLflow."""
    config = cli.resolved()
    model, trainer = config["model"], config["trainer"]
    size = tags.get(names.TAG_SIZE) or f"{facts.depth} layers of width {facts.width}"
    arguments = model["scheme"].get("init_args") or {}
    scheme = ", ".join(f"{name} {value}" for name, value in arguments.items() if value is not None)
    return "\n".join(
        [
            f"**{tags[names.TAG_SCHEME]}** in {short_name('backbone', cli.config.model.backbone.class_path)} {size}, seed {tags[names.TAG_SEED]}",
            "",
            f"* connections: {scheme or 'no arguments'}",
            f"* parameters: {facts.params_total:,}, {facts.params_connection:,} of them in the connections",
            f"* data: {facts.tokens:,} tokens of {tags[names.TAG_TASK]} in {facts.steps:,} steps of {facts.tokens_per_step:,}",
            f"* training: AdamW, peak learning rate {model['learning_rate']:g}, weight decay {model['weight_decay']:g}, gradients clipped to "
            f"{trainer['gradient_clip_val'] or 'nothing'}, {trainer['precision']}",
            f"* training FLOPs per token: {facts.flops_per_token:,}, connections included",
            "",
            f"The step of every metric is the number of training tokens seen. `{names.CONFIG_ARTIFACT}` among the artifacts repeats the run: "
            f"`resbench fit --config {names.CONFIG_ARTIFACT}`.",
        ]
    )


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
