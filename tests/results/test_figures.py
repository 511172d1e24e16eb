"""Figures: the numbers they are drawn from, stable colours, and a reason in words where there is too little to draw."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import simulated
from matplotlib.colors import to_rgb
from simulated import Store

from resbench.harness.store import open_store
from resbench.results.curves import load_curves, load_profiles
from resbench.results.figures import difference_compute, facets, gain_training, learning_rate, pareto, sinkhorn, style
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
from resbench.results.figures.scheme import scheme_figure
from resbench.results.figures.study import NAMES, draw_study
from resbench.results.leaderboard import Leaderboard, make_leaderboard
from resbench.results.runs import load_runs


@pytest.fixture(scope="module")
def curves(demo: Leaderboard, store: Store) -> pd.DataFrame:
    return load_curves(store.uri, demo.runs["run_id"].tolist(), METRICS)


@pytest.fixture(scope="module")
def profiles(demo: Leaderboard, store: Store) -> pd.DataFrame:
    return load_profiles(store.uri, demo.runs["run_id"].tolist())


@pytest.fixture
def own_store(tmp_path: Path, empty_store: Path) -> Store:
    uri = f"sqlite:///{shutil.copy(empty_store, tmp_path)}"
    return Store(uri, open_store(uri))


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


def test_a_ladder_shows_every_pair_at_the_compute_of_its_group(demo: Leaderboard, demo_runs: pd.DataFrame) -> None:
    """Two sizes are no ladder; a third with twenty times the tokens makes one."""
    assert difference_compute.difference_compute_numbers(demo).empty
    large = demo_runs[demo_runs["size"] == "400k"]
    large = large.assign(
        size="1m", budget_tokens=20 * large["budget_tokens"], run_id=large["run_id"] + "+", cell=large["cell"] + "+"
    )
    ladder = make_leaderboard(pd.concat([demo_runs, large], ignore_index=True), "demo")
    numbers = difference_compute.difference_compute_numbers(ladder)
    assert len(numbers) == 3 * 3 * 3  # sizes, schemes compared, pairs
    assert numbers.groupby("size")["flops"].nunique().eq(1).all()
    assert numbers.loc[numbers["size"] == "1m", "flops"].iloc[0] == pytest.approx(
        20 * numbers.loc[numbers["size"] == "400k", "flops"].iloc[0]
    )
    of_cell = {
        (cell.label, cell.group.size): cell.comparison.difference.mean for cell in ladder.cells if cell.comparison
    }
    for key, own in numbers.groupby(["label", "size"]):
        assert own["pair_difference"].mean() == pytest.approx(of_cell[key])
    chosen = style.styles((cell.label, cell.scheme) for cell in ladder.cells)
    drawn = difference_compute.difference_over_compute(numbers, chosen)
    assert drawn.svg
    assert drawn.csv().count("\n") == len(numbers) + 1


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


def test_of_many_groups_those_are_drawn_that_compare_lines() -> None:
    def panel(*lines: tuple[str, int]) -> pd.DataFrame:
        return pd.DataFrame([{"label": label, "tokens": at} for label, points in lines for at in range(points)])

    found = [
        ("a", panel(("hc", 3), ("mhc", 3))),
        ("b", panel(("hc", 3), ("mhc", 2))),
        ("c", panel(("hc", 3), ("mhc", 1))),
    ]
    assert [title for title, _ in facets.largest(found, 1, "tokens")] == ["b"], "a single point is no line"
    assert [title for title, _ in facets.largest(found, 3, "tokens")] == ["a", "b"]
    assert [title for title, _ in facets.largest(found[2:], 3, "tokens")] == ["c"], "rather one line than no figure"


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
    assert [power_of_ten(value) for value in (0, 0.5, 20, 1e5, 2e10, 5e18, 1e-4)] == [
        "",
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


def test_the_gain_over_training_is_what_each_run_logged(demo: Leaderboard, curves: pd.DataFrame) -> None:
    numbers = gain_training.gain_training_numbers(demo, curves)
    last = numbers[(numbers["label"] == "hc") & (numbers["size"] == "400k") & (numbers["tokens"] == simulated.BUDGET)]
    assert len(last) == 2 * 3, "two directions, three seeds"
    forward = last[last["direction"] == "forward"]["gain"]
    assert np.allclose(forward, 1.09**12)
    assert np.allclose(last[last["direction"] == "backward"]["gain"], 1.1 * 1.09**12)


def test_the_sinkhorn_error_falls_with_the_budget(own_store: Store, demo: Leaderboard) -> None:
    """A tenth of the simulated error goes with every five iterations, so the figure's line falls by four decades from 5 to 25."""
    schemes = [
        simulated.Scheme("mhc", iterations=t, n_streams=4, fields={"sinkhorn_iterations": str(t)}) for t in (5, 10, 25)
    ]
    simulated.simulate_sweep(own_store.client, "budgets", [simulated.RESNET, *schemes], ["100k"], [0, 1])
    board = make_leaderboard(load_runs(own_store.uri, "budgets"), "budgets")
    numbers = sinkhorn.sinkhorn_numbers(board)
    by_budget = numbers.groupby("sinkhorn_iterations")["column_error"].first()
    assert by_budget.loc[5] / by_budget.loc[25] == pytest.approx(1e4)
    drawn = sinkhorn.error_against_budget(numbers)
    assert drawn.svg
    assert "mhc, n = 4" in drawn.svg
    one = sinkhorn.error_against_budget(sinkhorn.sinkhorn_numbers(demo))
    assert "same Sinkhorn budget (20 iterations)" in one.reason


def test_three_learning_rates_make_a_figure_and_two_do_not(demo: Leaderboard) -> None:
    runs = demo.runs[demo.runs["seed"].isin([0, 1, 2])].copy()
    runs["learning_rate"] = runs["seed"].map({0: 1e-3, 1: 2e-3, 2: 4e-3})
    runs.loc[(runs["scheme"] == "hc") & (runs["seed"] == 2), "outcome"] = "diverged"
    runs.loc[(runs["scheme"] == "mhc") & (runs["seed"] == 2), "learning_rate"] = 1e-3
    numbers = learning_rate.learning_rate_numbers(replace(demo, runs=runs))
    assert "mhc" not in set(numbers["scheme"])
    assert (numbers[numbers["scheme"] == "hc"]["outcome"] == "diverged").sum() == 2  # one of each size
    chosen = style.styles((cell.label, cell.scheme) for cell in demo.cells)
    assert "learning rate" in learning_rate.loss_against_learning_rate(numbers, chosen).svg
    assert learning_rate.learning_rate_numbers(demo).empty


def test_nothing_on_the_front_is_beaten_and_everything_else_is(demo: Leaderboard) -> None:
    numbers = pareto.pareto_numbers(demo)
    assert len(numbers) == 8
    for cost in pareto.COSTS:
        for _, row in numbers.iterrows():
            better = numbers[(numbers[cost] <= row[cost]) & (numbers["val_loss"] < row["val_loss"])]
            assert bool(row[f"front_{cost}"]) == better.empty


def test_a_row_without_a_cost_is_on_no_front() -> None:
    front = pareto.on_front(pd.Series([1.0, np.nan, 2.0, 2.0]), pd.Series([3.0, 0.1, 2.0, 2.0]))
    assert front.tolist() == [True, False, True, False]


def test_a_scheme_s_figure_shows_its_own_lines_and_says_where_it_has_none(
    demo: Leaderboard, curves: pd.DataFrame, profiles: pd.DataFrame
) -> None:
    over_training, through_depth = curve_numbers(demo, curves), gain_numbers(demo, profiles)
    drawn = scheme_figure("mhc", "scheme-mhc", over_training, through_depth)
    assert drawn.svg
    assert set(drawn.numbers["scheme"]) == {"mhc"}
    assert set(drawn.numbers["line"]) == {"100k", "400k"}
    missing = scheme_figure("mhc", "scheme-mhc", over_training.iloc[:0], through_depth.iloc[:0])
    assert "no seed in common" in missing.reason
    assert "it is the reference" in scheme_figure("resnet", "x", over_training, through_depth.iloc[:0]).reason


DEFICIENCIES = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}
"""How colours look to colour-blind people, in linear RGB (Machado, Oliveira and Fernandes 2009, severity 1)."""


def test_built_in_schemes_can_be_told_apart_by_colour_blind_people() -> None:
    """By colour the schemes that are compared most, by colour or else by marker or dash all of them."""
    looks = {name: style.scheme_style(name) for name in style.SCHEME_COLOURS}
    for matrix in DEFICIENCIES.values():
        seen = {
            name: np.clip(np.array(matrix) @ linear(look.colour), 0, 1) ** (1 / 2.4) for name, look in looks.items()
        }
        for first, second in itertools.combinations(looks, 2):
            apart = float(np.linalg.norm(seen[first] - seen[second]))
            other = (looks[first].marker, looks[first].dash) != (looks[second].marker, looks[second].dash)
            assert other or apart > 0.15, (first, second)
    for first, second in itertools.combinations(list(looks)[:5], 2):
        assert np.linalg.norm(linear(looks[first].colour) - linear(looks[second].colour)) > 0.15


@pytest.mark.parametrize("colour", sorted({*style.SCHEME_COLOURS.values(), *style.PLUGIN_COLOURS}))
def test_colours_can_be_seen_on_light_and_on_dark_paper(colour: str) -> None:
    """WCAG asks for 3 : 1 of lines; the lightest of Okabe and Ito's colours has 2.3 on white."""
    luminance = float(np.array([0.2126, 0.7152, 0.0722]) @ linear(colour))
    dark = float(np.array([0.2126, 0.7152, 0.0722]) @ linear("#12171c"))
    assert 1.05 / (luminance + 0.05) >= 2.3
    assert (luminance + 0.05) / (dark + 0.05) >= 3


def test_a_scheme_looks_the_same_whoever_is_compared_with_it() -> None:
    everyone = style.styles([(name, name) for name in (*style.SCHEME_COLOURS, *(f"plugin-{n}" for n in range(40)))])
    for name in ("mhc", "laurel", "plugin-7"):
        alone = style.styles([(name, name), ("resnet", "resnet")])[name]
        assert alone.colour == everyone[name].colour
        assert alone == style.scheme_style(name)
    assert len({(look.colour, look.marker, look.dash) for look in everyone.values()}) == len(everyone)


def linear(colour: str) -> np.ndarray:
    """sRGB as linear light."""
    parts = np.array(to_rgb(colour))
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
