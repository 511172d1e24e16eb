"""The search of a cell: the same budget whatever happens, the same draws however often it is killed."""

import math
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import InMemoryStorage

from resbench.sweeps.search import CellSearch, open_storage
from resbench.sweeps.spec import Search
from resbench.sweeps.strategies import PRUNERS, SAMPLERS, check_search


def search(**changes: Any) -> Search:
    space = {"lr": {"low": 1e-4, "high": 1e-1, "log": True}, "layers": {"low": 1, "high": 3}, "kind": ["a", "b"]}
    return Search.model_validate({"trials": 6, "seed": 9, "space": space, "sampler": "tpe", **changes})


def study(folder: Path, given: Search, name: str = "s/cell") -> CellSearch:
    return CellSearch(given, name, open_storage(f"sqlite:///{folder / 'optuna.db'}"), tokens=1000)


def in_memory(given: Search) -> CellSearch:
    """A study for tests that stop nothing in between."""
    return CellSearch(given, "s/cell", InMemoryStorage(), tokens=2700)


def loss(values: dict[str, Any]) -> float:
    return abs(math.log10(values["lr"]) + 2) + values["layers"] + (values["kind"] == "b")


def run(one: CellSearch, *, stop_before: int | None = None) -> None:
    while (number := one.ask()) is not None:
        values = one.values(number)
        if number == stop_before:
            return
        one.tell(number, loss(values), 1000)


@pytest.mark.parametrize("sampler", ["tpe", "random", "quasi-random"])
def test_a_search_killed_between_any_two_trials_ends_as_an_undisturbed_one(tmp_path: Path, sampler: str) -> None:
    given = search(sampler={"name": sampler, "args": {"n_startup_trials": 2} if sampler == "tpe" else {}})
    run(study(tmp_path, given, "undisturbed"))
    undisturbed = study(tmp_path, given, "undisturbed")
    expected = [undisturbed.values(number) for number in range(6)]
    for cut in range(6):
        run(study(tmp_path, given, f"cut-{cut}"), stop_before=cut)
        again = study(tmp_path, given, f"cut-{cut}")
        assert again.unfinished() == [cut]
        again.tell(cut, loss(again.values(cut)), 1000)
        run(again)
        assert [again.values(number) for number in range(6)] == expected
        assert again.complete()
        assert again.winner() == undisturbed.winner()


def test_the_budget_is_the_same_in_every_cell_and_first_draws_too(tmp_path: Path) -> None:
    cells = [study(tmp_path, search(sampler="random"), name) for name in ("a", "b")]
    for cell in cells:
        run(cell)
        assert cell.ask() is None
        assert cell.asked() == 6
    assert [cells[0].values(n) for n in range(6)] == [cells[1].values(n) for n in range(6)]
    assert len({cells[0].values(n)["lr"] for n in range(6)}) == 6


def test_a_diverged_trial_is_the_worst_and_a_pruned_one_is_no_candidate(tmp_path: Path) -> None:
    one = study(tmp_path, search(trials=4, sampler="random"))
    for value, pruned in ((None, False), (0.1, True), (5.0, False), (math.nan, False)):
        number = one.ask()
        assert number is not None
        one.values(number)
        one.tell(number, value, 10, pruned=pruned)
    assert one.complete()
    assert one.winner()[0] == 2


def test_when_everything_diverged_the_one_that_got_furthest_stands_for_the_cell(tmp_path: Path) -> None:
    one = study(tmp_path, search(trials=3, sampler="random"))
    for tokens in (10, 30, 20):
        number = one.ask()
        assert number is not None
        one.values(number)
        one.tell(number, None, tokens)
    assert one.winner()[0] == 1


def test_a_trial_far_behind_the_others_at_the_same_tokens_is_given_up(tmp_path: Path) -> None:
    one = study(tmp_path, search(pruner={"name": "median", "args": {"n_startup_trials": 2, "n_warmup_steps": 100}}))
    for _ in range(2):
        number = one.ask()
        assert number is not None
        one.values(number)
        assert not one.report(number, 100, 1.0)
        one.tell(number, 0.5, 1000)
    number = one.ask()
    assert number is not None
    one.values(number)
    assert not one.report(number, 50, 9.0)  # within the warm-up of 100 tokens
    assert one.report(number, 100, 9.0)
    assert one.report(number, 100, 9.0)  # a resumed run passes the same point once more


PLANE = {"lr": {"low": 1e-4, "high": 1e-1, "log": True}, "decay": {"low": 0.0, "high": 1.0, "step": 0.25}}


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_draws_within_the_space(name: str) -> None:
    space = {"lr": [1e-3, 1e-2], "decay": PLANE["decay"]} if name == "grid" else PLANE
    given = search(sampler=name, space=space)
    check_search(given, 1000)
    one = in_memory(given)
    drawn = set()
    while (number := one.ask()) is not None:
        values = one.values(number)
        assert 1e-4 <= values["lr"] <= 1e-1
        assert values["decay"] in (0, 0.25, 0.5, 0.75, 1)
        drawn.add(tuple(values.values()))
        one.tell(number, abs(math.log10(values["lr"]) + 2) + values["decay"], 1000)
    assert len(drawn) > 3


@pytest.mark.parametrize("name", PRUNERS)
def test_every_pruner_has_a_name(name: str) -> None:
    needs = {"percentile": {"percentile": 25.0}, "threshold": {"upper": 9.0}}
    seeds = 5 if name == "wilcoxon" else 1
    check_search(search(pruner={"name": name, "args": needs.get(name, {})}, seeds_per_trial=seeds), 1000)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sampler": "tpee"}, "unknown sampler 'tpee'. Did you mean 'tpe'"),
        ({"pruner": "mean"}, "unknown pruner 'mean'"),
        (
            {"sampler": {"name": "tpe", "args": {"n_startup": 2}}},
            "tpe takes no such argument. Did you mean 'n_startup_trials'",
        ),
        ({"sampler": {"name": "tpe", "args": {"seed": 2}}}, "set search.seed instead"),
        ({"pruner": "percentile"}, "search.pruner.args"),
        ({"sampler": "grid"}, "search.space.lr: the grid sampler needs"),
        ({"sampler": "cma-es"}, "search.space.kind: cma-es moves a normal distribution"),
        ({"sampler": "cma-es", "space": {"lr": PLANE["lr"]}}, "cma-es needs two or more keys"),
        ({"constraints": {"mem/peak": 3}}, "no run logs such a metric. Did you mean 'mem/peak_gib'"),
        ({"constraints": {"val/loss": 3}}, "the search minimises the loss"),
        ({"pruner": "wilcoxon"}, "Give seeds_per_trial: 5 or more"),
        # 2^-4 < 0.1, and 2^-5 < 0.05 <= 2^-4: the earliest decision that saves a run is before the last seed.
        ({"pruner": "wilcoxon", "seeds_per_trial": 4}, "its p is at least 0.125 before the last seed"),
        (
            {"pruner": {"name": "wilcoxon", "args": {"p_threshold": 0.05}}, "seeds_per_trial": 5},
            "Give seeds_per_trial: 6 or more",
        ),
        ({"pruner": "hyperband", "seeds_per_trial": 5}, "use wilcoxon or none"),
        ({"sampler": "grid", "space": {"lr": [1, 2], "n": {"low": 1, "high": 2}}, "trials": 5}, "only 4 points"),
    ],
)
def test_a_search_that_cannot_work_is_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        check_search(search(**changes), 1000)


def test_a_grid_visits_every_point_once(tmp_path: Path) -> None:
    given = search(sampler="grid", space={"lr": [0.1, 0.2], "n": {"low": 1, "high": 2}}, trials=4)
    one = study(tmp_path, given)
    seen = []
    while (number := one.ask()) is not None:
        seen.append(tuple(one.values(number).items()))
        one.tell(number, 1.0, 10)
    assert len(set(seen)) == 4


def test_a_constrained_search_takes_the_best_of_what_is_allowed() -> None:
    """Loss falls with the learning rate, memory rises with it: the optimum that counts lies at the bound, lr = 1e-2."""

    tpe = {"name": "tpe", "args": {"n_startup_trials": 8}}

    def play(constraints: dict[str, float]) -> tuple[CellSearch, list[float]]:
        given = search(trials=30, space={"lr": PLANE["lr"]}, sampler=tpe, constraints=constraints)
        one = in_memory(given)
        drawn = []
        while (number := one.ask()) is not None:
            drawn.append(math.log10(one.values(number)["lr"]))
            one.tell(number, -drawn[-1], 1000, metrics={"mem/peak_gib": 6 + drawn[-1]})
        return one, drawn

    free, astray = play({})
    bound, drawn = play({"mem/peak_gib": 4.0})
    assert math.log10(free.winner()[1]["lr"]) > -1.5
    number, values = bound.winner()
    assert bound.kept_constraints(number)
    assert -2.3 < math.log10(values["lr"]) <= -2
    # After the random start the one sampler follows the loss over the border, the other stays on this side of it.
    allowed = [sum(one <= -2 for one in each[8:]) / len(each[8:]) for each in (astray, drawn)]
    assert allowed[0] < 0.1
    assert allowed[1] > 0.4


def test_where_no_trial_keeps_a_constraint_the_nearest_one_is_taken_and_an_unmeasured_one_is_not(
    tmp_path: Path,
) -> None:
    one = study(
        tmp_path, search(trials=4, sampler="random", constraints={"mem/peak_gib": 4.0, "stability/gain_forward": 2})
    )
    for loss, metrics in (
        (1.0, {"mem/peak_gib": 6.0, "stability/gain_forward": 1.0}),  # half a bound above
        (3.0, {"mem/peak_gib": 4.4, "stability/gain_forward": 2.2}),  # a tenth and a tenth above
        (0.5, {"mem/peak_gib": 3.0}),  # as far above as twice the bound
        (None, {"mem/peak_gib": 1.0, "stability/gain_forward": 1.0}),  # diverged
    ):
        number = one.ask()
        assert number is not None
        one.values(number)
        one.tell(number, loss, 10, metrics=metrics)
    assert one.winner()[0] == 1
    assert not one.kept_constraints(1)


@pytest.mark.parametrize("pruner", ["successive-halving", "hyperband"])
def test_halving_stops_the_worst_trials_after_a_share_of_their_tokens(pruner: str) -> None:
    """27 trials of 2700 tokens that report every 100, the first rung: losses never cross, so the best one must survive and most end early."""
    given = search(trials=27, sampler="random", space={"lr": PLANE["lr"]}, pruner=pruner)
    one = in_memory(given)
    spent = {}
    losses = {}
    while (number := one.ask()) is not None:
        losses[number] = abs(math.log10(one.values(number)["lr"]) + 2)
        for tokens in range(100, 2701, 100):
            pruned = one.report(number, tokens, losses[number] + 100 / tokens)
            if pruned or tokens == 2700:
                one.tell(number, losses[number], tokens, pruned=pruned)
                spent[number] = tokens
                break
    assert spent[min(losses, key=losses.__getitem__)] == 2700
    assert one.winner()[0] == min(losses, key=losses.__getitem__)
    # Hyperband lets some trials train to the end unwatched, one in four of its brackets here.
    assert sum(spent.values()) < 27 * 2700 * (0.4 if pruner == "successive-halving" else 0.7)
    assert set(spent.values()) <= {100, 300, 900, 2700}


@pytest.mark.parametrize(("seeds", "pruned_at"), [((6.0, 5, 3, 4, 1, 2), 3), ((1.0, 2, 3, 4, 5, 6), 5)])
def test_wilcoxon_compares_seed_by_seed(seeds: tuple[float, ...], pruned_at: int) -> None:
    """Seeds differ by 1, trials by 0.01: only in pairs is a trial clearly worse, and four pairs are the fewest that say so (2^-4 < 0.1).

    Optuna also wants the mean so far to be worse than the best trial's mean over all seeds: with the easy seeds first that takes longer.
    """
    one = in_memory(search(trials=3, sampler="random", pruner="wilcoxon", seeds_per_trial=6))
    found = []
    for worse in (0.0, 0.01, -0.01):
        number = one.ask()
        assert number is not None
        one.values(number)
        given_up = [one.report(number, place, seed + worse * (place + 1)) for place, seed in enumerate(seeds)]
        found.append(given_up.index(True) if True in given_up else None)
        one.tell(number, sum(seeds) / 6 + worse, 1000, pruned=True in given_up)
    assert found == [None, pruned_at, None]
    assert one.winner()[0] == 2
