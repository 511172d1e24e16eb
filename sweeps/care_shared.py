"""Looking after a sweep that workers run over one database: `resbench sweep status | stop | retry --storage URL`."""

from collections.abc import Mapping

from optuna.trial import TrialState
from rich.console import Console

from resbench.sweeps.care import open_books
from resbench.sweeps.progress import plural
from resbench.sweeps.queue import Attempt, RunQueue, open_shared, opening, storage_url
from resbench.sweeps.status import print_status, status_of


def show(study: str, uri: str, storage: str) -> int:
    """Print where the sweep stands and who works on it; 1 if something needs a hand."""
    ledger, record = open_books(study, uri)
    queue = _queue(study, storage)
    held = _running(queue)
    silent = {a.key for a in held.values() if a.trial_id in queue.silent()}
    alive = {key for key in held if key not in silent}
    workers = {held[key].worker or "starting" for key in alive}
    words = f"{plural(len(workers), 'worker')} with {plural(len(alive), 'run')}."
    if queue.stopping:
        words += " It was asked to stop."
    status = status_of(ledger, record, alive=bool(workers), under_way=frozenset(alive))
    print_status(Console(), status, words)
    for key in sorted(silent):
        print(f"silent: worker {held[key].worker or '(unnamed)'}, with {key}; another one takes it over")
    return 1 if status.failures or status.dead else 0


def stop(study: str, storage: str, wanted: bool) -> int:
    """Let all workers end what they have under way and leave, or let workers start again."""
    queue = _queue(study, storage)
    queue.stop(wanted)
    under_way = plural(len(_running(queue)), "run")
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
    print(
        f"{plural(len(failed), 'failed run')} of {study} back in the queue"
        if failed
        else f"no run of {study} has failed"
    )
    return 0


def _queue(study: str, storage: str) -> RunQueue:
    url = storage_url(storage)
    with opening(url, study):
        return RunQueue.existing(open_shared(url), study)


def _running(queue: RunQueue) -> Mapping[str, Attempt]:
    return {key: attempt for key, attempt in queue.latest().items() if attempt.state is TrialState.RUNNING}
