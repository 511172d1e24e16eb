"""Stand-ins for training in tests of the sweep itself: they write real MLflow runs and take milliseconds.

`train` has the signature of `resbench.harness.fit.fit`. Its loss is a function of the configuration and the seed alone, and it goes on from a
checkpoint file, as training does. `describe` stands for `resbench.harness.fit.describe`.

Run as a script, ``python sweep_stand_ins.py FILE OUTPUT_DIR`` is `resbench sweep run` with these in place of training, and with ``--storage URL`` it
is `resbench sweep worker`. Its processes are spared the libraries of training.
"""

import argparse
import json
import math
import os
import signal
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import util
from pathlib import Path
from typing import Any

import psutil
import yaml

from resbench.harness.processes import end_quickly, importing

SWEEP = """
name: stand-in
base:
  model: {{learning_rate: 0.01{model}}}
  budget: {{tokens: 400}}
factors:
  scheme: [resnet, hc, mhc]
  scheme.n_streams: [2, 4]
seeds: [0, 1]
{more}
"""

FIELDS: dict[str, set[str]] = {"resnet": set(), "hc": {"n_streams"}, "mhc": {"n_streams", "sinkhorn_iterations"}}
VALIDATIONS = 4
STORE = ("mlflow.store.tracking.sqlalchemy_store", "sqlalchemy.dialects.sqlite")


@dataclass(frozen=True)
class Result:
    outcome: str
    val_loss: float | None
    tokens: int


def describe(argv: list[str]) -> dict[str, int]:
    config = yaml.safe_load(Path(argv[1]).read_text())
    scheme = config["model"].get("scheme", {}).get("class_path", "resnet")
    if scheme not in FIELDS:
        raise ValueError(f"unknown scheme {scheme!r}. Known: {', '.join(FIELDS)}")
    tokens = config["budget"]["tokens"]
    connection = 0 if scheme == "resnet" else 10
    return {
        "params_total": 100 + connection,
        "params_connection": connection,
        "flops_per_token": 600,
        "tokens": tokens,
        "steps": tokens // 10,
    }


def train(
    argv: list[str],
    *,
    tags: dict[str, str] | None = None,
    run_id: str | None = None,
    on_validation: Callable[[int, float], None] | None = None,
) -> Result:
    from mlflow import MlflowClient

    from resbench.harness import names
    from resbench.harness.callbacks.context import Pruned

    config = yaml.safe_load(Path(argv[1]).read_text())
    client = MlflowClient(config["tracking"]["uri"])
    assert run_id is not None
    checkpoint = Path(config["output_dir"], run_id, "tokens")
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    done = int(checkpoint.read_text()) if checkpoint.exists() else 0
    model = config["model"]
    _misbehave(model.get("stand_in", {}), checkpoint)
    budget = config["budget"]["tokens"]
    final = final_loss(config)
    notes = Path(config["output_dir"], "gpus.txt") if "notes_gpus" in model.get("stand_in", {}) else None
    _note_gpu(notes, +1)
    if notes:
        for name, value in (tags or {}).items():
            client.set_tag(run_id, name, value)

    def loss_at(tokens: int) -> float:
        return final * (1 + 1 / tokens) - final / budget

    try:
        for tokens in range(budget // VALIDATIONS, budget + 1, budget // VALIDATIONS):
            if tokens <= done:
                continue
            time.sleep(model.get("stand_in", {}).get("seconds", 0.0) / VALIDATIONS)
            loss = loss_at(tokens)
            client.log_metric(run_id, names.VAL_LOSS, loss, step=tokens)
            client.log_metric(run_id, names.PROGRESS_TOKENS, tokens, step=tokens)
            replacement = checkpoint.with_suffix(".new")
            replacement.write_text(str(tokens))
            replacement.rename(checkpoint)
            if on_validation:
                on_validation(tokens, loss)
    except Pruned:
        return _end(client, run_id, "pruned", loss, tokens)
    if "peak_gib" in model.get("stand_in", {}):
        client.log_metric(run_id, names.PEAK_GIB, model["stand_in"]["peak_gib"] * final, step=budget)
    _note_gpu(notes, -1)
    diverged = not math.isfinite(final)
    return _end(client, run_id, "diverged" if diverged else "complete", None if diverged else loss_at(budget), budget)


def train_briefly(
    argv: list[str],
    *,
    tags: dict[str, str] | None = None,
    run_id: str | None = None,
    on_validation: Callable[[int, float], None] | None = None,
) -> Result:
    """The same in a hurry: one validation, one request for its metrics. It notes, in ``overlap``, if another process trains the same run."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, RunTag

    from resbench.harness import names
    from resbench.harness.store import brief_requests

    assert run_id is not None
    config = yaml.safe_load(Path(argv[1]).read_text())
    wish = config["model"].get("stand_in", {})
    tokens, loss = config["budget"]["tokens"], final_loss(config)
    folder = Path(config["output_dir"], run_id)
    folder.mkdir(exist_ok=True)
    with (folder / "trains").open("a+") as trains:
        trains.seek(0)
        if any(alive(int(pid)) for pid in trains.read().split()):
            (folder / "overlap").touch()
        trains.write(f"{os.getpid()}\n")
    time.sleep(wish.get("seconds", 0.0))
    (folder / "weights").write_bytes(bytes(wish.get("weights", 0)))
    with brief_requests():
        client = MlflowClient(config["tracking"]["uri"])
        if on_validation:
            on_validation(tokens, loss)
        metrics = [Metric(names.VAL_LOSS, loss, 0, tokens), Metric(names.PROGRESS_TOKENS, tokens, 0, tokens)]
        client.log_batch(run_id, metrics=metrics, tags=[RunTag(names.TAG_OUTCOME, "complete")])
        client.set_terminated(run_id, "FINISHED")
    (folder / "trains").unlink()
    return Result("complete", loss, tokens)


def train_or_compile(argv: list[str], *, run_id: str | None = None, **arguments: Any) -> Result:
    """`train` for a trial. A run without an MLflow run of its own is one that compiles: it is noted, as trials are, in `model.stand_in.notes`."""
    config = yaml.safe_load(Path(argv[1]).read_text())
    wish = config["model"]["stand_in"]
    notes = Path(wish["notes"])
    earlier = notes.read_text() if notes.exists() else ""
    scheme = json.dumps(config["model"]["scheme"])
    note = {"kind": "trial" if run_id else "ahead", "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), "config": config}
    with notes.open("a") as file:
        file.write(json.dumps(note) + "\n")
    if run_id is not None:
        return train(argv, run_id=run_id, **arguments)
    (Path(config["output_dir"]) / "mlflow.db").touch()
    arguments["on_validation"](config["budget"]["tokens"], 1.0)
    match wish.get("compiling"):
        case "raises":
            raise RuntimeError("the network is not one graph\nand more")
        case "hangs":
            time.sleep(600)
        case "oom" if scheme not in earlier:
            return Result("oom", None, 0)
    return Result("complete", 1.0, config["budget"]["tokens"])


def losses(found: list[Any]) -> dict[str, float]:
    """Loss by planned run, of MLflow runs of which there must be one for each, ended well."""
    by_key = {run.data.tags["trial_key"]: run.data.metrics["val/loss"] for run in found}
    assert len(by_key) == len(found)
    assert {(run.info.status, run.data.tags["outcome"]) for run in found} == {("FINISHED", "complete")}
    return by_key


def alive(pid: int) -> bool:
    """Whether a process still does anything; an orphan stays a zombie for good where process 1 does not collect its children."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def fit_and_measure_start(argv: list[str], *, on_validation: Any, **arguments: Any) -> Any:
    """Real training that notes, in ``start.json`` beside the run, what it had cost until its first validation."""
    from resbench.harness.fit import fit

    before = set(sys.modules)
    output = Path(yaml.safe_load(Path(argv[1]).read_text())["output_dir"])

    def first_validation(tokens: int, loss: float) -> None:
        start = {"cpu_s": time.process_time(), "imported": sorted(set(sys.modules) - before)}
        (output / f"start-{os.getpid()}.json").write_text(json.dumps(start))
        on_validation(tokens, loss)

    return fit(argv, on_validation=first_validation, **arguments)


def final_loss(config: dict[str, Any]) -> float:
    model = config["model"]
    if model.get("stand_in", {}).get("diverges"):
        return math.inf
    noise = zlib.crc32(repr((model["scheme"], config["seed_everything"])).encode()) / 2**32
    return abs(math.log10(model["learning_rate"]) + 2) + 1 + noise / 100


def _note_gpu(notes: Path | None, change: int) -> None:
    if notes is not None:
        with notes.open("a") as file:
            file.write(f"{time.time()} {change} {os.environ.get('CUDA_VISIBLE_DEVICES')}\n")


def _misbehave(wish: dict[str, Any], checkpoint: Path) -> None:
    first_time = not checkpoint.exists()
    if wish.get("raises") == "always" or (
        wish.get("raises") == "once" and not checkpoint.with_suffix(".raised").exists()
    ):
        checkpoint.with_suffix(".raised").touch()
        raise RuntimeError("no more chalk")
    if wish.get("dies") == "always" or (wish.get("dies") == "once" and not checkpoint.with_suffix(".died").exists()):
        checkpoint.with_suffix(".died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if wish.get("hangs") and first_time:
        time.sleep(600)


def _end(client: Any, run_id: str, outcome: str, loss: float | None, tokens: int) -> Result:
    from resbench.harness import names

    client.set_tag(run_id, names.TAG_OUTCOME, outcome)
    client.set_terminated(run_id, "KILLED" if outcome == "pruned" else "FINISHED")
    return Result(outcome, loss, tokens)


def run(
    file: Path,
    output_dir: Path,
    *,
    workers: int = 2,
    target: str = "sweep_stand_ins:train",
    real: bool = False,
    machine: Any = None,
    **more: bool,
) -> Any:
    """`resbench sweep run` with the stand-ins; the summary. ``real`` plans with real models."""
    from resbench.sweeps import pool
    from resbench.sweeps.lock import sweep_lock
    from resbench.sweeps.machine import Machine
    from resbench.sweeps.plan import make_plan
    from resbench.sweeps.session import run_plan
    from resbench.sweeps.spec import load_spec

    spec = load_spec(file)
    folder = output_dir / "sweeps" / spec.name
    with sweep_lock(folder):
        pool.warm_up(1)
        return run_plan(
            make_plan(spec) if real else make_plan(spec, describe, FIELDS.__getitem__),
            file_text=file.read_text(),
            folder=folder,
            output_dir=output_dir,
            tracking_uri=f"sqlite:///{output_dir / 'mlflow.db'}",
            machine=machine or Machine(workers, 1),
            target=target,
            **more,
        )


def work(
    file: Path,
    output_dir: Path,
    storage: str,
    *,
    tracking_uri: str | None = None,
    workers: int = 1,
    target: str = "sweep_stand_ins:train",
    **more: bool,
) -> Any:
    """`resbench sweep worker` with the stand-ins, dead after five silent seconds; the summary."""
    from resbench.sweeps import pool
    from resbench.sweeps.machine import Machine
    from resbench.sweeps.plan import make_plan
    from resbench.sweeps.spec import load_spec
    from resbench.sweeps.worker import work as work_on

    spec = load_spec(file)
    folder = output_dir / "sweeps" / spec.name
    folder.mkdir(parents=True, exist_ok=True)
    pool.warm_up(1)
    return work_on(
        make_plan(spec, describe, FIELDS.__getitem__),
        storage=storage,
        tracking_uri=tracking_uri or f"sqlite:///{output_dir / 'mlflow.db'}",
        file_text=file.read_text(),
        folder=folder,
        output_dir=output_dir,
        machine=Machine(workers, 1),
        heartbeat_s=1,
        grace_s=5,
        target=target,
        **more,
    )


def fork_the_fork_server() -> None:
    """The fork server of this process is a fork of it, with everything imported already, and not a new interpreter: half the time of a start.

    It keeps the files that it was to be given and no others: that its sweep is gone it sees by the end of a pipe.
    """
    spawn = util.spawnv_passfds

    def fork(path: bytes, arguments: list[str], keep: list[int]) -> int:
        code = arguments[-1]
        if "forkserver" not in code:
            return int(spawn(path, arguments, keep))
        if pid := os.fork():
            return pid
        try:
            last = 2
            for file in [*sorted(keep), os.sysconf("SC_OPEN_MAX")]:
                os.closerange(last + 1, file)
                last = file
            exec(code, {})
        finally:
            os._exit(0)

    util.spawnv_passfds = fork


def main() -> int:
    from resbench.sweeps import pool

    sys.path.append(str(Path(__file__).parents[1]))
    pool.PRELOADED = ()
    with importing(for_good=True):
        for name in (*STORE, "known_schema", "resbench.sweeps.trial", "resbench.sweeps.worker"):  # and all they need
            import_module(name)
    fork_the_fork_server()
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--storage")
    parser.add_argument("--tracking-uri")
    parser.add_argument("--target", default="sweep_stand_ins:train")
    options = parser.parse_args()
    if options.storage is None:
        summary = run(options.file, options.output_dir, target=options.target)
    else:
        where = options.file, options.output_dir, options.storage
        summary = work(*where, tracking_uri=options.tracking_uri, target=options.target)
    return 2 if summary.unfit else 130 if summary.interrupted else int(not summary.complete)


if __name__ == "__main__":
    sys.exit(end_quickly(main))
