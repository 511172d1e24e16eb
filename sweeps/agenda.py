"""What to run next: searches first, then final runs at each cell's best hyper-parameters, seed by seed.

Everything here can be rebuilt from MLflow and the Optuna database, which is what happens when a sweep is run again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from resbench.sweeps.lease import Lease
from resbench.sweeps.ledger import Entry, Ledger
from resbench.sweeps.plan import CellPlan, Plan, PlannedRun
from resbench.sweeps.search import CellSearch, open_storage


@dataclass(frozen=True)
class Task:
    """A run to start now, with its cell's plan and the hyper-parameters of its trial or of the search's winner.

    lease: the right to train it, where others would take it over.
    """

    planned: PlannedRun
    cell: CellPlan
    values: Mapping[str, Any]
    lease: Lease | None = None


class Agenda:
    """The runs still to do. A failed run is not offered again (the next `sweep run` retries it); one given back is."""

    def __init__(self, plan: Plan, ledger: Ledger, optuna_url: str) -> None:
        self._plan = plan
        self._ledger = ledger
        self._searches: dict[str, CellSearch] = {}
        self._in_flight: dict[str, PlannedRun] = {}
        self._failed: set[str] = set()
        if plan.spec.search:
            storage = open_storage(optuna_url)
            for cell in plan.cells:
                name = f"{plan.spec.name}/{cell.cell.id}"
                self._searches[cell.cell.id] = CellSearch(plan.spec.search, name, storage, cell.tokens)
            self._reconcile(optuna_url)

    drained = False
    """Whether the sweep was asked to stop through the database; here it is asked through its folder."""

    def hurry(self) -> None:
        """Do not wait for servers that are away: this process was asked to leave."""
        self._ledger.hurry()

    def next(self, fits: Callable[[CellPlan], bool] = lambda _cell: True) -> Task | None:
        """The next run to start, or None if there is none until another one ends. Cells that do not fit, where time is short, are passed over."""
        in_flight = {cell.cell.id: 0 for cell in self._plan.cells}
        for planned in self._in_flight.values():
            if planned.phase == "search":
                in_flight[planned.cell.id] += 1
        # One trial per cell at a time while anything else is left to do: a sampler learns only from trials that have ended.
        order = sorted(self._plan.cells, key=lambda cell: in_flight[cell.cell.id])
        quiet = [cell for cell in order if in_flight[cell.cell.id] == 0]
        busy = [cell for cell in order if in_flight[cell.cell.id] > 0]
        return self._next_trial(quiet, fits) or self._next_final(fits) or self._next_trial(busy, fits)

    def started(self, planned: PlannedRun) -> None:
        self._in_flight[planned.key] = planned

    def waits(self) -> bool:
        """Whether there may be something to do later though nothing is under way here: never, nobody else works on it."""
        return False

    def lost(self) -> set[str]:
        """Runs that were given to somebody else meanwhile: none, for the same reason."""
        return set()

    def give_back(self, planned: PlannedRun, *, died: bool = False) -> None:
        """A run that stopped without a result and should be started again."""
        self._in_flight.pop(planned.key, None)

    def failed(self, planned: PlannedRun, reason: str) -> None:
        """A failed trial stays unfinished in its study, so that a retry keeps its number and the cells' budgets stay equal."""
        del self._in_flight[planned.key]
        self._failed.add(planned.key)

    def retry(self) -> None:
        """Offer failed runs again."""
        self._failed.clear()

    def ended(self, planned: PlannedRun, entry: Entry) -> None:
        """A run with a result; trials pass it on to their study."""
        self._in_flight.pop(planned.key, None)
        if planned.phase == "search":
            self._tell(planned, entry)

    def give_up(self, planned: PlannedRun, tokens: int, loss: float) -> bool:
        """Whether the pruner ends this run at this validation; final runs are never pruned."""
        return planned.phase == "search" and self._searches[planned.cell.id].report(planned.number, tokens, loss)

    @property
    def searches(self) -> Mapping[str, CellSearch]:
        """The search of each cell; none for a sweep without."""
        return self._searches

    def blocked_cells(self) -> list[str]:
        """Cells whose final runs cannot start because a trial of their search failed."""
        return [cell for cell, search in self._searches.items() if not search.complete()]

    def winners(self) -> dict[str, Mapping[str, Any]]:
        """The hyper-parameters chosen for each cell whose search is complete."""
        return {cell: search.winner()[1] for cell, search in self._searches.items() if search.complete()}

    def _next_trial(self, cells: list[CellPlan], fits: Callable[[CellPlan], bool]) -> Task | None:
        for cell in cells:
            search = self._searches.get(cell.cell.id)
            if search is None:
                continue
            for number in search.unfinished():
                planned = self._plan.trial(cell.cell, number)
                if planned.key not in self._in_flight and planned.key not in self._failed and fits(cell):
                    return Task(planned, cell, search.values(number))
            fresh = search.ask() if search.asked() < self._plan.trials and fits(cell) else None
            if fresh is not None:
                return Task(self._plan.trial(cell.cell, fresh), cell, search.values(fresh))
        return None

    def _next_final(self, fits: Callable[[CellPlan], bool]) -> Task | None:
        for seed in self._plan.spec.seeds:
            for cell in self._plan.cells:
                planned = self._plan.final(cell.cell, seed)
                entry = self._ledger.entry(planned)
                if planned.key in self._in_flight or planned.key in self._failed or (entry and entry.has_result):
                    continue
                search = self._searches.get(cell.cell.id)
                if (search is not None and not search.complete()) or not fits(cell):
                    continue
                if search is None:
                    return Task(planned, cell, {})
                if search.complete():
                    return Task(planned, cell, search.winner()[1])
        return None

    def _reconcile(self, optuna_url: str) -> None:
        """Studies and books brought together after a sudden end: a result that MLflow has and the study has not is told now."""
        trials_in_books: dict[str, int] = {}
        for entry in self._ledger.entries():
            if entry.phase == "search":
                trials_in_books[entry.cell] = trials_in_books.get(entry.cell, 0) + 1
        for cell in self._plan.cells:
            search = self._searches[cell.cell.id]
            if trials_in_books.get(cell.cell.id, 0) > search.asked():
                raise ValueError(
                    f"MLflow has {trials_in_books[cell.cell.id]} search trials of cell {cell.cell.id!r}, the Optuna database {optuna_url} only "
                    f"{search.asked()}. Bring the database back, or give the sweep a new `name`."
                )
            for number in search.unfinished():
                planned = self._plan.trial(cell.cell, number)
                known = self._ledger.entry(planned)
                if known is not None and known.has_result:
                    self._tell(planned, self._ledger.close(planned))

    def _tell(self, planned: PlannedRun, entry: Entry) -> None:
        search = self._searches[planned.cell.id]
        if not search.is_finished(planned.number):
            search.values(planned.number)  # a study told before its parameters were drawn would not know them
            loss = entry.val_loss if entry.outcome == "complete" else None
            metrics = self._ledger.metrics(entry) if search.constrained else {}
            search.tell(planned.number, loss, entry.tokens, pruned=entry.outcome == "pruned", metrics=metrics)
