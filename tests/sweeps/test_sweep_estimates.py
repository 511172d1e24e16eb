"""Time left, numbers and differences as people read them."""

from typing import Any

import pytest

from resbench.sweeps.changes import compare, refusal
from resbench.sweeps.progress import Eta, count, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.6, "1 min"),
        (75, "1 min 15 s"),
        (3600, "1 h"),
        (5400, "1 h 30 min"),
        (2e5, "2 d 7 h"),
        (float("inf"), "an unknown time"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(9.87, "9.9 s"), (75, "1.2 min"), (5400, "1.5 h"), (2e5, "2.3 d"), (1e9, "12000 d")]
)
def test_durations_as_one_number(seconds: float, text: str) -> None:
    assert duration(seconds, digits=2) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (999, "999"), (12_345, "12.3k"), (3.2e6, "3.2M"), (8.7e18, "8.7E")]
)
def test_counts(value: float, text: str) -> None:
    assert count(value) == text


def test_time_left_follows_the_pace_so_far() -> None:
    now = [0.0]
    eta = Eta(remaining=100.0, workers=2, clock=lambda: now[0])
    assert eta.seconds() == 50  # nothing done: the plan's estimate, shared by two workers
    now[0] = 30.0
    eta.done(20.0)
    assert eta.seconds() == pytest.approx(80 * 30 / 20)
    assert eta.seconds(under_way=10.0) == pytest.approx(70 * 30 / 30)  # half-done runs count by their tokens


def record(**changes: Any) -> dict[str, Any]:
    base = {"cells": {"scheme=mhc": {"model": {"learning_rate": 0.01}}}, "seeds": [0, 1], "search": None}
    return {**base, **changes}


def test_nothing_changed_is_nothing_to_say() -> None:
    changes = compare(record(), record(seeds=[1, 0]))
    assert changes.additions == changes.conflicts == ()
    assert refusal("s", changes, extend=False) is None


def test_new_cells_and_seeds_need_a_word_and_nothing_else_will_do() -> None:
    more = record(cells={**record()["cells"], "scheme=hc": {}}, seeds=[0, 1, 2])
    changes = compare(record(), more)
    assert changes.additions == ("new cell scheme=hc", "new seed 2")
    assert "--extend" in str(refusal("s", changes, extend=False))
    assert refusal("s", changes, extend=True) is None
    for conflict in (
        record(cells={}),
        record(seeds=[0]),
        record(search={"trials": 3}),
        record(cells={"scheme=mhc": {"model": {}}}),
    ):
        changes = compare(record(), conflict)
        assert changes.conflicts
        assert "new `name`" in str(refusal("s", changes, extend=True))


def test_many_differences_stay_on_one_screen() -> None:
    before = record(cells={f"cell={i}": {} for i in range(300)})
    text = str(refusal("s", compare(before, record(cells={})), extend=False))
    assert "... and 292 more" in text
    assert len(text.splitlines()) < 15
