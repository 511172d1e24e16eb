"""Which runs a command is about."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resbench.harness import names

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_PAGE = 1000
KIND = "resbench.kind"


@dataclass(frozen=True)
class Selection:
    """Runs by id, or by study and outcome; without any of them, all."""

    ids: Sequence[str] = ()
    studies: Sequence[str] = ()
    outcomes: Sequence[str] = ()

    @property
    def everything(self) -> bool:
        return not (self.ids or self.studies or self.outcomes)

    def takes(self, run: "Run", experiment: str) -> bool:
        if self.ids and run.info.run_id not in self.ids:
            return False
        if self.studies and study_of(run, experiment) not in self.studies:
            return False
        return not self.outcomes or outcome_of(run) in self.outcomes


@dataclass(frozen=True)
class Found:
    run: "Run"
    experiment: str


def find(client: "MlflowClient", selection: Selection) -> list[Found]:
    """The selected runs, oldest first. Raises ValueError for an id that is not there."""
    found = [Found(run, experiment) for run, experiment in _all(client) if selection.takes(run, experiment)]
    missing = set(selection.ids) - {item.run.info.run_id for item in found}
    if missing:
        raise ValueError(f"no run {sorted(missing)[0]} in this store; `resbench runs list` shows those there are")
    return sorted(found, key=lambda item: (item.run.info.start_time or 0, item.run.info.run_id))


def outcome_of(run: "Run") -> str:
    """How a run ended; of a sweep's own run, which has no outcome, its status in lower case."""
    return str(run.data.tags.get(names.TAG_OUTCOME) or run.info.status.lower())


def study_of(run: "Run", experiment: str) -> str:
    return str(run.data.tags.get(names.TAG_STUDY) or experiment)


def _all(client: "MlflowClient") -> Iterator[tuple["Run", str]]:
    for experiment in client.search_experiments():
        token: str | None = None
        while True:
            page = client.search_runs([experiment.experiment_id], max_results=_PAGE, page_token=token)
            for run in page:
                yield run, experiment.name
            token = page.token
            if not token:
                break
