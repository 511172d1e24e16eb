"""Accuracy by difficulty, from the names runs log to the figure: means, ranges, panels and what is left out."""

from __future__ import annotations

import pandas as pd
import pytest
from mlflow.entities import Metric
from simulated import MHC, RESNET, START, Store, simulate_run

from resbench.results.difficulty import load_accuracies
from resbench.results.figures.accuracy import accuracy_numbers, accuracy_over_difficulty
from resbench.results.figures.style import styles
from resbench.results.leaderboard import Leaderboard, make_leaderboard
from resbench.results.publish import files_of
from resbench.results.runs import load_runs

HOPS = (1, 2, 4)


def true_accuracy(scheme: str, depth: int, seed: int, hops: int) -> float:
    return round((0.9 if scheme == "mhc" else 0.7) * depth / (depth + hops) + 0.01 * seed, 6)


@pytest.fixture(scope="module")
def graded(new_store: Store) -> Leaderboard:
    """resnet and mhc, 2 and 4 layers, seeds 0 and 1, on two tasks; one run that failed."""
    experiment = new_store.client.create_experiment("graded")
    for task in ("p-hop", "dyck"):
        for scheme in (RESNET, MHC):
            for depth in (2, 4):
                for seed in (0, 1):
                    run_id = simulate_run(
                        new_store.client, experiment, scheme, seed=seed, study="graded", setting=f"task={task},depth={depth}"
                    )  # fmt: skip
                    points = [
                        Metric(f"val/accuracy/hops_{hops}", true_accuracy(scheme.name, depth, seed, hops), START, 1)
                        for hops in HOPS
                    ]
                    new_store.client.log_batch(run_id, [*points, Metric("val/accuracy", 0.5, START, 1)])
    failed = simulate_run(
        new_store.client, experiment, MHC, seed=2, study="graded", setting="task=dyck,depth=2", outcome="failed"
    )
    new_store.client.log_batch(failed, [Metric("val/accuracy/hops_1", 0.0, START, 1)])
    # All simulated runs say 4 layers in their parameters, which cannot be changed: take the depth from the setting.
    runs = load_runs(new_store.uri, "graded")
    return make_leaderboard(runs.assign(depth=runs["cell"].str.extract(r"depth=(\d+)")[0].astype("Int64")), "graded")


@pytest.fixture(scope="module")
def numbers(graded: Leaderboard, new_store: Store) -> pd.DataFrame:
    ids = [str(run_id) for run_id in graded.runs["run_id"]]
    return accuracy_numbers(graded.runs, load_accuracies(new_store.uri, ids))


def test_a_point_is_the_mean_over_complete_runs_with_their_range(numbers: pd.DataFrame) -> None:
    assert len(numbers) == 2 * 2 * 2 * len(HOPS)  # tasks, schemes, depths
    for row in numbers.itertuples():
        both = [true_accuracy(str(row.scheme), int(str(row.depth)), seed, int(str(row.difficulty))) for seed in (0, 1)]
        assert (row.low, row.high, row.n) == (both[0], both[1], 2)
        assert row.accuracy == pytest.approx(sum(both) / 2)
        assert row.what == "hops"
    assert sorted(set(numbers["variant"])) == ["dyck", "p-hop"]  # the depth is a line's, not a panel's


def test_it_is_drawn_with_chance_where_that_is_known(numbers: pd.DataFrame) -> None:
    chosen = styles([("resnet", "resnet"), ("mhc", "mhc")])
    drawing = accuracy_over_difficulty(numbers.assign(chance=0.25), chosen)
    assert drawing.png.startswith(b"\x89PNG")
    for word in ("resnet", "mhc", "p-hop", "dyck", "2 layers", "4 layers", "chance", "hops"):
        assert word in drawing.svg
    assert "up to 2 runs" in drawing.caption
    assert drawing.csv().count("\n") == len(numbers) + 1
    assert accuracy_over_difficulty(numbers.iloc[:0], chosen).reason.endswith(".")


def test_the_figure_is_a_study_s_only_when_its_tasks_grade(
    graded: Leaderboard, new_store: Store, demo_files: dict[str, str | bytes]
) -> None:
    assert "figures/accuracy.png" in files_of(graded, new_store.uri)
    assert "figures/accuracy.png" not in demo_files
    assert all(cell.accuracy == 0.5 for cell in graded.cells)
