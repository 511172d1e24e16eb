"""The books of a sweep: which planned runs exist in MLflow and how they ended. MLflow is the only place where that is written down.

The sweep process creates every run itself, with its ``trial_key`` in the same transaction, before a worker hears of it. So at any moment a
planned run has no MLflow run, or exactly one; whatever was killed is found by its key and taken up again under the same run id.
"""

import json
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from resbench.harness import names
from resbench.sweeps.keeper import Keeper
from resbench.sweeps.plan import Plan, PlannedRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KIND_TAG = "resbench.kind"
OUTPUT_TAG = "resbench.output_dir"
KEEPER_TAG = "resbench.keeper"
KEY_TAG = "trial_key"
_PARENT_TAG = "mlflow.parentRunId"
_NAME_TAG = "mlflow.runName"
_RECORD = "sweep/plan.json"
_FILE = "sweep/sweep.yaml"
RESULTS = ("complete", "diverged", "oom", "pruned")  # outcomes that end a planned run; a failed run is tried again
_PAGE = 1000


@dataclass(frozen=True)
class Entry:
    """One MLflow run of the sweep."""

    run_id: str
    key: str
    outcome: str
    status: str
    val_loss: float | None
    bits_per_byte: float | None
    unigram_bits_per_byte: float | None
    tokens_per_s: float | None
    tokens: int
    flops_per_token: float | None
    cell: str
    phase: str
    seconds: float | None = None
    """Training time, or from start to end where that was not measured."""
    error: str = ""

    @property
    def has_result(self) -> bool:
        return self.outcome in RESULTS


class Ledger:
    """The runs of one study in one tracking store. Only the process that holds the sweep's lock writes to it."""

    def __init__(self, client: MlflowClient, experiment_id: str, study: str) -> None:
        self._client = client
        self.experiment_id = experiment_id
        self.study = study
        self.parent_id: str | None = None
        self._entries: dict[str, Entry] = {}

    def load(self) -> None:
        """Read the parent run and every child of the study."""
        parents = self._parents()
        self.parent_id = min(parents, key=lambda run: run.info.start_time).info.run_id if parents else None
        self._entries = {}
        for run in self._search(f"tags.{names.TAG_STUDY} = '{self.study}' and tags.{KEY_TAG} LIKE '%'"):
            entry = entry_of(run)
            earlier = self._entries.get(entry.key)
            if earlier is None or (entry.has_result and not earlier.has_result):
                self._entries[entry.key] = entry

    def entries(self) -> list[Entry]:
        return list(self._entries.values())

    def results(self, plan: Plan) -> list[Entry]:
        """The planned runs that have a result. The study may have more runs: of cells or seeds that this sweep file leaves out."""
        return [entry for entry in self._entries.values() if entry.has_result and entry.key in plan.run_keys]

    def entry(self, planned: PlannedRun) -> Entry | None:
        return self._entries.get(planned.key)

    def look_up(self, planned: PlannedRun) -> Entry | None:
        """A planned run as it is in MLflow now, where others write too."""
        for run in self._search(f"tags.{KEY_TAG} = '{planned.key}' and tags.{names.TAG_STUDY} = '{self.study}'"):
            entry = entry_of(run)
            earlier = self._entries.get(planned.key)
            if earlier is None or earlier.run_id == entry.run_id or entry.has_result:
                self._entries[planned.key] = entry
        return self._entries.get(planned.key)

    def begin(self, output_dir: Path, file_text: str, plan: Plan, keeper: Keeper) -> str:
        """Create or reopen the parent run, and note what the sweep now consists of and who keeps it; the run's id.

        Raises ValueError if somebody else started the sweep at the same moment.
        """
        if self.parent_id is None:
            tags = {
                KIND_TAG: "sweep",
                names.TAG_STUDY: self.study,
                OUTPUT_TAG: str(output_dir),
                KEEPER_TAG: str(keeper),
                _NAME_TAG: self.study,
                "mlflow.note.content": plan.spec.description or "",
            }
            self.parent_id = str(self._client.create_run(self.experiment_id, tags=tags).info.run_id)
            self._yield_to_others()
        else:
            self._client.update_run(self.parent_id, status="RUNNING")
            before = self.keeper()
            if before is None or not before.same_as(keeper):
                self._client.set_tag(self.parent_id, KEEPER_TAG, str(keeper))
                self._client.set_tag(self.parent_id, OUTPUT_TAG, str(output_dir))
        self._client.log_dict(self.parent_id, plan.record(), _RECORD)
        self._client.log_text(self.parent_id, file_text, _FILE)
        return self.parent_id

    def keeper(self) -> Keeper | None:
        """Who keeps the sweep, as its parent run says; None before its start."""
        if self.parent_id is None:
            return None
        return Keeper.of(self._client.get_run(self.parent_id).data.tags.get(KEEPER_TAG))

    def _parents(self) -> list[Run]:
        return self._search(f"tags.`{KIND_TAG}` = 'sweep' and tags.{names.TAG_STUDY} = '{self.study}'")

    def _yield_to_others(self) -> None:
        """Of two that began a sweep at once, whoever sees the other leaves; possibly both."""
        others = [run for run in self._parents() if run.info.run_id != self.parent_id]
        if others:
            self._client.delete_run(str(self.parent_id))
            who = Keeper.of(others[0].data.tags.get(KEEPER_TAG))
            raise ValueError(
                f"the sweep {self.study!r} was begun at this very moment by {who.words if who else 'another process'} as well: "
                "start one of the two again"
            )

    def started_with(self) -> dict[str, Any] | None:
        """The record the sweep was last run with; None before its first run."""
        if self.parent_id is None:
            return None
        try:
            with tempfile.TemporaryDirectory(prefix="resbench-record-") as folder:
                path = self._client.download_artifacts(self.parent_id, _RECORD, folder)
                return dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except (MlflowException, OSError, ValueError) as error:
            if not self._entries:  # killed between creating the parent run and noting the plan: nothing has run yet
                return None
            raise ValueError(
                f"the sweep {self.study!r} has {len(self._entries)} runs, but the record of what they are ({_RECORD} of MLflow run {self.parent_id}) "
                f"cannot be read: {error}. Restore the artifacts, or give the sweep a new `name`."
            ) from error

    def measured(self) -> list[tuple[str, float, float]]:
        """Cell, tokens per second and training FLOPs per token of every run that measured them."""
        return [
            (entry.cell, entry.tokens_per_s, entry.flops_per_token)
            for entry in self._entries.values()
            if entry.has_result and entry.tokens_per_s and entry.flops_per_token
        ]

    def open(self, planned: PlannedRun) -> str:
        """The id of the planned run's MLflow run, created if there is none, marked as running."""
        assert self.parent_id is not None
        existing = self._entries.get(planned.key)
        if existing is not None:
            self._client.update_run(existing.run_id, status="RUNNING")
            self._client.set_tag(existing.run_id, names.TAG_OUTCOME, "running")
            with suppress(MlflowException):  # there is none unless the run failed before
                self._client.delete_tag(existing.run_id, names.TAG_ERROR)
            return existing.run_id
        tags = {**self.tags(planned), names.TAG_OUTCOME: "running"}
        run = self._client.create_run(self.experiment_id, tags=tags)
        self._entries[planned.key] = entry_of(run)
        return str(run.info.run_id)

    def tags(self, planned: PlannedRun) -> dict[str, str]:
        assert self.parent_id is not None
        return {
            KEY_TAG: planned.key,
            _PARENT_TAG: self.parent_id,
            _NAME_TAG: planned.title,
            names.TAG_STUDY: self.study,
            names.TAG_CELL: planned.cell.id,
            names.TAG_PHASE: planned.phase,
            names.TAG_SEED: str(planned.seed),
        }

    def refresh(self, planned: PlannedRun) -> Entry:
        """Read a run again after its worker ended."""
        entry = entry_of(self._client.get_run(self._entries[planned.key].run_id))
        self._entries[planned.key] = entry
        return entry

    def metrics(self, entry: Entry) -> dict[str, float]:
        """The last value of everything a run measured, by name."""
        return dict(self._client.get_run(entry.run_id).data.metrics)

    def has_figures(self, folder: str) -> bool:
        """Whether something is kept with the parent run under that path."""
        assert self.parent_id is not None
        return bool(self._client.list_artifacts(self.parent_id, folder))

    def log_figure(self, figure: "Figure", path: str) -> None:
        """Keep a figure with the parent run."""
        assert self.parent_id is not None
        self._client.log_figure(self.parent_id, figure, path)

    def close(self, planned: PlannedRun) -> Entry:
        """Make the status of a run with a result final, in case its worker died between writing the two."""
        entry = self.refresh(planned)
        if entry.has_result and entry.status == "RUNNING":
            self._client.set_terminated(entry.run_id, "KILLED" if entry.outcome == "pruned" else "FINISHED")
        return entry

    def fail(self, planned: PlannedRun, reason: str) -> None:
        run_id = self._entries[planned.key].run_id
        self._client.set_tag(run_id, names.TAG_OUTCOME, "failed")
        self._client.set_tag(run_id, names.TAG_ERROR, reason[:5000])
        self._client.set_terminated(run_id, "FAILED")
        self.refresh(planned)

    def requeue(self, entry: Entry) -> None:
        """A failed run back among those that wait; it keeps its MLflow run and its checkpoints."""
        for tag in (names.TAG_OUTCOME, names.TAG_ERROR):
            with suppress(MlflowException):  # an earlier attempt at this was cut short
                self._client.delete_tag(entry.run_id, tag)
        self._client.update_run(entry.run_id, status="SCHEDULED")

    def interrupt(self, planned: PlannedRun) -> None:
        """A run stopped on the user's word: shown as killed, taken up again by the next `sweep run`."""
        if planned.key in self._entries and not self.close(planned).has_result:
            self._client.set_terminated(self._entries[planned.key].run_id, "KILLED")

    def hurry(self) -> None:
        """The sweep was asked to stop: do not wait for anything."""

    def finish(self, status: str, summary: Mapping[str, int]) -> None:
        """End the parent run with how many runs ended how."""
        assert self.parent_id is not None
        for outcome, count in summary.items():
            self._client.set_tag(self.parent_id, f"resbench.runs.{outcome}", str(count))
        self._client.set_terminated(self.parent_id, status)

    def _search(self, query: str) -> list[Run]:
        found: list[Run] = []
        token: str | None = None
        while True:
            page = self._client.search_runs([self.experiment_id], query, max_results=_PAGE, page_token=token)
            found += page
            token = page.token
            if not token:
                return found


def entry_of(run: Run) -> Entry:
    metrics, tags, params = run.data.metrics, run.data.tags, run.data.params
    return Entry(
        run_id=run.info.run_id,
        key=tags.get(KEY_TAG, ""),
        outcome=tags.get(names.TAG_OUTCOME, "running"),
        status=run.info.status,
        val_loss=metrics.get(names.VAL_LOSS),
        bits_per_byte=metrics.get(names.VAL_BITS_PER_BYTE),
        unigram_bits_per_byte=_number(params.get(names.DATA_UNIGRAM_BITS_PER_BYTE)),
        tokens_per_s=metrics.get(names.TOKENS_PER_S),
        tokens=int(metrics.get(names.PROGRESS_TOKENS, 0)),
        flops_per_token=_number(params.get(names.FLOPS_PER_TOKEN)),
        cell=tags.get(names.TAG_CELL, ""),
        phase=tags.get(names.TAG_PHASE, ""),
        seconds=metrics.get(names.PROGRESS_WALL_S) or _elapsed(run),
        error=tags.get(names.TAG_ERROR, ""),
    )


def _elapsed(run: Run) -> float | None:
    start, end = run.info.start_time, run.info.end_time
    return (end - start) / 1000 if start and end else None


def _number(text: str | None) -> float | None:
    """A numeric parameter; MLflow keeps parameters as text, and an absent value as ``None``."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
