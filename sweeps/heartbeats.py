"""Signs of life in the database, and who has none.

The database's clock alone writes and judges them, in UTC whatever a session's time zone, so the clocks of the workers do not matter. A heartbeat and
its opposite, taking a run from a silent worker, lock the run's row first: either the heartbeat arrives in time and nothing is taken, or it is
taken and the heartbeat says so.
"""

from collections.abc import Collection
from typing import Any

from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import Connection, Float, cast, func, insert, literal_column, select, update
from sqlalchemy.sql.elements import ColumnElement

TRIALS: Any = models.TrialModel.__table__
BEATS: Any = models.TrialHeartbeatModel.__table__


def database_now(storage: RDBStorage) -> ColumnElement[Any]:
    """The database's time, UTC without a zone, as an SQL expression."""
    if storage.engine.dialect.name == "sqlite":
        return literal_column("strftime('%Y-%m-%d %H:%M:%f000', 'now')")
    return func.timezone("utc", func.now())


def silence(storage: RDBStorage) -> ColumnElement[float]:
    """Seconds since a trial's last heartbeat, as an SQL expression."""
    if storage.engine.dialect.name == "sqlite":
        return cast((func.julianday("now") - func.julianday(BEATS.c.heartbeat)) * 86400, Float)
    return cast(func.extract("epoch", database_now(storage) - BEATS.c.heartbeat), Float)


def first_beat(connection: Connection, storage: RDBStorage, trial_id: int) -> None:
    """Part of a claim: whoever holds the trial was heard of now."""
    known = connection.execute(select(BEATS.c.trial_id).where(BEATS.c.trial_id == trial_id)).first()
    if known is None:
        connection.execute(insert(BEATS).values(trial_id=trial_id, heartbeat=database_now(storage)))
    else:
        _renew(connection, storage, [trial_id])


def beat(connection: Connection, storage: RDBStorage, trial_ids: Collection[int]) -> set[int]:
    """Renew the heartbeats of the trials that are still held; which those are."""
    held = select(TRIALS.c.trial_id).where(TRIALS.c.trial_id.in_(trial_ids), TRIALS.c.state == TrialState.RUNNING)
    found = set(connection.execute(held.order_by(TRIALS.c.trial_id).with_for_update()).scalars())
    if found:
        _renew(connection, storage, found)
    return found


def silent(connection: Connection, storage: RDBStorage, study_id: int, grace_s: float) -> set[int]:
    """Trials of a study that are held by somebody who has been silent for longer than ``grace_s``."""
    joined = TRIALS.join(BEATS, BEATS.c.trial_id == TRIALS.c.trial_id)
    query = select(TRIALS.c.trial_id).select_from(joined).where(TRIALS.c.study_id == study_id)
    query = query.where(TRIALS.c.state == TrialState.RUNNING, silence(storage) > grace_s)
    return set(connection.execute(query).scalars())


def take_if_silent(connection: Connection, storage: RDBStorage, trial_id: int, grace_s: float) -> bool:
    """End a silent worker's hold on a trial; False if it was heard of, or somebody else was faster."""
    held = select(TRIALS.c.trial_id).where(TRIALS.c.trial_id == trial_id, TRIALS.c.state == TrialState.RUNNING)
    if connection.execute(held.with_for_update()).first() is None:
        return False
    last = select(silence(storage)).where(BEATS.c.trial_id == trial_id)
    if (connection.execute(last).scalar() or 0.0) <= grace_s:
        return False
    ended = {"state": TrialState.FAIL, "datetime_complete": database_now(storage)}
    connection.execute(update(TRIALS).where(TRIALS.c.trial_id == trial_id).values(ended))
    return True


def _renew(connection: Connection, storage: RDBStorage, trial_ids: Collection[int]) -> None:
    renewed = update(BEATS).where(BEATS.c.trial_id.in_(trial_ids)).values(heartbeat=database_now(storage))
    connection.execute(renewed)
