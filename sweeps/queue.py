"""The queue that workers on many machines share: one Optuna study whose trials are attempts at planned runs.

An attempt is claimed by moving its trial from WAITING to RUNNING, which the database lets exactly one worker do. The worker keeps it with heartbeats,
written and judged by the database's clock alone. It ends

- COMPLETE: the planned run has its result;
- FAIL with a ``reason``: it failed for good, until `sweep retry` queues it again;
- FAIL without one: given back, or its worker died. Whoever sees that first queues the next attempt.

Attempts of a key carry serial numbers. Should two workers queue the same one, as they may around a restart of the database, the trial with the higher
number is void.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import optuna
from filelock import FileLock
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import Connection, case, func, insert, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from resbench.sweeps.database import HEARTBEAT_S
from resbench.sweeps.heartbeats import (
    BEATS,
    TRIALS,
    beat,
    database_now,
    first_beat,
    silence,
    silent,
    take_if_silent,
)

DEATHS = 3
"""Workers that may die over one planned run before it counts as failed: it is more likely to be the cause than the victim."""
_AT_ONCE = 500
_STOP, _BOOKS, _SIGNS = "stop", "books", "signs of life"
_ATTRIBUTES: Any = models.TrialUserAttributeModel.__table__
_STUDIES: Any = models.StudyModel.__table__
_NOTES: Any = models.StudyUserAttributeModel.__table__


@dataclass(frozen=True)
class Attempt:
    trial_id: int
    key: str
    serial: int
    state: TrialState
    reason: str
    gave_back: bool
    deaths: int
    worker: str

    @property
    def abandoned(self) -> bool:
        return self.state is TrialState.FAIL and not self.reason


@dataclass(frozen=True)
class Held:
    """An attempt under way. Times in seconds, by the database's clock: since its worker was heard of, and since it was claimed."""

    attempt: Attempt
    silence_s: float
    age_s: float
    grace_s: float

    @property
    def silent(self) -> bool:
        """Whether its worker is taken for dead."""
        return self.silence_s > self.grace_s


class RunQueue:
    """The attempts at one sweep's planned runs. It reads and claims with queries of its own: they stay cheap with ten thousand runs."""

    def __init__(self, storage: RDBStorage, sweep: str) -> None:
        study = optuna.create_study(study_name=f"{sweep}/#runs", storage=storage, load_if_exists=True)
        self._storage = storage
        self._id = storage.get_study_id_from_name(study.study_name)
        agreed = self._note(_SIGNS)
        signs: list[float] = json.loads(agreed) if agreed else [storage.heartbeat_interval or HEARTBEAT_S]
        self.interval_s = float(signs[0])
        self.grace_s = float(signs[1] if agreed else storage.grace_period or 4 * self.interval_s)
        self._attempts: dict[int, Attempt] = {}  # as last seen, by trial id
        # SQLite has no row locks: two workers could both find the attempt waiting. It is of one machine, so a file can guard it.
        url = storage.engine.url
        guarded = url.get_backend_name() == "sqlite" and url.database
        self._guard: AbstractContextManager[object] = FileLock(f"{url.database}.claims") if guarded else nullcontext()

    @classmethod
    def existing(cls, storage: RDBStorage, sweep: str) -> "RunQueue":
        """The queue of a sweep that was started. Raises ValueError if there is none."""
        if f"{sweep}/#runs" not in optuna.get_all_study_names(storage):
            raise ValueError(f"no worker has started a sweep {sweep!r} on this database")
        return cls(storage, sweep)

    def add(self, keys: Iterable[str]) -> None:
        """Queue the keys that were never queued."""
        known = self.latest()
        self._append([{"key": key, "serial": 0, "deaths": 0} for key in keys if key not in known])

    def latest(self) -> dict[str, Attempt]:
        """The last attempt at each key. One query for what is not settled, and one more for attempts that are new or have ended since."""
        known = self._attempts
        unsettled = or_(
            TRIALS.c.state.in_((TrialState.WAITING, TrialState.RUNNING)), TRIALS.c.trial_id > max(known, default=0)
        )
        with self._storage.engine.connect() as connection:
            query = select(TRIALS.c.trial_id, TRIALS.c.state).where(TRIALS.c.study_id == self._id, unsettled)
            states = {row.trial_id: row.state for row in connection.execute(query)}
            ended = [id for id, attempt in known.items() if id not in states and not attempt.state.is_finished()]
            new = [id for id in states if id not in known]
            for chunk in _chunks([*ended, *new]):
                known.update((attempt.trial_id, attempt) for attempt in _read(connection, chunk))
        for trial_id, state in states.items():
            if known[trial_id].state is not state:
                known[trial_id] = replace(known[trial_id], state=state)
        found: dict[str, Attempt] = {}
        for _, attempt in sorted(known.items()):
            if attempt.key not in found or attempt.serial > found[attempt.key].serial:
                found[attempt.key] = attempt  # of two with one serial, the first is the valid one
        return found

    def held(self) -> list[Held]:
        """The attempts that workers hold, as the database sees them now."""
        query = select(TRIALS.c.trial_id, silence(self._storage), _age(self._storage))
        joined = TRIALS.join(BEATS, BEATS.c.trial_id == TRIALS.c.trial_id)
        query = query.select_from(joined).where(TRIALS.c.study_id == self._id, TRIALS.c.state == TrialState.RUNNING)
        with self._storage.engine.connect() as connection:
            times = {trial_id: (silence, age) for trial_id, silence, age in connection.execute(query)}
            attempts = _read(connection, list(times))
        return [
            Held(attempt, float(times[attempt.trial_id][0]), float(times[attempt.trial_id][1] or 0.0), self.grace_s)
            for attempt in attempts
        ]

    def claim(self, attempt: Attempt, worker: str) -> bool:
        """Whether the attempt, one of `latest`, is this worker's now."""
        return self.claim_one([attempt], worker) is not None

    def claim_one(self, attempts: Sequence[Attempt], worker: str) -> Attempt | None:
        """The first of the attempts (of `latest`) that nobody else has or is about to have; it is this worker's now, with its first heartbeat.

        None if there is none. What happens, happens as a whole.
        """
        offered = {attempt.trial_id: attempt for attempt in attempts}
        waiting = select(TRIALS.c.trial_id).where(TRIALS.c.trial_id.in_(offered), TRIALS.c.state == TrialState.WAITING)
        waiting = waiting.order_by(
            case({trial_id: place for place, trial_id in enumerate(offered)}, value=TRIALS.c.trial_id)
        )
        with self._guard, self._storage.engine.begin() as connection:
            trial_id = connection.execute(waiting.limit(1).with_for_update(skip_locked=True)).scalar()
            if trial_id is None:
                return None
            attempt = offered[trial_id]
            first_beat(connection, self._storage, attempt.trial_id)
            attribute = {"trial_id": attempt.trial_id, "key": "worker", "value_json": json.dumps(worker)}
            connection.execute(insert(_ATTRIBUTES).values(attribute))
            running = {"state": TrialState.RUNNING, "datetime_start": database_now(self._storage)}
            connection.execute(update(TRIALS).where(TRIALS.c.trial_id == attempt.trial_id).values(running))
        return attempt

    def beat(self, attempts: Collection[Attempt]) -> set[str]:
        """Say that the attempts' worker lives; the keys of those that are still its own."""
        with self._guard, self._storage.engine.begin() as connection:
            held = beat(connection, self._storage, {attempt.trial_id for attempt in attempts})
        return {attempt.key for attempt in attempts if attempt.trial_id in held}

    def complete(self, attempt: Attempt, outcome: str) -> None:
        self._end(attempt, TrialState.COMPLETE, "outcome", outcome)

    def fail(self, attempt: Attempt, reason: str) -> None:
        self._end(attempt, TrialState.FAIL, "reason", reason[:2000] or "no reason given")

    def give_back(self, attempt: Attempt, *, died: bool = False) -> None:
        self._end(attempt, TrialState.FAIL, "gave_back", not died)

    def bury(self) -> None:
        """End the attempts whose workers are dead."""
        for trial_id in self.silent():
            with self._guard, self._storage.engine.begin() as connection:
                take_if_silent(connection, self._storage, trial_id, self.grace_s)

    def silent(self) -> set[int]:
        """Trial ids of the attempts whose workers have not been heard of for the grace period."""
        with self._storage.engine.connect() as connection:
            return silent(connection, self._storage, self._id, self.grace_s)

    def worn_out(self, attempt: Attempt) -> str | None:
        """Why an abandoned attempt is not worth another one; None while it is."""
        deaths = attempt.deaths + (not attempt.gave_back)
        return f"its worker died {deaths} times over it" if deaths >= DEATHS else None

    def requeue(self, attempt: Attempt) -> None:
        """Queue an abandoned attempt again, or end it if that is enough."""
        deaths = attempt.deaths + (not attempt.gave_back)
        again = {"key": attempt.key, "serial": attempt.serial + 1, "deaths": deaths}
        reason = self.worn_out(attempt)
        self._append([again | {"reason": reason} if reason else again])

    def retry(self, attempt: Attempt) -> None:
        """Queue a failed key again, with all its chances."""
        self._append([{"key": attempt.key, "serial": attempt.serial + 1, "deaths": 0}])

    @property
    def stopping(self) -> bool:
        return self._note(_STOP) == "true"

    def stop(self, wanted: bool) -> None:
        """Let workers end what they have and claim nothing more, or let them work again."""
        self._storage.set_study_user_attr(self._id, _STOP, wanted)

    @property
    def books(self) -> str | None:
        """The MLflow run that holds the sweep together, in whose store the results are; None before the first worker."""
        noted = self._note(_BOOKS)
        return None if noted is None else str(json.loads(noted))

    def belongs_to(self, books: str) -> None:
        self._storage.set_study_user_attr(self._id, _BOOKS, books)

    def agree(self, interval_s: float, grace_s: float, *, insist: bool) -> None:
        """Settle how often workers say that they live, and after how long a silence one is dead: the same for all that work together.

        Raises ValueError if others work by other numbers and this worker was told to ``insist`` on its own.
        """
        mine, agreed = [interval_s, grace_s], self._note(_SIGNS)
        if agreed is None or (json.loads(agreed) != mine and not any(not held.silent for held in self.held())):
            self._storage.set_study_user_attr(self._id, _SIGNS, mine)
            self.interval_s, self.grace_s = interval_s, grace_s
        elif insist and json.loads(agreed) != mine:
            raise ValueError(
                f"--heartbeat {interval_s:g}: the workers that are at it send a sign of life every {self.interval_s:g} s, and one is dead after "
                f"{self.grace_s:g}. All must go by the same numbers: leave --heartbeat out, or start when they have gone"
            )

    def _note(self, name: str) -> str | None:
        noted = select(_NOTES.c.value_json).where(_NOTES.c.study_id == self._id, _NOTES.c.key == name)
        with self._storage.engine.connect() as connection:
            return connection.execute(noted).scalar()

    def _append(self, attempts: Sequence[Mapping[str, Any]]) -> None:
        """New attempts with these notes. One transaction locks the study, as Optuna does: ids are in the order in which attempts appear."""
        with self._guard, self._storage.engine.begin() as connection:
            study = select(_STUDIES.c.study_id).where(_STUDIES.c.study_id == self._id)
            connection.execute(study.with_for_update())
            last = connection.execute(select(func.max(TRIALS.c.number)).where(TRIALS.c.study_id == self._id)).scalar()
            first = 0 if last is None else last + 1
            for start in range(0, len(attempts), _AT_ONCE):
                chunk = attempts[start : start + _AT_ONCE]
                rows = [
                    {
                        "study_id": self._id,
                        "number": first + start + place,
                        "state": TrialState.FAIL if "reason" in notes else TrialState.WAITING,
                    }
                    for place, notes in enumerate(chunk)
                ]
                made = insert(TRIALS).returning(TRIALS.c.trial_id, sort_by_parameter_order=True)
                ids = list(connection.execute(made, rows).scalars())
                attributes = [
                    {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
                    for trial_id, notes in zip(ids, chunk, strict=True)
                    for key, value in notes.items()
                ]
                connection.execute(insert(_ATTRIBUTES), attributes)

    def _end(self, attempt: Attempt, state: TrialState, name: str, value: str | bool) -> None:
        """Repeating it after an answer got lost changes nothing, and what is no longer ours stays as it is."""
        try:
            self._storage.set_trial_user_attr(attempt.trial_id, name, value)
            values = [0.0] if state is TrialState.COMPLETE else None
            self._storage.set_trial_state_values(attempt.trial_id, state, values)
        except UpdateFinishedTrialError:
            pass


def _read(connection: Connection, trial_ids: Sequence[int]) -> list[Attempt]:
    """Attempts with everything that is noted about them."""
    attrs: dict[int, dict[str, Any]] = {trial_id: {} for trial_id in trial_ids}
    noted = select(_ATTRIBUTES.c.trial_id, _ATTRIBUTES.c.key, _ATTRIBUTES.c.value_json)
    # States first: an attempt that has ended has all its notes, as they were written before its end.
    states = select(TRIALS.c.trial_id, TRIALS.c.state).where(TRIALS.c.trial_id.in_(trial_ids))
    state = {row.trial_id: row.state for row in connection.execute(states)}
    for trial_id, key, value in connection.execute(noted.where(_ATTRIBUTES.c.trial_id.in_(trial_ids))):
        attrs[trial_id][key] = json.loads(value)
    return [_attempt(trial_id, state[trial_id], noted) for trial_id, noted in attrs.items()]


def _age(storage: RDBStorage) -> ColumnElement[Any]:
    """Seconds since an attempt was claimed, as an SQL expression."""
    if storage.engine.dialect.name == "sqlite":
        return (func.julianday("now") - func.julianday(TRIALS.c.datetime_start)) * 86400
    return func.extract("epoch", database_now(storage) - TRIALS.c.datetime_start)


def _chunks(trial_ids: Sequence[int], size: int = 1000) -> Iterator[Sequence[int]]:
    return (trial_ids[start : start + size] for start in range(0, len(trial_ids), size))


def _attempt(trial_id: int, state: TrialState, attrs: Mapping[str, Any]) -> Attempt:
    return Attempt(
        trial_id=trial_id,
        key=attrs.get("key", ""),
        serial=attrs.get("serial", -1),
        state=state,
        reason=attrs.get("reason", ""),
        gave_back=attrs.get("gave_back", False),
        deaths=attrs.get("deaths", 0),
        worker=attrs.get("worker", ""),
    )
