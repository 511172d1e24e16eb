"""The search of a cell: the same budget whatever happens, the same draws however often it is killed."""

import math
from pathlib import Path
from typing import Any

import pytest

from resbench.sweeps.search import PRUNERS, SAMPLERS, CellSearch, check_search, open_storage
from resbench.sweeps.spec import Search


def search(**changes: Any) -> Search:
    space = {"lr": {"low": 1e-4, "high": 1e-1, "log": True}, "layers": {"low": 1, "high": 3}, "kind": ["a", "b"]}
    return Search.model_validate({"trials": 6, "seed": 9, "space": space, "sampler": "tpe", **changes})


def study(folder: Path, given: Search, name: str = "s/cell") -> CellSearch:
    return CellSearch(given, name, open_storage(f"sqlite:///{folder / 'optuna.db'}"), tokens=1000)


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


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "grid"])
def test_every_sampler_has_a_name(name: str) -> None:
    check_search(search(sampler=name), 1000)


@pytest.mark.parametrize("name", [name for name in PRUNERS if name not in ("percentile", "threshold")])
def test_every_pruner_has_a_name(name: str) -> None:
    check_search(search(pruner=name), 1000)


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
