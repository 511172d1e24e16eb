"""The order of training windows: a different permutation every epoch, fixed by the seed, computed at any position."""

import numpy as np
import pytest

from resbench.tasks.order import WindowOrder

GOLDEN = [5, 2, 9, 7, 3, 4, 0, 8, 6, 1, 9, 2]


@pytest.mark.parametrize("windows", [1, 2, 3, 5, 16, 17, 64, 255, 256, 257, 1000, 4097, 44_841])
def test_every_epoch_visits_every_window_once(windows: int) -> None:
    order = WindowOrder(windows, seed=3)
    for epoch in (0, 1, 10**9):
        visited = order.at(np.arange(epoch * windows, (epoch + 1) * windows, dtype=np.int64))
        assert np.array_equal(np.sort(visited), np.arange(windows))


def test_order_depends_on_seed_and_epoch_and_nothing_else() -> None:
    positions = np.arange(500, dtype=np.int64)
    first = WindowOrder(500, seed=0).at(positions)
    assert np.array_equal(first, WindowOrder(500, seed=0).at(positions))
    for other in (WindowOrder(500, seed=1).at(positions), WindowOrder(500, seed=0).at(positions + 500)):
        # Two independent permutations agree on one place in expectation; more than ten would be a chance of about 1e-8.
        assert (first == other).sum() <= 10
    assert (first == positions).sum() <= 10


def test_the_order_does_not_change_between_versions() -> None:
    # Golden: another order would break the pairing of new runs with published ones and the resuming of old checkpoints.
    assert WindowOrder(10, seed=0).at(np.arange(12, dtype=np.int64)).tolist() == GOLDEN


def test_any_position_can_be_asked_for_alone_and_across_epochs() -> None:
    order = WindowOrder(7, seed=5)
    positions = np.array([20, 3, 6, 7, 13, 14], dtype=np.int64)
    assert order.at(positions).tolist() == [int(order.at(positions[i : i + 1])[0]) for i in range(len(positions))]


def test_order_looks_random() -> None:
    # Over seeds, each window must be as likely as any other at a given place: chi-square with 99 degrees of freedom has
    # mean 99 and standard deviation 14.
    n_seeds = 4000
    at_first, step = np.zeros(100), np.zeros(100)
    for seed in range(n_seeds):
        a, b = WindowOrder(100, seed).at(np.array([0, 1], dtype=np.int64)).tolist()
        at_first[a] += 1
        step[(b - a) % 100] += 1
    chi_square = ((at_first - n_seeds / 100) ** 2 / (n_seeds / 100)).sum()
    assert chi_square < 99 + 5 * 14
    assert step[0] == 0
    chi_square_step = ((step[1:] - n_seeds / 99) ** 2 / (n_seeds / 99)).sum()
    assert chi_square_step < 98 + 5 * 14
