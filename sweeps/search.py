"""The hyper-parameter search of one cell: an Optuna study, asked and told by the sweep process only.

Runs report their validation loss to the sweep process, which keeps the study; a run never opens the database. One study per cell means that
pruning and sampling never compare unlike models. Every draw is seeded by (search seed, trial number) alone, so a sweep that was killed goes
on exactly as it would have, and the first, random trials of all cells try the same points.

A trial that was under way when the sweep stopped is still RUNNING in the study. It is taken up again under its own number and with its own
parameters, so that the budget of every cell stays exactly ``search.trials``.
"""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.trial import Trial, TrialState

from resbench.sweeps.feasible import excess
from resbench.sweeps.spec import Choices, Range, Search
from resbench.sweeps.strategies import make_pruner, make_sampler


def open_storage(url: str) -> optuna.storages.RDBStorage:
    """The database of studies; SQLite waits for another process's lock instead of failing."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sqlite = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    return optuna.storages.RDBStorage(url, engine_kwargs=sqlite)


class CellSearch:
    """One cell's study. ``tokens`` is the training budget of each trial."""

    def __init__(self, search: Search, study_name: str, storage: optuna.storages.BaseStorage, tokens: int) -> None:
        self._search = search
        self._storage = storage
        self._study = optuna.create_study(
            study_name=study_name,
            storage=storage,
            load_if_exists=True,
            direction="minimize",
            sampler=make_sampler(search, 0),
            pruner=make_pruner(search, tokens),
        )
        self._id = storage.get_study_id_from_name(study_name)
        self._live: dict[int, Trial] = {}

    def asked(self) -> int:
        """How many trials exist, in any state."""
        return len(self._study.get_trials(deepcopy=False))

    def unfinished(self) -> list[int]:
        """Numbers of the trials left without a result by an earlier invocation or by a failure."""
        trials = self._study.get_trials(deepcopy=False)
        return [trial.number for trial in trials if not trial.state.is_finished()]

    def ask(self) -> int | None:
        """Begin the next trial; None once the budget is spent."""
        number = self.asked()
        if number >= self._search.trials:
            return None
        self._study.sampler = make_sampler(self._search, number)
        with _sampling():
            trial = self._study.ask()
        self._live[trial.number] = trial
        return trial.number

    def forget(self) -> None:
        """Trials begun here are for whoever takes them up; what this process drew for them in advance is not kept."""
        self._live.clear()

    def values(self, number: int) -> dict[str, Any]:
        """The hyper-parameters of a trial, drawn on the first call and the same ever after."""
        trial = self._trial(number)
        self._study.sampler = make_sampler(self._search, number)
        with _sampling():
            return {key: _suggest(trial, key, distribution) for key, distribution in self._search.space.items()}

    def report(self, number: int, step: int, loss: float) -> bool:
        """Take note of a validation loss; True if the pruner gives the trial up.

        step: training tokens, or the place of a seed where a trial has several.
        """
        trial = self._trial(number)
        if step not in self._frozen(number).intermediate_values:  # a resumed run passes the same point again
            trial.report(loss if math.isfinite(loss) else math.inf, step)
        return trial.should_prune()

    @property
    def study(self) -> optuna.Study:
        """To be looked at: everything is told through this class."""
        return self._study

    @property
    def step(self) -> str:
        """What a step of the pruner is, in words."""
        return "place of the seed" if self._search.seeds_per_trial > 1 else "training tokens"

    @property
    def constrained(self) -> bool:
        """Whether `tell` needs a trial's metrics."""
        return bool(self._search.constraints)

    def tell(
        self,
        number: int,
        loss: float | None,
        tokens: int,
        *,
        pruned: bool = False,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """A trial's result: its final loss, or None for one that diverged or ran out of memory, which counts as the worst possible.

        metrics: what its run measured, by name; asked for its constraints.
        """
        trial = self._live.pop(number, None) or self._trial(number)
        self._live.pop(number, None)
        trial.set_user_attr("tokens", tokens)
        for metric, value in excess(metrics or {}, self._search.constraints).items():
            if metric not in trial.constraints:  # an earlier attempt at telling it may have been cut short
                trial.set_constraint(metric, value)
        if (
            self._search.sampler.name == "grid"
        ):  # it would stop `Study.optimize` after its last point, and there is none here
            self._study.sampler = optuna.samplers.RandomSampler()
        if pruned:
            self._study.tell(number, state=TrialState.PRUNED)
        else:
            self._study.tell(number, loss if loss is not None and math.isfinite(loss) else math.inf)

    def is_finished(self, number: int) -> bool:
        return self._frozen(number).state.is_finished()

    def complete(self) -> bool:
        """Whether every trial of the budget has a result."""
        return self.asked() >= self._search.trials and not self.unfinished()

    def winner(self) -> tuple[int, dict[str, Any]]:
        """Number and hyper-parameters of the best completed trial that keeps all constraints.

        Where none keeps them, the one that is least above them; where every trial diverged, the one that got furthest: the cell's final runs then
        show that it diverges.
        """
        trials = self._study.get_trials(deepcopy=False)
        finished = [trial for trial in trials if trial.state is TrialState.COMPLETE] or trials

        def rank(trial: optuna.trial.FrozenTrial) -> tuple[bool, float, float, int, int]:
            value = trial.value if trial.value is not None else math.inf
            return (
                not math.isfinite(value),
                above(trial),
                value,
                -trial.user_attrs.get("tokens", 0),
                trial.number,
            )

        best = min(finished, key=rank)
        return best.number, dict(best.params)

    def kept_constraints(self, number: int) -> bool:
        """Whether a finished trial was within all bounds."""
        return above(self._frozen(number)) == 0

    def _frozen(self, number: int) -> optuna.trial.FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]

    def _trial(self, number: int) -> Trial:
        if number not in self._live:
            self._study.sampler = make_sampler(self._search, number)
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._id, number)
            self._live[number] = Trial(self._study, trial_id)
        return self._live[number]


@contextmanager
def _sampling() -> Iterator[None]:
    """Without the samplers' word, for each trial anew, that they take no notice of constraints; the winner keeps them all the same."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Constraints have been set")
        yield


def above(trial: optuna.trial.FrozenTrial) -> float:
    """By how much a trial is above its constraints, summed; 0 for a feasible one."""
    return sum(value for value in trial.constraints.values() if value > 0)


def _suggest(trial: Trial, key: str, distribution: Range | Choices) -> Any:
    if isinstance(distribution, Choices):
        return trial.suggest_categorical(key, distribution.choices)
    low, high, step, log = distribution.low, distribution.high, distribution.step, distribution.log
    if distribution.integer:
        return trial.suggest_int(key, int(low), int(high), step=int(step or 1), log=log)
    return trial.suggest_float(key, float(low), float(high), step=step, log=log)
