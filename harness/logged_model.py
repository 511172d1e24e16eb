"""The trained network as an MLflow model: its weights, the configuration that builds it, and what it scored.

Files: ``config.yaml``, which `resbench fit --config` accepts, and ``weights.pt``, the network's state dict in float32, which `torch.load` reads with
``weights_only=True``: no code is in it. `load` puts the two together again.
"""

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from resbench.harness import names
from resbench.harness.config import RunCLI, parse
from resbench.harness.tracking import TrackedRun, flatten, text

log = logging.getLogger(__name__)

CONFIG, WEIGHTS = "config.yaml", "weights.pt"


def log_model(run: TrackedRun, cli: RunCLI, tags: Mapping[str, str | None], tokens: int) -> None:
    """Log the network of a run as a model that MLflow links to it. A store that refuses it leaves a warning: the checkpoints are there.

    Weights that are spread over processes are left out; they stay in the run's checkpoints.
    """
    network = cli.model.network
    assert network is not None
    state = network.state_dict()
    whole = not any(isinstance(value, DTensor) for value in state.values())
    try:
        with tempfile.TemporaryDirectory(prefix="resbench-model-") as folder:
            (Path(folder) / CONFIG).write_text(cli.dump(), encoding="utf-8")
            if whole:
                torch.save({name: value.cpu() for name, value in state.items()}, Path(folder) / WEIGHTS)
            _register(run, folder, cli, tags, tokens)
    except Exception as error:  # whatever the store's trouble is, the run is complete
        log.warning(
            "MLflow does not take the model (%s); its weights are in the checkpoints", str(error).splitlines()[:1]
        )


def _register(run: TrackedRun, folder: str, cli: RunCLI, tags: Mapping[str, str | None], tokens: int) -> None:
    from mlflow.entities import LoggedModelOutput, Metric

    client = run.client
    experiment_id = client.get_run(run.run_id).info.experiment_id
    words = [str(tags[tag]) for tag in (names.TAG_SCHEME, names.TAG_SIZE) if tags.get(tag)]
    config = flatten({"model": cli.resolved()["model"]})
    model = client.create_logged_model(
        experiment_id,
        name="-".join([*words, f"seed{tags[names.TAG_SEED]}"]),
        source_run_id=run.run_id,
        tags={name: str(value) for name, value in tags.items() if value is not None},
        params={name: text(value) for name, value in config.items() if value is not None},
        model_type="resbench",
    )
    client.log_model_artifacts(model.model_id, folder)
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run.run_id, [LoggedModelOutput(model.model_id, step=tokens)])
    run.flush()
    points = []
    for name in (names.VAL_LOSS, names.VAL_BITS_PER_BYTE):
        if history := client.get_metric_history(run.run_id, name):
            last = max(history, key=lambda point: point.step)
            # The very point the run has: another time would make it a second one of the run.
            points.append(
                Metric(name, last.value, last.timestamp, last.step, model_id=model.model_id, run_id=run.run_id)
            )
    client.log_batch(run.run_id, metrics=points)


def load(folder: str | Path) -> nn.Module:
    """The network in a folder that was downloaded from MLflow, in evaluation mode on the CPU.

    Raises FileNotFoundError where ``config.yaml`` or ``weights.pt`` is missing, ValueError for a configuration of another version.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: not there; expected a folder with {CONFIG} and {WEIGHTS}")
    cli = parse([f"--config={folder / CONFIG}"])
    data: Any = cli.datamodule
    network = cli.model.build(data.vocab_size, data.context_length)
    network.load_state_dict(torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True))
    return network.eval()
