"""Loss spikes: seven standard deviations above the mean of up to a thousand steps before."""

import math

from resbench.harness.callbacks.spikes import FIRST_JUDGED, SpikeCounter


def wave(count: int) -> list[float]:
    """Mean 2 and standard deviation 1."""
    return [1.0, 3.0] * (count // 2)


def test_counts_what_lies_seven_deviations_above() -> None:
    counter = SpikeCounter()
    counter.add([*wave(100), 8.9])
    assert counter.spikes == 0
    counter = SpikeCounter()
    counter.add([*wave(100), 9.1])
    assert counter.spikes == 1
    assert counter.share == 1 / 101


def test_falls_and_early_steps_are_no_spikes() -> None:
    counter = SpikeCounter()
    counter.add([*wave(100), -50.0])
    counter.add([])
    early = SpikeCounter()
    early.add([*wave(FIRST_JUDGED - 2), 1e6])
    assert counter.spikes == early.spikes == 0


def test_only_the_last_thousand_count() -> None:
    counter = SpikeCounter()
    counter.add(
        [1000.0 if i % 2 else 0.0 for i in range(500)]
    )  # a wild start widens the deviation, until it is out of the window
    counter.add(wave(1000))
    counter.add([9.1])
    assert counter.spikes == 1


def test_infinite_values_do_not_poison_what_follows() -> None:
    counter = SpikeCounter()
    counter.add([*wave(100), math.inf, math.nan, 9.1])
    assert counter.spikes == 1
    assert counter.steps == 103


def test_goes_on_from_its_state() -> None:
    values = [math.sin(i) + (30.0 if i % 97 == 0 else 0.0) for i in range(1500)]
    whole, first, second = SpikeCounter(), SpikeCounter(), SpikeCounter()
    whole.add(values)
    first.add(values[:700])
    second.load_state_dict(first.state_dict())
    second.add(values[700:])
    assert second.state_dict() == whole.state_dict()
    assert whole.spikes > 0
