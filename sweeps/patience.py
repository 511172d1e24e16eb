"""Waiting for servers that are away: a database that restarts, an MLflow server that is being moved."""

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from mlflow.exceptions import MlflowException
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from resbench.harness.store import brief_requests

T = TypeVar("T")
OUTAGES = (StorageInternalError, DBAPIError, PoolTimeout, MlflowException, ConnectionError)
PATIENCE_S = 600.0
HURRY_S = 5.0
_PAUSE_S, _QUIET_S = 0.5, 5.0
_FINAL = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED", "UNAUTHENTICATED", "INVALID_STATE"}
"""What MLflow says when it is there and means no."""
log = logging.getLogger(__name__)


class Patience:
    """Repeats what a server did not do. ``seconds``: how long, until its last error is raised; `HURRY_S` once somebody is in a hurry."""

    def __init__(self, seconds: float = PATIENCE_S) -> None:
        self._seconds = seconds
        self._hurried = threading.Event()

    def hurry(self) -> None:
        """This process was asked to leave: whatever it waits for now or later, it gives up soon. May be called by a signal's handler."""
        self._hurried.set()

    def __call__(self, do: Callable[[], T]) -> T:
        """``do()``, again and again while it raises one of `OUTAGES`; it has to bear being done twice after an answer got lost."""
        begun = time.monotonic()
        told = False
        while True:
            try:
                with brief_requests():
                    done = do()
                if told:
                    log.warning("it answers again")
                return done
            except OUTAGES as error:
                waited = time.monotonic() - begun
                limit = min(self._seconds, HURRY_S) if self._hurried.is_set() else self._seconds
                if waited > limit or getattr(error, "error_code", "") in _FINAL:
                    raise
                if waited > _QUIET_S and not told:
                    told = True
                    words = (str(error).splitlines() or [type(error).__name__])[0]
                    log.warning("waiting up to %.0f s for a server that is away: %s", limit, words)
                time.sleep(_PAUSE_S)
