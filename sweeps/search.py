"""The hyper-parameter search of one cell: an Optuna study, asked and told by the sweep process only.

Runs report their validation loss to the sweep process, which keeps the study; a run never opens the database. One study per cell means that
pruning and sampling never compare unlike models. Every draw is seeded by (search seed, trial number) alone, so a sweep that was killed goes
on exactly as it would have, and the first, random trials of all cells try the same points.

A trial that was under way when the sweep stopped is still RUNNING in the study. It is taken up again under its own number and with its own
parameters, so that the budget of every cell stays exactly ``search.trials``.
"""

import inspect
import math
import warnings
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import optuna
from optuna.trial import Trial, TrialState

from resbench.sweeps.spec import Choices, Named, Range, Search
from resbench.sweeps.yamlfile import did_you_mean

T = TypeVar("T")

SAMPLERS: dict[str, type[optuna.samplers.BaseSampler]] = {
    "tpe": optuna.samplers.TPESampler,
    "random": optuna.samplers.RandomSampler,
    "gp": optuna.samplers.GPSampler,
    "quasi-random": optuna.samplers.QMCSampler,
    "grid": optuna.samplers.GridSampler,
}
PRUNERS: dict[str, type[optuna.pruners.BasePruner]] = {
    "none": optuna.pruners.NopPruner,
    "median": optuna.pruners.MedianPruner,
    "percentile": optuna.pruners.PercentilePruner,
    "successive-halving": optuna.pruners.SuccessiveHalvingPruner,
    "hyperband": optuna.pruners.HyperbandPruner,
    "threshold": optuna.pruners.ThresholdPruner,
}
_DRAWN_PER_TRIAL = ("tpe", "random", "gp")  # the others walk a fixed sequence and need one seed for the whole study


def open_storage(url: str) -> optuna.storages.RDBStorage:
    """The database of studies; SQLite waits for another process's lock instead of failing."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sqlite = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    return optuna.storages.RDBStorage(url, engine_kwargs=sqlite)


def check_search(search: Search, tokens: int) -> None:
    """Raises ValueError naming the key for an unknown sampler or pruner, arguments they do not take, or a grid smaller than the budget."""
    make_sampler(search, 0)
    make_pruner(search, tokens)
    if search.sampler.name == "grid":
        points = math.prod(len(values) for values in _grid(search).values())
        if search.trials > points:
            raise ValueError(f"search.trials: {search.trials}, but the grid of search.space has only {points} points")


def make_sampler(search: Search, number: int) -> optuna.samplers.BaseSampler:
    """The sampler that draws trial ``number``."""
    chosen = _class(search.sampler, SAMPLERS, "sampler")
    seed = search.seed
    if search.sampler.name in _DRAWN_PER_TRIAL:
        seed = int(np.random.SeedSequence([search.seed, number]).generate_state(1)[0])
    arguments: dict[str, Any] = {"seed": seed}
    if search.sampler.name == "quasi-random":
        arguments |= {
            "warn_independent_sampling": False,
            "warn_asynchronous_seeding": False,
        }  # its first point is always drawn alone
    if search.sampler.name == "grid":
        arguments["search_space"] = _grid(search)
    return _build(chosen, search.sampler, arguments, "sampler")


def make_pruner(search: Search, tokens: int) -> optuna.pruners.BasePruner:
    """The pruner; resources and steps are tokens, and the rungs of the halving pruners default to the 1/27 .. 1 of the run's ``tokens``."""
    chosen = _class(search.pruner, PRUNERS, "pruner")
    arguments: dict[str, Any] = {}
    if search.pruner.name == "hyperband":
        arguments = {"min_resource": max(1, tokens // 27), "max_resource": tokens}
    elif search.pruner.name == "successive-halving":
        arguments = {"min_resource": max(1, tokens // 27), "reduction_factor": 3}
    return _build(chosen, search.pruner, arguments, "pruner")


class CellSearch:
    """One cell's study. ``tokens`` is the training budget of each trial."""

    def __init__(self, search: Search, study_name: str, storage: optuna.storages.RDBStorage, tokens: int) -> None:
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
        return {key: _suggest(trial, key, distribution) for key, distribution in self._search.space.items()}

    def report(self, number: int, tokens: int, loss: float) -> bool:
        """Take note of a validation loss after ``tokens`` training tokens; True if the pruner gives the trial up."""
        trial = self._trial(number)
        if tokens not in self._frozen(number).intermediate_values:  # a resumed run passes the same point again
            trial.report(loss if math.isfinite(loss) else math.inf, tokens)
        return trial.should_prune()

    def tell(self, number: int, loss: float | None, tokens: int, *, pruned: bool = False) -> None:
        """A trial's result: its final loss, or None for one that diverged or ran out of memory, which counts as the worst possible."""
        trial = self._live.pop(number, None) or self._trial(number)
        self._live.pop(number, None)
        trial.set_user_attr("tokens", tokens)
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
        """Number and hyper-parameters of the best completed trial.

        Where every trial diverged, the one that got furthest: the cell's final runs then show that it diverges.
        """
        trials = self._study.get_trials(deepcopy=False)
        finished = [trial for trial in trials if trial.state is TrialState.COMPLETE] or trials

        def rank(trial: optuna.trial.FrozenTrial) -> tuple[float, int, int]:
            return (
                trial.value if trial.value is not None else math.inf,
                -trial.user_attrs.get("tokens", 0),
                trial.number,
            )

        best = min(finished, key=rank)
        return best.number, dict(best.params)

    def _frozen(self, number: int) -> optuna.trial.FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]

    def _trial(self, number: int) -> Trial:
        if number not in self._live:
            self._study.sampler = make_sampler(self._search, number)
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._id, number)
            self._live[number] = Trial(self._study, trial_id)
        return self._live[number]


def _suggest(trial: Trial, key: str, distribution: Range | Choices) -> Any:
    if isinstance(distribution, Choices):
        return trial.suggest_categorical(key, distribution.choices)
    low, high, step, log = distribution.low, distribution.high, distribution.step, distribution.log
    if distribution.integer:
        return trial.suggest_int(key, int(low), int(high), step=int(step or 1), log=log)
    return trial.suggest_float(key, float(low), float(high), step=step, log=log)


def _grid(search: Search) -> Mapping[str, list[Any]]:
    grid: dict[str, list[Any]] = {}
    for key, distribution in search.space.items():
        if isinstance(distribution, Choices):
            grid[key] = list(distribution.choices)
        elif distribution.step is not None or (distribution.integer and not distribution.log):
            step = distribution.step or 1
            count = math.floor((distribution.high - distribution.low) / step + 1e-9) + 1
            grid[key] = [distribution.low + i * step for i in range(count)]
        else:
            raise ValueError(f"search.space.{key}: the grid sampler needs `choices`, or `step` with low and high")
    return grid


def _class(given: Named, known: dict[str, type[T]], kind: str) -> type[T]:
    if given.name not in known:
        raise ValueError(
            f"search.{kind}: unknown {kind} {given.name!r}.{did_you_mean(given.name, known)} Known: {', '.join(known)}"
        )
    return known[given.name]


def _build(chosen: type[T], given: Named, arguments: dict[str, Any], kind: str) -> T:
    if "seed" in given.args:
        raise ValueError(f"search.{kind}.args.seed: set search.seed instead")
    parameters = [name for name in inspect.signature(chosen).parameters if name not in ("seed", "search_space")]
    for name in given.args:
        if name not in parameters:
            known = ", ".join(parameters) or "none"
            hint = did_you_mean(name, parameters)
            raise ValueError(
                f"search.{kind}.args.{name}: {given.name} takes no such argument.{hint} Its arguments: {known}"
            )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return chosen(**{**arguments, **given.args})
    except (TypeError, ValueError) as error:
        raise ValueError(f"search.{kind}.args: {given.name} refuses {given.args}: {error}") from None
