"""`resbench sweep worker`: one of any number of identical processes that run a sweep together, over one database and one MLflow store."""

import os
import socket
import uuid
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from resbench.harness.store import experiment_id, open_store
from resbench.sweeps import control
from resbench.sweeps.ahead import Ahead
from resbench.sweeps.changes import compare, refusal
from resbench.sweeps.database import HEARTBEAT_S, open_shared, opening, storage_url
from resbench.sweeps.estimate import throughput
from resbench.sweeps.keeper import Keeper, shut_out
from resbench.sweeps.keeper import refusal as keeper_refusal
from resbench.sweeps.machine import Machine
from resbench.sweeps.patience import OUTAGES, Patience
from resbench.sweeps.patient_ledger import PatientLedger
from resbench.sweeps.plan import Plan
from resbench.sweeps.queue import RunQueue
from resbench.sweeps.run import FIT, Runner, Summary
from resbench.sweeps.search_figures import log_search_figures
from resbench.sweeps.shared import SharedAgenda


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
    take_over: bool = False,
    heartbeat_s: int | None = None,
    grace_s: int | None = None,
    console: Console | None = None,
    target: str = FIT,
    ahead: Ahead | None = None,
) -> Summary:
    """Run what is left of a sweep, together with whoever else does; returns when nothing is left for anyone, or `sweep stop` was said.

    output_dir: for checkpoints. Where all machines see the same folder, a run whose worker died goes on from its last checkpoint on another
    machine; otherwise it begins again. ahead: compiles what the runs need on this machine, before it takes any.

    Raises ValueError if the sweep was started with other settings (and ``extend`` does not cover them) or was asked to stop, ConnectionError if a
    server does not answer.
    """
    console = console or Console()
    name = plan.spec.name
    url = storage_url(storage)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    client = open_store(tracking_uri)
    patience = Patience()
    with opening(url, name):
        interval = heartbeat_s or HEARTBEAT_S
        shared = open_shared(url, interval, grace_s)
        ledger = PatientLedger(client, experiment_id(client, tracking_uri, name), name, patience)
        ledger.load()
        keeper = Keeper.here("workers", storage)
        queue = RunQueue(shared, name)
        _same_keeper(ledger, keeper, queue, tracking_uri, bool(plan.spec.search), take_over)
        started = ledger.started_with()
        if started is not None:
            changes = compare(started, plan.record())
            if refused := refusal(name, changes, extend):
                raise ValueError(refused)
        if queue.stopping:
            raise ValueError(f"{name} was asked to stop: `resbench sweep stop --undo` lets workers start again")
        queue.agree(interval, grace_s or 4 * interval, insist=heartbeat_s is not None)
        queue.belongs_to(ledger.begin(output_dir, file_text, plan, keeper))
        agenda = SharedAgenda(plan, ledger, shared, queue, worker := worker_name(), patience)
        agenda.prepare()
        control.clear(folder)  # what was said to a `sweep run` that was here before
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
        ahead=ahead,
    )
    with agenda:
        summary = runner.run()
    with suppress(*OUTAGES):  # a worker that was asked to leave does not wait to say how far the sweep is
        patience(ledger.load)
        summary.outcomes.clear()
        summary.outcomes.update(entry.outcome for entry in ledger.results(plan))
        if not agenda.waits() and not summary.interrupted and not summary.unfit:
            status = "FINISHED" if summary.outcomes.total() == plan.runs else "FAILED"
            patience(lambda: ledger.finish(status, summary.outcomes))
            log_search_figures(ledger, agenda.searches, console)
        elif agenda.drained and not queue.held():
            patience(lambda: ledger.finish("KILLED", summary.outcomes))
        count = f"{summary.outcomes.total()} of {plan.runs} runs of {name} have a result"
        console.print(f"{worker}: {count}", highlight=False)
    return summary


def _same_keeper(
    ledger: PatientLedger, newcomer: Keeper, queue: RunQueue, tracking_uri: str, searches: bool, take_over: bool
) -> None:
    """Raises ValueError if the sweep is kept by `sweep run`, or by workers with another database or another MLflow store."""
    keeper, books = ledger.keeper(), queue.books
    if books is not None and books != ledger.parent_id:
        raise ValueError(
            f"the queue of {ledger.study!r} in {newcomer.place} belongs to MLflow run {books}, which is not in {tracking_uri}: "
            "give the --tracking-uri of the other workers, or give the sweep a new `name`"
        )
    if keeper is None or (keeper.by == "workers" and (books is not None or keeper.place == newcomer.place)):
        return
    if refused := keeper_refusal(ledger.study, keeper, newcomer, searches=searches, take_over=take_over):
        raise ValueError(refused)
    shut_out(ledger.study, keeper)


def worker_name() -> str:
    """Host, process and a random part: unique, whatever machines call themselves."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
