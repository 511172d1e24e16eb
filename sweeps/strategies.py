"""Samplers and pruners by their names in a sweep file, and the checks that a search can work before anything runs.

Steps of a pruner are training tokens. Where a trial is trained with several seeds (``search.seeds_per_trial``) they are the places of its seeds, 0,
1, ..., each with the final loss of that seed: the wilcoxon pruner gives a trial up once its losses so far, paired by seed with the best trial's, are
worse by a signed-rank test.
"""

import inspect
import math
import warnings
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import optuna

from resbench.sweeps.feasible import check_bounds
from resbench.sweeps.spec import Choices, Named, Search
from resbench.sweeps.yamlfile import did_you_mean

T = TypeVar("T")

SAMPLERS: dict[str, type[optuna.samplers.BaseSampler]] = {
    "tpe": optuna.samplers.TPESampler,
    "random": optuna.samplers.RandomSampler,
    "gp": optuna.samplers.GPSampler,
    "quasi-random": optuna.samplers.QMCSampler,
    "cma-es": optuna.samplers.CmaEsSampler,
    "grid": optuna.samplers.GridSampler,
}
PRUNERS: dict[str, type[optuna.pruners.BasePruner]] = {
    "none": optuna.pruners.NopPruner,
    "median": optuna.pruners.MedianPruner,
    "percentile": optuna.pruners.PercentilePruner,
    "successive-halving": optuna.pruners.SuccessiveHalvingPruner,
    "hyperband": optuna.pruners.HyperbandPruner,
    "threshold": optuna.pruners.ThresholdPruner,
    "wilcoxon": optuna.pruners.WilcoxonPruner,
}
_DRAWN_PER_TRIAL = (
    "tpe",
    "random",
    "gp",
    "cma-es",
)  # the others walk a fixed sequence and need one seed for the whole study


def check_search(search: Search, tokens: int) -> None:
    """Raises ValueError naming the key for an unknown sampler or pruner, arguments they do not take, or a search that cannot do what it says."""
    make_sampler(search, 0)
    make_pruner(search, tokens)
    if search.sampler.name == "grid":
        points = math.prod(len(values) for values in _grid(search).values())
        if search.trials > points:
            raise ValueError(f"search.trials: {search.trials}, but the grid of search.space has only {points} points")
    if search.sampler.name == "cma-es":
        _check_for_cma_es(search)
    check_bounds(search.constraints)
    _check_steps(search)


def _check_for_cma_es(search: Search) -> None:
    for key, distribution in search.space.items():
        if isinstance(distribution, Choices):
            raise ValueError(
                f"search.space.{key}: cma-es moves a normal distribution and cannot draw from `choices`; give low and high, or use tpe"
            )
    if len(search.space) == 1:
        raise ValueError("search.sampler: cma-es needs two or more keys in search.space; with one, use tpe or gp")


def _check_steps(search: Search) -> None:
    """Whether the pruner's steps are what it thinks they are, and whether it can ever prune."""
    pruner, seeds = search.pruner, search.seeds_per_trial
    if pruner.name != "wilcoxon":
        if seeds > 1 and pruner.name != "none":
            raise ValueError(
                f"search.pruner: {pruner.name} compares losses after so many tokens, but with seeds_per_trial: {seeds} a trial reports one loss "
                "per seed; use wilcoxon or none"
            )
        return
    threshold = float(pruner.args.get("p_threshold", 0.1))
    # Pruning after the last seed saves nothing, and n losses that are all worse have a one-sided p of 2^-n.
    before_last = seeds - 1
    needed = max(2, int(pruner.args.get("n_startup_steps", 2)))
    while 2.0**-needed >= threshold and needed < 100:
        needed += 1
    if before_last < needed:
        raise ValueError(
            f"search.pruner: wilcoxon compares a trial with the best one seed by seed; with seeds_per_trial: {seeds} its p is at least "
            f"{2.0**-before_last:.3g} before the last seed and p_threshold is {threshold:g}, so it could never save a run. "
            f"Give seeds_per_trial: {needed + 1} or more"
        )


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
