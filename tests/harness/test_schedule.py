"""The learning rate over a run."""

import pytest

from resbench.harness.schedule import WarmupStableDecay


def test_rises_stays_and_falls() -> None:
    factor = WarmupStableDecay(steps=100, warmup=0.1, decay=0.2, final=0.0)
    assert factor(0) == pytest.approx(0.1)
    assert factor(9) == 1.0
    assert {factor(step) for step in range(10, 81)} == {1.0}
    assert factor(81) == pytest.approx(19 / 20)
    assert factor(99) == pytest.approx(1 / 20)
    assert factor(100) == 0.0


def test_ends_at_the_final_fraction_without_warmup_or_decay_steps() -> None:
    assert WarmupStableDecay(steps=10, warmup=0.0, decay=1.0, final=0.5)(10) == 0.5
    constant = WarmupStableDecay(steps=3, warmup=0.0, decay=0.0)
    assert [constant(step) for step in range(4)] == [1.0] * 4
    assert WarmupStableDecay(steps=1, warmup=0.05, decay=0.2)(0) == 1.0
