"""The queue that workers on many machines share: one Optuna study whose trials are attempts at planned runs.

An attempt is claimed by moving its trial from WAITING to RUNNING, which the database lets exactly one worker do. The worker keeps it with heartbeats,
written and judged by the database's clock alone. It ends

- COMPLETE: the planned run has its result;
- FAIL with a ``reason``: it failed for good, until `sweep retry` queues it again;
- FAIL without one: given back, or its worker died. Whoever sees that first queues the next attempt.

Attempts of a key carry serial numbers. Should two workers queue the same one, as they may around a restart of the database, the trial with the higher
number is void: see `RunQueue.claim`.
"""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import optuna
from filelock import FileLock
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import RDBStorage, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, OperationalError

DEATHS = 3
"""Workers that may die over one planned run before it counts as failed: it is more likely to be the cause than the victim."""
HEARTBEAT_S = 15
_STOP = "stop"


@dataclass(frozen=True)
class Attempt:
    trial_id: int
    trial_number: int
    key: str
    serial: int
    state: TrialState
    reason: str
    deaths: int
    worker: str

    @property
    def abandoned(self) -> bool:
        return self.state is TrialState.FAIL and not self.reason


def storage_url(url: str) -> str:
    """``postgresql://`` with the driver of the extra ``postgres``. Raises ValueError for what is no database URL, or without the driver."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ValueError(
            f"--storage {url!r} is not a database: expected postgresql://USER@HOST/DATABASE or sqlite:///PATH"
        ) from None
    if parsed.drivername == "postgresql":
        try:
            import psycopg  # noqa: F401
        except ImportError:
            raise ValueError("PostgreSQL needs a driver: pip install 'resbench[postgres]'") from None
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed.render_as_string(hide_password=False)


@contextmanager
def opening(url: str, name: str) -> Iterator[None]:
    """One worker at a time while a sweep's tables, books and queue are set up; let go by the server when a worker dies.

    Raises ConnectionError when the database does not answer.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        path = Path(str(parsed.database))
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(path.name + ".opening")):
            yield
        return
    engine = create_engine(url)
    try:
        connection = engine.connect()
    except OperationalError as error:
        raise ConnectionError(f"the database {parsed!r} does not answer: {str(error.orig).splitlines()[0]}") from None
    try:
        with connection:
            connection.execute(text("select pg_advisory_lock(hashtext(:name))"), {"name": f"resbench/{name}"})
            yield
    finally:
        engine.dispose()


def open_shared(url: str, heartbeat_s: int = HEARTBEAT_S, grace_s: int | None = None) -> RDBStorage:
    """The database with heartbeats; connections that a restart cut are replaced. A worker is dead after ``grace_s`` seconds without one."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    extra = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    with _experimental():
        return RDBStorage(
            url, engine_kwargs=extra, heartbeat_interval=heartbeat_s, grace_period=grace_s or 4 * heartbeat_s
        )


@contextmanager
def _experimental() -> Iterator[None]:
    """Optuna calls its heartbeats experimental, on every use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


class RunQueue:
    """The attempts at one sweep's planned runs."""

    def __init__(self, storage: RDBStorage, sweep: str) -> None:
        self._storage = storage
        self._study = optuna.create_study(study_name=f"{sweep}/#runs", storage=storage, load_if_exists=True)
        self._id = storage.get_study_id_from_name(self._study.study_name)
        # SQLite has no row locks: two workers could both find the attempt waiting. It is of one machine, so a file can guard it.
        url = storage.engine.url
        guarded = url.get_backend_name() == "sqlite" and url.database
        self._claiming: AbstractContextManager[object] = (
            FileLock(f"{url.database}.claims") if guarded else nullcontext()
        )

    @classmethod
    def existing(cls, storage: RDBStorage, sweep: str) -> "RunQueue":
        """The queue of a sweep that was started. Raises ValueError if there is none."""
        if f"{sweep}/#runs" not in optuna.get_all_study_names(storage):
            raise ValueError(f"no worker has started a sweep {sweep!r} on this database")
        return cls(storage, sweep)

    def add(self, keys: Iterable[str]) -> None:
        """Queue the keys that were never queued."""
        known = self.latest()
        for key in keys:
            if key not in known:
                self._append(key, serial=0, deaths=0)

    def latest(self) -> dict[str, Attempt]:
        """The last attempt at each key."""
        found: dict[str, Attempt] = {}
        for trial in self._study.get_trials(deepcopy=False):
            attempt = _attempt(trial)
            if attempt.key not in found or attempt.serial > found[attempt.key].serial:
                found[attempt.key] = attempt  # of two with one serial, the first is the valid one
        return found

    def claim(self, attempt: Attempt, worker: str) -> bool:
        """Whether the attempt is this worker's now."""
        # A heartbeat first: a worker that dies right after the claim is noticed by it.
        self._storage.record_heartbeat(attempt.trial_id)
        try:
            with self._claiming:
                if not self._storage.set_trial_state_values(attempt.trial_id, TrialState.RUNNING):
                    return False
        except UpdateFinishedTrialError:
            return False
        if self.latest()[attempt.key].trial_id != attempt.trial_id:
            self.give_back(attempt)
            return False
        self._storage.set_trial_user_attr(attempt.trial_id, "worker", worker)
        return True

    def beat(self, attempt: Attempt) -> bool:
        """Say that the attempt's worker lives; False if the attempt was taken from it."""
        self._storage.record_heartbeat(attempt.trial_id)
        return self._storage.get_trial(attempt.trial_id).state is TrialState.RUNNING

    def complete(self, attempt: Attempt, outcome: str) -> None:
        self._end(attempt, TrialState.COMPLETE, "outcome", outcome)

    def fail(self, attempt: Attempt, reason: str) -> None:
        self._end(attempt, TrialState.FAIL, "reason", reason[:2000] or "no reason given")

    def give_back(self, attempt: Attempt, *, died: bool = False) -> None:
        self._end(attempt, TrialState.FAIL, "gave_back", not died)

    def bury(self) -> None:
        """End the attempts whose workers are dead."""
        with _experimental():
            fail_stale_trials(self._study)

    def silent(self) -> set[int]:
        """Trial ids of the attempts whose workers have not been heard of for the grace period."""
        return set(self._storage._get_stale_trial_ids(self._id))

    def requeue(self, attempt: Attempt) -> str | None:
        """Queue an abandoned attempt again, or say why that is enough."""
        trial = self._storage.get_trial(attempt.trial_id)
        deaths = attempt.deaths + (not trial.user_attrs.get("gave_back", False))
        if deaths >= DEATHS:
            reason = f"its worker died {deaths} times over it"
            self._append(attempt.key, attempt.serial + 1, deaths, reason)
            return reason
        self._append(attempt.key, attempt.serial + 1, deaths)
        return None

    def retry(self, attempt: Attempt) -> None:
        """Queue a failed key again, with all its chances."""
        self._append(attempt.key, attempt.serial + 1, 0)

    @property
    def stopping(self) -> bool:
        return bool(self._storage.get_study_user_attrs(self._id).get(_STOP))

    def stop(self, wanted: bool) -> None:
        """Let workers end what they have and claim nothing more, or let them work again."""
        self._storage.set_study_user_attr(self._id, _STOP, wanted)

    def _append(self, key: str, serial: int, deaths: int, reason: str = "") -> None:
        attrs = {"key": key, "serial": serial, "deaths": deaths} | ({"reason": reason} if reason else {})
        state = TrialState.FAIL if reason else TrialState.WAITING
        self._storage.create_new_trial(self._id, create_trial(state=state, user_attrs=attrs))

    def _end(self, attempt: Attempt, state: TrialState, name: str, value: str | bool) -> None:
        """Repeating it after an answer got lost changes nothing, and what is no longer ours stays as it is."""
        try:
            self._storage.set_trial_user_attr(attempt.trial_id, name, value)
            values = [0.0] if state is TrialState.COMPLETE else None
            self._storage.set_trial_state_values(attempt.trial_id, state, values)
        except UpdateFinishedTrialError:
            pass


def _attempt(trial: FrozenTrial) -> Attempt:
    attrs = trial.user_attrs
    return Attempt(
        trial_id=trial._trial_id,
        trial_number=trial.number,
        key=attrs.get("key", ""),
        serial=attrs.get("serial", -1),
        state=trial.state,
        reason=attrs.get("reason", ""),
        deaths=attrs.get("deaths", 0),
        worker=attrs.get("worker", ""),
    )
