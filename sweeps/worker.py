"""`resbench sweep worker`: one of any number of identical processes that run a sweep together, over one database and one MLflow store."""

import os
import socket
import uuid
from pathlib import Path

from rich.console import Console

from resbench.harness.store import experiment_id, open_store
from resbench.sweeps.changes import compare, refusal
from resbench.sweeps.estimate import throughput
from resbench.sweeps.plan import Plan
from resbench.sweeps.queue import HEARTBEAT_S, open_shared, opening, storage_url
from resbench.sweeps.run import FIT, Machine, Runner, Summary
from resbench.sweeps.shared import SharedAgenda, SharedLedger


def work(
    plan: Plan,
    *,
    storage: str,
    tracking_uri: str,
    file_text: str,
    folder: Path,
    output_dir: Path,
    machine: Machine,
    extend: bool = False,
    heartbeat_s: int = HEARTBEAT_S,
    grace_s: int | None = None,
    console: Console | None = None,
    target: str = FIT,
) -> Summary:
    """Run what is left of a sweep, together with whoever else does; returns when nothing is left for anyone, or `sweep stop` was said.

    output_dir: for checkpoints. Where all machines see the same folder, a run whose worker died goes on from its last checkpoint on another
    machine; otherwise it begins again.

    Raises ValueError if the sweep was started with other settings (and ``extend`` does not cover them) or was asked to stop, ConnectionError if a
    server does not answer.
    """
    console = console or Console()
    name = plan.spec.name
    url = storage_url(storage)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    client = open_store(tracking_uri)
    with opening(url, name):
        shared = open_shared(url, heartbeat_s, grace_s)
        ledger = SharedLedger(client, experiment_id(client, tracking_uri, name), name)
        ledger.load()
        started = ledger.started_with()
        if started is not None:
            changes = compare(started, plan.record())
            if refused := refusal(name, changes, extend):
                raise ValueError(refused)
        agenda = SharedAgenda(plan, ledger, shared, worker := worker_name())
        if agenda.stopping:
            raise ValueError(f"{name} was asked to stop: `resbench sweep stop --undo` lets workers start again")
        ledger.begin(output_dir, file_text, plan)
        agenda.prepare()
    console.print(f"{worker}: working on {name}, {machine.workers} at once", highlight=False)
    expected = throughput(plan, ledger.measured(), machine.threads, machine.gpus)
    runner = Runner(
        plan,
        ledger,
        agenda,
        folder=folder,
        output_dir=output_dir,
        tracking_uri=tracking_uri,
        machine=machine,
        throughput=expected,
        console=console,
        target=target,
    )
    with agenda:
        summary = runner.run()
    ledger.load()
    summary.outcomes.clear()
    summary.outcomes.update(entry.outcome for entry in ledger.entries() if entry.has_result)
    if not agenda.waits() and not summary.interrupted:
        status = "FINISHED" if summary.outcomes.total() == plan.runs else "FAILED"
        ledger.finish(status, summary.outcomes)
    console.print(f"{worker}: {summary.outcomes.total()} of {plan.runs} runs of {name} have a result", highlight=False)
    return summary


def worker_name() -> str:
    """Host, process and a random part: unique, whatever machines call themselves."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
