"""Scaling laws: known ones recovered from simulated runs, published ones from published numbers, refusals where data cannot say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from published_laws import C4_ERRORS, C4_LAW, C4_RUNS
from simulated import Store
from simulated_laws import SIZES, TRUTH, ladder

from resbench.results.figures.scaling import NAMES, draw_scaling
from resbench.results.runs import SHARED
from resbench.results.scaling import law as laws
from resbench.results.scaling.cli import main
from resbench.results.scaling.frontier import Multiplier, PowerLaw, multiplier, power_law
from resbench.results.scaling.law import DELTA, Fit, fit
from resbench.results.scaling.points import Point
from resbench.results.scaling.study import Scaling, scaling

# Cerebras-GPT 111M to 13B, twenty tokens per parameter: training FLOPs and loss on the Pile's test set, nats per GPT-2 token
# (Dey et al. 2023, arXiv 2304.03208, and the models' cards).
CEREBRAS = [(2.6e18, 2.566), (1.3e19, 2.299), (6.1e19, 2.184), (2.8e20, 1.996), (1.1e21, 1.834), (6.3e21, 1.704), (2.3e22, 1.575)]  # fmt: skip


def grid(noise: float, generator: np.random.Generator, seeds: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """params, tokens, losses of a run per size, tokens per parameter and seed."""
    points = np.array([(n, n * r) for n in SIZES.values() for r in (5, 10, 20, 40) for _ in range(seeds)])
    params, tokens = points.T
    return params, tokens, TRUTH.loss(params, tokens) * np.exp(generator.normal(0, noise, len(points)))


def seeded(costs: np.ndarray, losses: np.ndarray) -> list[Point]:
    """A point for each row of [points, seeds]."""
    return [
        Point(
            str(i),
            float(i),
            1.0,
            dict(enumerate(np.log(loss))),
            dict(enumerate(np.log(np.broadcast_to(cost, len(loss))))),
        )
        for i, (cost, loss) in enumerate(zip(costs, losses, strict=True))
    ]


@pytest.fixture(scope="module")
def study() -> Scaling:
    """resnet and two schemes worth 1.3 and 1.1 times its compute, five sizes, four budgets, three seeds."""
    return scaling(ladder({"resnet": 1.0, "mhc": 1.3, "hc": 1.1}), "laws", resamples=60)


def test_a_law_without_noise_is_found_exactly() -> None:
    found = fit(*grid(0.0, np.random.default_rng(0), seeds=1))
    assert vars(found.law) == pytest.approx(vars(TRUTH), rel=1e-3)
    assert np.abs(found.residuals).max() < 1e-6
    assert found.law.exponent == pytest.approx(0.28 / 0.62, rel=1e-3)


def test_outliers_move_the_fit_less_than_their_size() -> None:
    """The Huber loss: one run a tenth too high among sixty moves a prediction by less than the noise of a run."""
    params, tokens, losses = grid(0.001, np.random.default_rng(1))
    clean = fit(params, tokens, losses).law.loss(60e6, 1.2e9)
    losses[17] *= 1.1
    assert fit(params, tokens, losses).law.loss(60e6, 1.2e9) == pytest.approx(clean, rel=0.001)


def test_the_solver_of_resamples_minimises_what_l_bfgs_does() -> None:
    """Fits to resampled runs from scratch (many starts of L-BFGS) against those that start from the fit to all runs."""
    params, tokens, losses = grid(0.003, np.random.default_rng(2))
    whole = fit(params, tokens, losses, resamples=3, seed=5)
    counts = laws._resampled(params, tokens, 3, np.random.default_rng(5)).astype(int)
    for sample, count in zip(whole.samples, counts, strict=True):
        alone = fit(np.repeat(params, count), np.repeat(tokens, count), np.repeat(losses, count))
        # Five parameters trade off against each other in a long valley; what the data fixes is the loss within its range.
        law = laws.Law(*sample)
        assert law.loss(params, tokens) == pytest.approx(alone.law.loss(params, tokens), rel=3e-5)
        residual = np.log(law.loss(params, tokens) / losses)
        huber = np.where(np.abs(residual) < DELTA, residual**2 / 2, DELTA * (np.abs(residual) - DELTA / 2))
        assert float(count @ huber) / DELTA**2 == pytest.approx(alone.objective, rel=1e-5)


@pytest.mark.slow
def test_intervals_of_the_law_cover_the_truth() -> None:
    """Over 300 simulations they cover in 96 to 99 % (see the module); twenty here, of which 95 % leave out five or more in 1 of 400 tries."""
    generator = np.random.default_rng(3)
    covered = {"alpha": 0, "beta": 0, "E": 0, "prediction": 0}
    for simulation in range(20):
        found = fit(*grid(0.003, generator), resamples=100, seed=simulation)
        for name in ("alpha", "beta", "E"):
            low, high = found.interval(name) or (np.nan, np.nan)
            covered[name] += low <= getattr(TRUTH, name) <= high
        low, high = found.prediction(60e6, 1.2e9) or (np.nan, np.nan)
        covered["prediction"] += low <= float(TRUTH.loss(60e6, 1.2e9)) <= high
    assert min(covered.values()) >= 16, covered


def test_intervals_of_multipliers_and_exponents_cover_the_truth() -> None:
    """300 simulated pairs of power laws, a = .1, multiplier 1.25, four sizes and three seeds that share luck."""
    generator = np.random.default_rng(4)
    costs = np.array([1e15, 1e16, 1e17, 1e18])[:, None]
    covered = np.zeros(2)
    for simulation in range(300):
        luck = generator.normal(0, 0.01, (4, 3))
        reference = 90 * costs**-0.1 * np.exp(luck + generator.normal(0, 0.004, (4, 3)))
        better = 90 * (1.25 * costs) ** -0.1 * np.exp(luck + generator.normal(0, 0.004, (4, 3)))
        ratio = multiplier(seeded(costs, better), seeded(costs, reference), resamples=200, seed=simulation)
        line = power_law(seeded(costs, reference), resamples=200, seed=simulation)
        assert isinstance(ratio, Multiplier)
        assert isinstance(line, PowerLaw)
        for position, (interval, truth) in enumerate(((ratio.interval, 1.25), (line.interval, 0.1))):
            assert interval is not None
            covered[position] += interval[0] <= truth <= interval[1]
    assert covered / 300 == pytest.approx(0.95, abs=0.05)


def test_a_published_frontier_is_found_from_its_published_points() -> None:
    """The paper's law (f / 5.984e22)^-.0737 + .5066, fitted to all but the largest model, falls by .0557 in ln loss per unit of ln f between
    those models; it foretells the largest within 0.5 %. Without the offset: the same slope within a tenth, and a forecast as good.
    """
    line = power_law(seeded(*(np.array(values)[:, None] for values in zip(*CEREBRAS[:-1], strict=True))))
    assert isinstance(line, PowerLaw)
    low, high = ((f / 5.984e22) ** -0.0737 + 0.5066 for f in (CEREBRAS[0][0], CEREBRAS[-2][0]))
    published = np.log(low / high) / np.log(CEREBRAS[-2][0] / CEREBRAS[0][0])
    assert line.a == pytest.approx(published, rel=0.1)
    assert line.interval is None, "one run a size has no spread to take an interval from"
    error = float(line.loss(CEREBRAS[-1][0])) / CEREBRAS[-1][1] - 1
    assert abs(error) < 0.005


def test_published_runs_give_back_their_published_law() -> None:
    """Fitted to the 27 runs up to 0.4B parameters, with five free parameters and a Huber loss, where the paper took five runs, equal exponents and
    least squares: the same E and exponents, and the runs of 1.4B and 6.9B foretold as well as there.
    """
    runs = np.array([(n, 20 * m * n, loss) for n, own in C4_RUNS.items() for m, loss in own.items()])
    small = runs[:, 0] < 1e9
    assert small.sum() == 27
    law = fit(*runs[small].T).law
    assert abs(law.E - C4_LAW["E"]) < 0.03
    assert law.alpha == pytest.approx(C4_LAW["alpha"], abs=0.015)
    assert law.beta == pytest.approx(C4_LAW["beta"], abs=0.015)
    for (n, m), theirs in C4_ERRORS.items():
        ours = abs(float(law.loss(n, 20 * m * n)) / C4_RUNS[n][m] - 1)
        assert ours == pytest.approx(theirs, abs=0.003)


def test_the_published_design_gives_back_the_published_law() -> None:
    """Nine IsoFLOP budgets of Hoffmann et al. 2022 (6e18 to 3e21) at sizes of 75M to 10B: within noise of 0.3 % alpha, beta and a come back."""
    generator = np.random.default_rng(6)
    budgets = [6e18, 1e19, 3e19, 6e19, 1e20, 3e20, 6e20, 1e21, 3e21]
    points = [(n, c / 6 / n) for c in budgets for n in np.geomspace(7.5e7, 1e10, 10) if 1 < c / 6 / n / n < 1000]
    params, tokens = np.array(points).T
    found = fit(params, tokens, TRUTH.loss(params, tokens) * np.exp(generator.normal(0, 0.003, len(points))))
    assert found.law.alpha == pytest.approx(0.34, abs=0.03)
    assert found.law.beta == pytest.approx(0.28, abs=0.03)
    assert abs(found.law.E - 1.69) < 0.08
    assert found.law.exponent == pytest.approx(0.4516, abs=0.03)


def test_what_cannot_be_fitted_is_refused_with_the_reason() -> None:
    params = np.array(list(SIZES.values()) * 2)
    with pytest.raises(ValueError, match="1 token budgets"):
        fit(params, np.full(10, 1e8), np.full(10, 3.0))
    with pytest.raises(ValueError, match="in step with parameters"):
        fit(np.geomspace(1e6, 1e8, 8), 20 * np.geomspace(1e6, 1e8, 8), np.full(8, 3.0))
    with pytest.raises(ValueError, match="losses: .*nan"):
        fit(np.ones(3), np.ones(3), np.array([1.0, np.nan, 2.0]))


def test_multipliers_of_a_study_are_those_it_was_made_with(study: Scaling) -> None:
    """mhc is worth 1.3 times the compute and takes 1.2 times the time for it: 1.3 / 1.2 in wall-clock."""
    found = study.multipliers.set_index(["label", "cost"])
    for key, truth in {("mhc", "flops"): 1.3, ("hc", "flops"): 1.1, ("mhc", "wall_s"): 1.3 / 1.2}.items():
        row = found.loc[key]
        assert row["multiplier"] == pytest.approx(truth, rel=0.02)
        assert row["low"] < row["multiplier"] < row["high"]
        assert row["lowest_loss"] < row["highest_loss"]


def test_the_largest_size_is_foretold_by_a_law_that_never_saw_it(study: Scaling) -> None:
    held = study.held_out
    assert set(held["size"]) == {"30m"}
    assert len(held) == 3 * 4
    assert set(held["law"]) == {"L(N, D)"}
    assert held["error_relative"].abs().max() < 0.012  # noise .003 and luck .003 a run, extrapolated by two
    assert (held["error"] - (held["predicted"] - held["measured"])).abs().max() == 0


def test_a_ladder_of_one_ratio_has_no_law_in_n_and_d_and_says_so() -> None:
    found = scaling(ladder({"resnet": 1.0, "mhc": 1.2}, ratios=(20,)), "laws", resamples=20)
    assert found.laws["reason"].str.contains("in step").all()
    assert found.fitted.empty
    assert set(found.held_out["law"]) == {"A C^-a"}
    assert found.held_out["error_relative"].abs().max() < 0.05
    assert found.multipliers.set_index("cost").loc["flops", "multiplier"] == pytest.approx(1.2, rel=0.03)


def test_time_is_not_compared_across_machines_and_one_seed_has_no_interval() -> None:
    runs = ladder({"resnet": 1.0, "mhc": 1.2}, ratios=(20,), seeds=1)
    runs.loc[runs["scheme"] == "mhc", "hardware"] = "another"
    found = scaling(runs, "laws", resamples=20)
    by_cost = found.multipliers.set_index("cost")
    assert "kinds of hardware" in by_cost.loc["wall_s", "reason"]
    assert pd.isna(by_cost.loc["flops", "low"])
    assert any("One seed" in note for note in found.notes)


def test_time_of_runs_that_shared_a_gpu_buys_nothing() -> None:
    runs = ladder({"resnet": 1.0, "mhc": 1.2}, ratios=(20,), seeds=1)
    runs.loc[runs["scheme"] == "mhc", "gpu_share"] = 4
    by_cost = scaling(runs, "laws", resamples=20).multipliers.set_index("cost")
    assert by_cost.loc["wall_s", "reason"] == SHARED
    assert by_cost.loc["flops", "multiplier"] == pytest.approx(1.2, rel=0.03)


def test_chosen_sizes_alone_are_fitted_and_the_rest_are_named() -> None:
    """Where one size has one seed, the multipliers through it have no interval; the other sizes by themselves have."""
    runs = ladder({"resnet": 1.0, "mhc": 1.2}, ratios=(20,))
    small = runs.sort_values("params_total")["size"].iloc[0]
    runs = runs[(runs["scheme"] != "mhc") | (runs["size"] != small) | (runs["seed"] == 0)]
    whole = scaling(runs, "laws", resamples=20)
    assert pd.isna(whole.multipliers.set_index("cost").loc["flops", "low"])
    assert f"{small} has one seed of mhc: power laws and multipliers through it have no interval." in whole.notes
    rest = [size for size in runs["size"].unique() if size != small]
    part = scaling(runs, "laws", resamples=20, sizes=rest)
    row = part.multipliers.set_index("cost").loc["flops"]
    assert row["low"] < 1.2 < row["high"]
    assert part.notes == [f"Sizes left out: {small}."]
    assert set(part.frontier_points["size"]) == set(rest)
    with pytest.raises(ValueError, match=r"--size 3b: study 'laws' has complete runs of .*" + rest[-1]):
        scaling(runs, "laws", sizes=["3b"])


def test_diverged_runs_are_left_out_and_counted() -> None:
    runs = ladder({"resnet": 1.0}, ratios=(20,))
    runs.loc[:1, "outcome"] = "diverged"
    assert "Not in any fit: 2 diverged runs." in scaling(runs, "laws", resamples=20).notes
    with pytest.raises(ValueError, match="no complete final run"):
        scaling(runs.assign(outcome=pd.Series("failed", index=runs.index, dtype="string")), "laws")


def test_the_effect_of_streams_is_a_slope_per_doubling() -> None:
    """Losses 3 - .02 log2 n for each seed, with a seed's luck that all n share: slope -.02 and no spread but rounding."""
    tables = []
    for n in (1, 2, 4, 8):
        runs = ladder({"mhc": 1.0}, sizes={"1m": 1e6}, ratios=(20,), n_streams=n)
        runs["val_loss"] = [3 - 0.02 * np.log2(n) + 0.01 * seed + 1e-5 * n * seed for seed in runs["seed"]]
        tables.append(
            runs.assign(cell=f"scheme=mhc,size=1m,scheme.n_streams={n}", run_id=[f"{n}{i}" for i in range(3)])
        )
    found = scaling(
        pd.concat(tables, ignore_index=True).astype({"cell": "string", "run_id": "string"}), "laws", resamples=20
    )
    effect = found.effects.iloc[0]
    assert (effect["factor"], effect["seeds"]) == ("n_streams", 3)
    assert effect["low"] < -0.0199
    assert effect["slope"] == pytest.approx(-0.02, abs=1e-4)
    assert list(found.levels["value"]) == [1, 2, 4, 8]
    assert found.levels["difference"].iloc[-1] == pytest.approx(-0.06, abs=1e-4)


def test_the_best_size_at_one_compute_is_where_the_law_says() -> None:
    compute = 1e16
    tables = [
        ladder(
            {"resnet": 1.0},
            sizes={size: n},
            ratios=(compute / 6 / n**2,),
            generator=np.random.default_rng(i),
            noise=0.001,
        )
        for i, (size, n) in enumerate({"3m": 3e6, "7m": 7e6, "15m": 15e6, "30m": 30e6, "60m": 60e6}.items())
    ]
    runs = pd.concat(tables, ignore_index=True)
    runs["run_id"] = pd.Series([f"r{i}" for i in range(len(runs))], dtype="string")
    curve = scaling(runs, "laws", resamples=20).iso_flops.iloc[0]
    best = (TRUTH.alpha * TRUTH.A / TRUTH.beta / TRUTH.B) ** (1 / 0.62) * (compute / 6) ** TRUTH.exponent
    assert curve["best_params"] == pytest.approx(best, rel=0.25)  # a parabola is not the law's shape
    assert curve["low"] < curve["best_params"] < curve["high"]


def test_every_figure_has_its_numbers_or_a_reason(study: Scaling) -> None:
    drawn = {drawing.name: drawing for drawing in draw_scaling(study)}
    assert tuple(drawn) == NAMES
    assert {name for name, drawing in drawn.items() if drawing.svg} == {"scaling_fit", "frontier", "multiplier"}
    assert all(drawing.svg or drawing.reason for drawing in drawn.values())
    assert len(drawn["scaling_fit"].csv().splitlines()) == 1 + 3 * 60


def test_the_json_form_is_finite_and_the_same_twice(study: Scaling) -> None:
    content = json.loads(study.to_json(), parse_constant=lambda name: pytest.fail(f"{name} in the JSON"))
    assert content["schema"] == "resbench.scaling/1"
    assert {row["label"] for row in content["laws"]} == {"resnet", "mhc", "hc"}
    again = scaling(ladder({"resnet": 1.0, "mhc": 1.3, "hc": 1.1}), "laws", resamples=60)
    assert again.to_json() == study.to_json()


def test_the_command_writes_its_tables_and_says_what_two_sizes_cannot_tell(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["--study", "demo", "--tracking-uri", store.uri, "--out", str(tmp_path / "laws"), "--resamples", "20"])
        == 0
    )
    printed = " ".join(capsys.readouterr().out.split())
    assert "2 sizes and 1 token budgets" in printed
    assert "needs 3 or more" in printed
    assert "not drawn" in printed
    assert {path.name for path in (tmp_path / "laws").iterdir()} >= {"scaling.json", "laws.csv", "multipliers.csv"}


def test_a_fit_without_resamples_has_no_interval() -> None:
    found = fit(*grid(0.0, np.random.default_rng(0), seeds=1))
    assert isinstance(found, Fit)
    assert found.interval("alpha") is None
    assert found.prediction(1e6, 1e7) is None


def test_a_cost_that_stays_the_same_while_the_loss_falls_has_no_law() -> None:
    """One size on three budgets: its memory hardly changes, and 2 % more memory did not halve the loss."""
    costs, losses = np.array([1.0, 1.01, 1.02])[:, None], np.array([[4.0, 4.01], [3.0, 3.01], [2.0, 2.01]])
    cells = seeded(costs, losses)
    assert power_law(cells) == "the cost varies by a factor of 1.02 only along the frontier; a power law needs 1.5"
    assert "varies by a factor of 1.02" in str(multiplier(cells, seeded(costs**100, losses)))
    assert isinstance(power_law(seeded(costs**100, losses)), PowerLaw)
