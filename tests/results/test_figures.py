"""Figures: the numbers they are drawn from, stable colours, and a reason in words where there is too little to draw."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import simulated
from simulated import Store

from resbench.results.curves import load_curves, load_profiles
from resbench.results.figures import style
from resbench.results.figures.cost import throughput_and_memory
from resbench.results.figures.gain import gain_ticks
from resbench.results.figures.loss import power_of_ten
from resbench.results.figures.numbers import (
    CURVE_COLUMNS,
    METRICS,
    cost_numbers,
    curve_numbers,
    difference_numbers,
    gain_numbers,
)
from resbench.results.figures.study import NAMES, draw_study
from resbench.results.leaderboard import Leaderboard, make_leaderboard
from resbench.results.runs import load_runs


@pytest.fixture(scope="module")
def curves(demo: Leaderboard, store: Store) -> pd.DataFrame:
    return load_curves(store.uri, demo.runs["run_id"].tolist(), METRICS)


@pytest.fixture(scope="module")
def profiles(demo: Leaderboard, store: Store) -> pd.DataFrame:
    return load_profiles(store.uri, demo.runs["run_id"].tolist())


def test_a_curve_is_the_mean_over_seeds_with_their_range(demo: Leaderboard, curves: pd.DataFrame) -> None:
    numbers = curve_numbers(demo, curves)
    assert list(numbers.columns) == list(CURVE_COLUMNS)
    cell = next(cell for cell in demo.cells if cell.label == "hc" and cell.group.size == "400k")
    own = numbers[(numbers["label"] == "hc") & (numbers["size"] == "400k")]
    assert own["tokens"].tolist() == [
        simulated.BUDGET * i // simulated.VALIDATIONS for i in range(1, simulated.VALIDATIONS + 1)
    ]
    last = own.iloc[-1]
    assert last["loss"] == pytest.approx(np.mean(list(cell.losses.values())))
    assert (last["loss_low"], last["loss_high"]) == (min(cell.losses.values()), max(cell.losses.values()))
    assert last["flops"] == pytest.approx(simulated.BUDGET * (cell.flops_per_token or 0))
    assert (own["n"] == 3).all()


def test_the_difference_along_a_curve_ends_at_the_paired_difference(demo: Leaderboard, curves: pd.DataFrame) -> None:
    numbers = curve_numbers(demo, curves)
    for cell in demo.cells:
        last = numbers[(numbers["label"] == cell.label) & (numbers["size"] == cell.group.size)].iloc[-1]
        if cell.comparison is None:
            assert np.isnan(last["difference"])
        else:
            assert last["difference"] == pytest.approx(cell.comparison.difference.mean)
            assert last["pairs"] == cell.comparison.difference.n


def test_wall_clock_is_read_at_the_tokens_of_each_validation(demo: Leaderboard, curves: pd.DataFrame) -> None:
    """Simulated runs keep a constant pace, so that seconds are tokens over tokens per second."""
    numbers = curve_numbers(demo, curves)
    own = numbers[(numbers["label"] == "mhc") & (numbers["size"] == "100k")]
    assert (own["wall_s"] / own["tokens"]).std() == pytest.approx(0, abs=1e-9)
    without = curve_numbers(demo, curves[curves["metric"] == "val/loss"])
    assert without["wall_s"].isna().all()


def test_pairs_and_costs_have_a_row_for_each_run(demo: Leaderboard) -> None:
    differences, costs = difference_numbers(demo), cost_numbers(demo)
    assert len(differences) == 2 * 3 * 3  # sizes, schemes compared, pairs
    assert len(costs) == 25
    by_cell = differences.groupby(["label", "size"])
    assert np.allclose(by_cell["pair_difference"].mean(), by_cell["difference"].first())


def test_panels_go_from_small_to_large_whatever_was_run_first(demo_runs: pd.DataFrame) -> None:
    large_first = demo_runs.assign(
        started=demo_runs["started"] - pd.to_timedelta((demo_runs["size"] == "400k").astype(int), unit="D")
    )
    assert cost_numbers(make_leaderboard(large_first, "demo"))["size"].drop_duplicates().tolist() == ["100k", "400k"]


def test_gain_numbers_follow_the_product_through_depth(demo: Leaderboard, profiles: pd.DataFrame) -> None:
    """hc is simulated with a gain of 1.09 per sublayer: after 12 sublayers of the 400k model the product is near 1.09^12 = 2.8."""
    numbers = gain_numbers(demo, profiles)
    last = numbers[(numbers["label"] == "hc") & (numbers["size"] == "400k")].iloc[-1]
    assert last["sublayer"] == 2 * simulated.DEPTH["400k"] - 1
    assert last["composite_forward"] == pytest.approx(1.09**12, rel=0.1)
    assert last["composite_forward_low"] <= last["composite_forward"] <= last["composite_forward_high"]
    assert (numbers.loc[numbers["label"] == "resnet", "composite_forward"] == 1).all()


def test_too_little_to_draw_is_said_in_words(
    store: Store, demo: Leaderboard, curves: pd.DataFrame, profiles: pd.DataFrame
) -> None:
    nothing = draw_study(replace(demo, cells=[], runs=demo.runs.iloc[:0]), curves.iloc[:0], profiles.iloc[:0])
    assert [drawing.name for drawing in nothing] == list(NAMES)
    for drawing in nothing:
        assert drawing.svg == ""
        assert drawing.reason.endswith(".")
    two_points = curves[curves["tokens"] >= 0.9 * simulated.BUDGET]
    short = {drawing.name: drawing for drawing in draw_study(demo, two_points, profiles)}
    assert "validate more often" in short["loss_tokens"].reason
    assert short["cost"].svg


def test_one_seed_and_one_scheme_can_be_drawn(store: Store) -> None:
    runs = load_runs(store.uri, "single")
    alone = make_leaderboard(runs[runs["scheme"] == "resnet"], "single")
    ids = alone.runs["run_id"].tolist()
    drawn = {
        drawing.name: drawing
        for drawing in draw_study(alone, load_curves(store.uri, ids, METRICS), load_profiles(store.uri, ids))
    }
    assert drawn["loss_tokens"].svg
    assert "in common" in drawn["difference"].reason


def test_a_scheme_has_the_same_colour_in_every_study() -> None:
    small = style.styles([("mhc", "mhc"), ("resnet", "resnet")])
    large = style.styles([(name, name) for name in ("hc", "identity-hc", "mhc", "my-plugin", "resnet", "wide")])
    assert small["mhc"].colour == large["mhc"].colour == style.SCHEME_COLOURS["mhc"]
    assert large["my-plugin"].colour == style.scheme_colour("my-plugin")
    assert style.scheme_colour("my-plugin") in style.PLUGIN_COLOURS
    assert len({chosen.colour for chosen in large.values()}) == len(large)


def test_variants_of_a_scheme_are_told_apart() -> None:
    labels = [(f"mhc, n = {n}", "mhc") for n in (16, 2, 4, 8)]
    chosen = style.styles(labels)
    assert list(chosen) == [f"mhc, n = {n}" for n in (2, 4, 8, 16)]
    assert len({(one.colour, one.marker) for one in chosen.values()}) == 4


def test_schemes_are_listed_with_the_reference_first_and_plugins_last() -> None:
    chosen = style.styles([(name, name) for name in ("aaa-plugin", "mhc", "wide", "resnet", "hc")])
    assert list(chosen) == ["resnet", "hc", "mhc", "wide", "aaa-plugin"]


@pytest.mark.parametrize(
    ("raw", "shown"), [("a$b$", r"a\$b\$"), ("a\nb", "a\N{REPLACEMENT CHARACTER}b"), ("x" * 50, "x" * 31 + "…")]
)
def test_labels_are_shown_plainly(raw: str, shown: str) -> None:
    assert style.plain(raw) == shown


@pytest.mark.parametrize(("low", "high"), [(0.8, 1.25), (0.9, 3.2), (0.5, 40), (0.8, 3000), (1e-6, 1e30)])
def test_gain_axes_have_a_few_round_ticks_and_one_of_them_is_one(low: float, high: float) -> None:
    ticks = gain_ticks(low, high)
    assert 2 <= len(ticks) <= 7
    assert 1.0 in ticks
    assert all(low <= tick <= high for tick in ticks)


def test_powers_of_ten() -> None:
    assert [power_of_ten(value) for value in (0.5, 20, 1e5, 2e10, 5e18, 1e-4)] == [
        "0.5",
        "20",
        "10⁵",
        "2·10¹⁰",
        "5·10¹⁸",
        "10⁻⁴",
    ]


def test_a_figure_with_many_groups_draws_some_and_says_so(demo: Leaderboard) -> None:
    numbers = cost_numbers(demo)
    many = pd.concat([numbers.assign(setting=f"depth={depth}") for depth in range(8)], ignore_index=True)
    drawing = throughput_and_memory(many, style.styles((cell.label, cell.scheme) for cell in demo.cells))
    assert "first 6 of 16" in drawing.caption
    assert len(drawing.numbers) == len(many)
