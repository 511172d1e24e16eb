"""Looking after a sweep from another terminal: what `resbench sweep status`, `stop` and `retry` do."""

from pathlib import Path
from typing import Any

from rich.console import Console

from resbench.harness.invocation import command
from resbench.harness.store import open_store
from resbench.sweeps import control
from resbench.sweeps.ledger import Ledger
from resbench.sweeps.progress import plural
from resbench.sweeps.status import print_status, status_of


def show(study: str, uri: str, folder: Path) -> int:
    """Print where the sweep stands; 1 if something needs a hand. Raises ValueError if there is no such sweep."""
    ledger, record = _own_books(study, uri)
    who = control.holder(folder)
    status = status_of(ledger, record, alive=who is not None)
    words = f"It is being run by {who}." if who else "Nobody runs it now."
    if who and control.asked_to_stop(folder):
        words += " It was asked to stop, and ends what is under way."
    print_status(Console(), status, words)
    if status.failures:
        print(f"Try failed runs again: {command('sweep', 'retry', study)}")
    return 1 if status.failures or status.dead else 0


def stop(study: str, uri: str, folder: Path) -> int:
    """Ask the process that runs the sweep to end what is under way and start no more."""
    who = control.holder(folder)
    if who is None:
        print(f"nobody runs {study} now in {folder.parent.parent}: there is nothing to stop")
        return 1
    control.ask_to_stop(folder)
    print(f"{who} was asked to stop: runs under way end first. `resbench sweep run` goes on later.")
    return 0


def retry(study: str, uri: str, folder: Path) -> int:
    """Queue failed runs again, in the running sweep or for the next `sweep run`."""
    ledger, _ = _own_books(study, uri)
    failed = [entry for entry in ledger.entries() if entry.outcome == "failed"]
    if not failed:
        print(f"no run of {study} has failed")
        return 0
    for entry in failed:
        ledger.requeue(entry)
    who = control.holder(folder)
    words = plural(len(failed), "failed run")
    if who:
        control.ask_to_retry(folder)
        print(f"{words} back in the queue of {who}")
    else:
        print(f"{words} back in the queue; start it with {command('sweep', 'run')} FILE")
    return 0


def _own_books(study: str, uri: str) -> tuple[Ledger, dict[str, Any]]:
    """The books of a sweep that `sweep run` keeps. Raises ValueError if workers keep it: their queue has to be asked."""
    ledger, record = open_books(study, uri)
    keeper = ledger.keeper()
    if keeper is not None and keeper.by == "workers":
        raise ValueError(f"the sweep {study!r} is kept by {keeper.words}: add --storage {keeper.place}")
    return ledger, record


def open_books(study: str, uri: str) -> tuple[Ledger, dict[str, Any]]:
    """A sweep's runs and the record of what it consists of. Raises ValueError if there is no such sweep."""
    client = open_store(uri, must_exist=True)
    experiment = client.get_experiment_by_name(study)
    ledger = Ledger(client, experiment.experiment_id, study) if experiment else None
    record = None
    if ledger is not None:
        ledger.load()
        record = ledger.started_with()
    if ledger is None or record is None:
        raise ValueError(
            f"no sweep {study!r} in {uri}: start it with `resbench sweep run`, or give --output-dir or --tracking-uri"
        )
    return ledger, record
