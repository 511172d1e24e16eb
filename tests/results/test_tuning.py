"""What stands behind a row: search trials counted, sensitivity to the learning rate, multipliers over resnet or the reason for none."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from simulated_laws import ladder, table

from resbench.harness import names
from resbench.results.columns import COLUMNS, NOTHING
from resbench.results.leaderboard import make_leaderboard, to_json

TEXT = {column.key: column for column in COLUMNS}


def run(**values: object) -> dict[str, object]:
    """One complete final run of a tidy table."""
    return {
        "run_id": "r", "started": pd.Timestamp("2026-01-01", tz="UTC"), "study": "s", "phase": "final", "task": "t", "data_fingerprint": "d",
        "scheme": "mhc", "size": "1m", "seed": 0, "budget_tokens": 100, "params_total": 10, "outcome": "complete", "val_loss": 3.0,
        "cell": "scheme=mhc,size=1m",
    } | values  # fmt: skip


def test_search_trials_are_counted_once_each_and_for_their_own_cell() -> None:
    trials = [
        run(run_id=f"t{number}", phase="search", trial_key=f"trial={number}", outcome=outcome)
        for number, outcome in enumerate(["complete", "pruned", "diverged"])
    ]
    again = run(
        run_id="t3", phase="search", trial_key="trial=0", outcome="failed"
    )  # an attempt at a trial counted already
    other = run(run_id="r2", scheme="resnet", cell="scheme=resnet,size=1m")
    cells = make_leaderboard(table([*trials, again, run(), other]), "s").cells
    assert {cell.scheme: cell.tuning_runs for cell in cells} == {"mhc": 3, "resnet": 0}


def test_sensitivity_is_that_of_the_grid_and_the_same_for_all_its_rates() -> None:
    """Losses 3.0, 3.2 and diverged (counted as the initial 5.0): mean 11.2 / 3, minus 3.0."""
    rows, initial = [], []
    for rate, (loss, outcome) in {1e-3: (3.0, "complete"), 2e-3: (3.2, "complete"), 4e-3: (None, "diverged")}.items():
        rows.append(
            run(
                run_id=f"r{rate}",
                cell=f"scheme=mhc,size=1m,lr={rate}",
                learning_rate=rate,
                val_loss=loss,
                outcome=outcome,
            )
        )
        initial.append((f"r{rate}", names.VAL_LOSS, 0, 5.0))
    curves = pd.DataFrame(initial, columns=["run_id", "metric", "tokens", "value"])
    cells = make_leaderboard(table(rows), "s", curves=curves).cells
    assert len(cells) == 3
    for cell in cells:
        assert cell.lr_sensitivity is not None
        assert cell.lr_sensitivity.value == pytest.approx(11.2 / 3 - 3.0)
        assert (cell.lr_sensitivity.rates, cell.lr_sensitivity.diverged, cell.lr_sensitivity.best) == (3, 1, 1e-3)
        assert TEXT["lr_sensitivity"].text(cell) == "0.7333 over 3 rates"


def test_a_scheme_worth_1_4_times_the_compute_shows_it_in_every_row_of_its_ladder() -> None:
    runs = ladder({"resnet": 1.0, "mhc": 1.4}, ratios=(20,), noise=0.0005)
    cells = make_leaderboard(runs, "laws").cells
    for cell in (c for c in cells if c.scheme == "mhc"):
        found = cell.multipliers["flops"]
        assert not isinstance(found, str)
        assert found.interval is not None
        assert found.interval[0] < 1.4 < found.interval[1]
        assert TEXT["multiplier_flops"].text(cell).startswith("1.4")
        time = cell.multipliers["wall_s"]
        assert not isinstance(time, str)
        # A step of mhc takes 1.2 times as long in this simulation, so that much of the saving in compute is lost in time.
        assert time.value == pytest.approx(found.value / 1.2, rel=1e-6)
    assert all(c.multipliers == {} for c in cells if c.scheme == "resnet")


def test_a_budget_as_a_factor_splits_no_ladder() -> None:
    runs = ladder({"resnet": 1.0, "mhc": 1.4}, sizes={"1m": 1e6}, ratios=(5, 20, 80), noise=0.0005)
    ratio = (runs["budget_tokens"].astype("float64") / 1e6).round().astype("int64").astype("string")
    runs["cell"] = runs["cell"] + ",tokens_per_parameter=" + ratio
    board = make_leaderboard(runs, "laws")
    assert len(board.groups) == 3, "budgets are compared apart"
    assert {cell.group.setting for cell in board.cells} == {""}
    assert all(not isinstance(c.multipliers["flops"], str) for c in board.cells if c.scheme == "mhc")


def test_what_cannot_be_told_is_a_dash_with_its_reason() -> None:
    runs = ladder({"resnet": 1.0, "mhc": 1.4}, sizes={"1m": 1e6, "3m": 3e6}, ratios=(20,))
    board = make_leaderboard(runs, "laws")
    cell = next(cell for cell in board.cells if cell.scheme == "mhc")
    assert TEXT["multiplier_flops"].text(cell) == NOTHING
    assert TEXT["multiplier_flops"].why(cell).startswith("2 point(s) on a frontier")
    assert any(note.startswith("No multiplier over resnet for mhc: 2 point(s)") for note in board.notes)
    row = next(row for row in json.loads(to_json(board))["rows"] if row["scheme"] == "mhc")
    assert row["multipliers"]["flops"]["reason"].startswith("2 point(s)")
