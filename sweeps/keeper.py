"""Who keeps a sweep: `sweep run` in one folder, or workers over one database. Never both, and never two of either.

Both would find the same runs in MLflow, and each would deal them out from a queue and a search the other knows nothing of. So the sweep's parent run
in MLflow says who keeps it, and whoever starts is compared with that.
"""

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

from sqlalchemy.engine import make_url

from resbench.harness.invocation import command
from resbench.sweeps.progress import duration, plural

if TYPE_CHECKING:
    from resbench.sweeps.queue import RunQueue

_MARK = "books"


@dataclass(frozen=True)
class Keeper:
    """``place``: the output folder of `sweep run`, or the workers' database without its password. ``since``: the local time at ``host``."""

    by: Literal["run", "workers"]
    place: str
    host: str
    since: str

    @classmethod
    def here(cls, by: Literal["run", "workers"], place: str) -> "Keeper":
        if by == "workers":
            place = make_url(place).set(password=None).difference_update_query(["password"]).render_as_string()
        return cls(by, place, os.uname().nodename, time.strftime("%Y-%m-%d %H:%M:%S"))

    @classmethod
    def of(cls, address: str | None) -> "Keeper | None":
        """The keeper that a tag names."""
        if address is None:
            return None
        parts = urlsplit(address)
        told = dict(parse_qsl(parts.query))
        return cls("run" if parts.scheme == "run" else "workers", told["place"], parts.netloc, told["since"])

    def __str__(self) -> str:
        """As an address, which `resbench runs export` knows as something that is of this place alone."""
        return f"{self.by}://{self.host}?{urlencode({'place': self.place, 'since': self.since})}"

    def same_as(self, other: "Keeper") -> bool:
        """Whether both name the same: a folder is of one machine, a database of none."""
        where = (self.by, self.place) == (other.by, other.place)
        return where and (self.by == "workers" or self.host == other.host)

    @property
    def words(self) -> str:
        who = "`sweep run` in" if self.by == "run" else "workers over"
        return f"{who} {self.place} (begun on {self.host}, {self.since})"


def refusal(study: str, keeper: Keeper, newcomer: Keeper, *, searches: bool, take_over: bool) -> str | None:
    """Why ``newcomer`` must not go on with what another one keeps, or None if it takes it over."""
    alive = who_works(study, keeper)
    head = f"the sweep {study!r} is kept by {keeper.words}"
    if alive:
        stop = ["sweep", "stop", study, *_options(keeper)]
        return (
            f"{head}, and {alive} at work on it now.\n{_join(study, keeper)}, wait, or stop it with `{command(*stop)}`."
        )
    if searches:
        return f"{head}, and so is its search, which would begin anew here.\n{_join(study, keeper)}, or give the sweep a new `name`."
    if not take_over:
        return (
            f"{head}; nobody is known to work on it now.\n{_join(study, keeper)}, or give --take-over to go on with {_kind(newcomer)} here, "
            "once the earlier one is gone for good."
        )
    return None


def who_works(study: str, keeper: Keeper) -> str | None:
    """Who is at work for a keeper, in words, as far as that can be seen from here."""
    if keeper.by == "run":
        from resbench.sweeps import control

        who = control.holder(Path(keeper.place) / "sweeps" / study)
        return f"{who} is" if who else None
    with suppress(Exception):  # it may be out of reach, gone, or want a password we do not have
        held = [held for held in _queue(study, keeper).held() if not held.silent]
        workers = {held.attempt.worker for held in held}
        if workers:
            longest = duration(max(held.age_s for held in held))
            return f"{plural(len(workers), 'worker')} ({', '.join(sorted(workers))}; a run since {longest}) " + (
                "is" if len(workers) == 1 else "are"
            )
    return None


def shut_out(study: str, keeper: Keeper) -> None:
    """Keep workers that start or wait from claiming what is taken over from them."""
    if keeper.by == "workers":
        with suppress(Exception):
            _queue(study, keeper).stop(True)


def mark(folder: Path, books: str) -> None:
    """Note in a sweep's folder which MLflow run holds it together: the same path on another machine may be another folder."""
    (folder / _MARK).write_text(books, encoding="utf-8")


def marked(folder: Path) -> str | None:
    try:
        return (folder / _MARK).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _queue(study: str, keeper: Keeper) -> "RunQueue":
    from resbench.sweeps.database import open_shared, storage_url
    from resbench.sweeps.queue import RunQueue

    return RunQueue.existing(open_shared(storage_url(keeper.place)), study)


def _options(keeper: Keeper) -> list[str]:
    return ["--storage" if keeper.by == "workers" else "--output-dir", keeper.place]


def _kind(keeper: Keeper) -> str:
    return "`sweep run`" if keeper.by == "run" else "workers"


def _join(study: str, keeper: Keeper) -> str:
    if keeper.by == "workers":
        return f"Join them with `{command('sweep', 'worker')} FILE --storage {keeper.place}`"
    return f"Go on there with `{command('sweep', 'run')} FILE --output-dir {keeper.place}`"
