"""One submitted run, again: in a process of its own that is ended when its time is over, in a folder that is gone afterwards."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import yaml

from resbench.harness import names

MOST_BYTES = 2**16
"""Of what a rerun says at its end."""


@dataclass(frozen=True)
class Rerun:
    """What became of it. `facts` are `resbench fit`'s counts of the model (see `describe`); empty if it was not built.

    `outcome` is a run's outcome, or `refused` (the configuration, or too dear), `failed`, `timeout`; `reason` says why in those cases.
    """

    outcome: str
    reason: str = ""
    val_loss: float | None = None
    data_fingerprint: str = ""
    facts: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Order:
    """What to run: a configuration that `not_rerunnable` has nothing against, its seed, and what the verifier decides.

    max_flops: training FLOPs that one run may take, by our own count of its model.
    """

    config: Mapping[str, Any]
    seed: int
    device: str
    max_flops: float
    threads: int


Runner = Callable[[Order, float], Rerun]
"""Runs an order within so many seconds."""


def in_a_process(order: Order, timeout_s: float) -> Rerun:
    """Run it in a fresh process, which is killed after ``timeout_s`` seconds, with everything it started."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(order, theirs), name="resbench-verify")
    process.start()
    theirs.close()
    try:
        if not ours.poll(timeout_s):
            return Rerun("timeout", f"not done after {timeout_s:g} s")
        found = Rerun(
            **json.loads(ours.recv_bytes(MOST_BYTES))
        )  # plain data: what ran a stranger's configuration is not unpickled
        process.join(timeout=5)
        return found
    except EOFError:
        process.join()
        return Rerun("failed", f"its process ended with code {process.exitcode} and said nothing")
    finally:
        ours.close()
        if process.is_alive() and process.pid is not None:
            with suppress(ProcessLookupError):  # it has no group of its own until it has begun
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
        process.join()


def _child(order: Order, connection: Connection) -> None:
    os.setsid()  # so that a data loader's workers end with it
    out = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(out, stream)
    connection.send_bytes(json.dumps(asdict(here(order))).encode())
    connection.close()
    sys.stdout.flush()


def here(order: Order, timeout_s: float = 0.0) -> Rerun:
    """Run it in this process; ``timeout_s`` is not kept."""
    import torch

    from resbench.harness.fit import describe, fit
    from resbench.harness.store import open_store

    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="resbench-verify-") as folder:
        path = Path(folder, "config.yaml")
        path.write_text(yaml.safe_dump(_here(order, folder), sort_keys=False), encoding="utf-8")
        argv = ["--config", str(path)]
        facts: Mapping[str, int] | None = None
        try:
            facts = describe(argv)
            flops = facts["flops_per_token"] * facts["tokens"]
            if flops > order.max_flops:
                return Rerun(
                    "refused", f"{flops:.2e} training FLOPs, more than the {order.max_flops:.2e} allowed", facts=facts
                )
            torch.set_num_threads(order.threads)
            result = fit(argv)
            tags = open_store(result.tracking_uri).get_run(result.run_id).data.tags
        except Exception as error:  # whatever a plugin raises: the sample goes on
            return Rerun("failed", f"{type(error).__name__}: {str(error)[:300]}", facts=facts)
        finally:
            torch.set_num_threads(threads)
    return Rerun(
        result.outcome, result.reason, result.val_loss, str(tags.get(names.TAG_DATA_FINGERPRINT, "")), facts=facts
    )


def _here(order: Order, folder: str) -> dict[str, Any]:
    """The configuration with everything that is not the run's: where it writes, how it is shown, what it keeps."""
    config: dict[str, Any] = copy.deepcopy(dict(order.config))
    config["seed_everything"] = order.seed
    config["output_dir"] = folder
    config["tracking"] = {"uri": f"sqlite:///{folder}/mlflow.db", "weights": False}
    config["every"]["checkpoint"] = 0
    config["trainer"] |= {"accelerator": order.device, "enable_progress_bar": False}
    return config


def machine(device: str) -> dict[str, Any]:
    """What reruns on this machine ran on, in the words of a run's tags."""
    import torch

    from resbench.harness.provenance import code_state, hardware, installed

    on_gpu = device != "cpu" and torch.cuda.is_available()
    commit, dirty = code_state()
    return {
        "hardware": hardware(torch.device("cuda" if on_gpu else "cpu")),
        "torch": torch.__version__,
        "triton": installed("triton"),
        "resbench_version": installed("resbench"),
        "commit": commit,
        "dirty": dirty,
    }
