"""Looking after a sweep that workers run over one database: `resbench sweep status | stop | retry --storage URL`."""

from optuna.trial import TrialState
from rich.console import Console

from resbench.harness.invocation import command
from resbench.sweeps.care import open_books
from resbench.sweeps.database import open_shared, opening, storage_url
from resbench.sweeps.progress import duration, plural
from resbench.sweeps.queue import RunQueue
from resbench.sweeps.status import print_status, status_of


def show(study: str, uri: str, storage: str) -> int:
    """Print where the sweep stands and who works on it; 1 if something needs a hand."""
    ledger, record = open_books(study, uri)
    queue = _queue(study, storage)
    held = queue.held()
    alive = [one for one in held if not one.silent]
    workers = {one.attempt.worker for one in alive}
    words = f"{plural(len(workers), 'worker')} at work on {plural(len(alive), 'run')}."
    if queue.stopping:
        words += " It was asked to stop."
    status = status_of(ledger, record, alive=bool(workers), under_way=frozenset(one.attempt.key for one in alive))
    print_status(Console(), status, words)
    for one in sorted(held, key=lambda one: one.attempt.key):
        if one.silent:
            print(
                f"dead worker: {one.attempt.worker}, silent for {duration(one.silence_s)}, with {one.attempt.key}: "
                + ("another one takes it over" if workers else "start a worker to take it over")
            )
    return 1 if status.failures or status.dead else 0


def stop(study: str, storage: str, wanted: bool) -> int:
    """Let all workers end what they have under way and leave, or let workers start again."""
    queue = _queue(study, storage)
    queue.stop(wanted)
    under_way = plural(len(queue.held()), "run")
    print(
        f"{study}: workers end their {under_way} under way and leave" if wanted else f"{study}: workers may start again"
    )
    return 0


def retry(study: str, uri: str, storage: str) -> int:
    """Queue failed runs again; workers that are there take them, as do those started later."""
    ledger, _ = open_books(study, uri)
    queue = _queue(study, storage)
    failed = [a for a in queue.latest().values() if a.state is TrialState.FAIL and a.reason]
    entries = {entry.key: entry for entry in ledger.entries()}
    with opening(storage_url(storage), study):
        for attempt in failed:
            if attempt.key in entries:
                ledger.requeue(entries[attempt.key])
            queue.retry(attempt)
    if not failed:
        print(f"no run of {study} has failed")
        return 0
    there = any(not one.silent for one in queue.held())
    who = "the workers take them" if there else f"start workers for them: {command('sweep', 'worker')} FILE"
    print(f"{plural(len(failed), 'failed run')} of {study} back in the queue; {who}")
    return 0


def _queue(study: str, storage: str) -> RunQueue:
    url = storage_url(storage)
    with opening(url, study):
        return RunQueue.existing(open_shared(url), study)
