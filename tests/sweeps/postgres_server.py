"""A real PostgreSQL server for a test, restarted when the test says so."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from resbench.sweeps.postgres import Postgres, programs, running

__all__ = ["Postgres", "postgres"]


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A running server. Skips where PostgreSQL or its driver is missing, and fails instead where RESBENCH_REQUIRE_POSTGRES=1."""
    missing = _missing()
    if missing:
        if os.environ.get("RESBENCH_REQUIRE_POSTGRES") == "1":
            pytest.fail(f"RESBENCH_REQUIRE_POSTGRES=1, but {missing}")
        pytest.skip(missing)
    with running({"fsync": "off"}) as server:
        yield server


def _missing() -> str | None:
    if programs() is None:
        return "there is no PostgreSQL server here (Debian: apt-get install postgresql)"
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "there is no PostgreSQL driver here (pip install psycopg[binary])"
    return None
