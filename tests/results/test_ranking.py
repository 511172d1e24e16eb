"""Cells, comparison groups, paired differences and ranks, on tables whose answer is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from scipy import stats

from resbench.results.cells import Cell, group_order, labelled, size_order, summarise
from resbench.results.leaderboard import Leaderboard, make_leaderboard
from resbench.results.ranking import compare, verdict
from resbench.results.runs import COLUMNS, SHARED, ranked_runs
from resbench.results.statistics import holm


def table(*runs: Mapping[str, Any]) -> pd.DataFrame:
    """A table of runs as `load_runs` makes it, from the columns that matter."""
    common = {
        "study": "s",
        "phase": "final",
        "task": "t",
        "size": "1m",
        "budget_tokens": 1000,
        "outcome": "complete",
        "data_fingerprint": "d",
    }
    rows = [
        common | {"run_id": f"r{i}", "started": pd.Timestamp("2026-01-01", tz="UTC")} | dict(run)
        for i, run in enumerate(runs)
    ]
    return pd.DataFrame({c.name: pd.Series([row.get(c.name) for row in rows], dtype=c.dtype) for c in COLUMNS})


def losses(scheme: str, values: Sequence[float | None], **more: Any) -> list[dict[str, Any]]:
    """A run per seed of one cell; None is a diverged run."""
    cell = more.pop("cell", f"scheme={scheme},size=1m")
    return [
        {
            "scheme": scheme,
            "cell": cell,
            "seed": seed,
            "val_loss": value,
            "outcome": "complete" if value is not None else "diverged",
            **more,
        }
        for seed, value in enumerate(values)
    ]


def rows(*runs: Mapping[str, Any]) -> dict[str, Cell]:
    return {cell.label: cell for cell in compare(summarise(labelled(ranked_runs(table(*runs)))))}


def test_the_true_effects_of_a_simulated_sweep_are_found(demo: Leaderboard) -> None:
    """mhc and identity-hc are simulated .030 and .028 below resnet, hc .012, with noise of .002: the intervals must hold them."""
    truth = {"mhc": -0.030, "identity-hc": -0.028, "hc": -0.012}
    for group, cells in demo.groups:
        by_label = {cell.label: cell for cell in cells}
        assert by_label["resnet"].is_reference
        for label, effect in truth.items():
            comparison = by_label[label].comparison
            assert comparison is not None
            assert comparison.difference.n == 3, f"{label} at {group.size}: seed 3 of resnet has no partner"
            assert comparison.difference.mean == pytest.approx(effect, abs=0.006)
            assert by_label[label].holm_p is not None
        assert [by_label[label].rank for label in ("mhc", "identity-hc")] == [1, 1]
        assert by_label["resnet"].rank == 4


def test_diverged_and_failed_runs_are_counted_and_enter_no_mean(demo: Leaderboard) -> None:
    at_400k = {cell.label: cell for cell in demo.cells if cell.group.size == "400k"}
    mhc, hc, resnet = at_400k["mhc"].outcomes, at_400k["hc"].outcomes, at_400k["resnet"].outcomes
    assert (mhc.total, mhc.complete, mhc.diverged, mhc.diverged_fraction) == (4, 3, 1, 0.25)
    assert (hc.total, hc.complete, hc.failed, hc.diverged_fraction) == (4, 3, 1, 0.0)
    assert (resnet.total, resnet.complete) == (4, 4)
    assert at_400k["mhc"].val_loss.n == 3


def test_a_diverged_seed_makes_its_pair_undefined() -> None:
    found = rows(*losses("resnet", [2.0, 2.1, 2.2, 2.3]), *losses("mhc", [1.9, None, 2.1, 2.2]))
    comparison = found["mhc"].comparison
    assert comparison is not None
    assert comparison.difference.n == 3
    assert comparison.difference.mean == pytest.approx(-0.1)
    assert found["mhc"].outcomes.diverged_fraction == 0.25


def test_a_scheme_that_always_diverges_keeps_its_row_without_a_rank() -> None:
    found = rows(*losses("resnet", [2.0, 2.1]), *losses("hc", [None, None]))
    assert found["hc"].rank is None
    assert found["hc"].val_loss.mean is None
    assert found["hc"].outcomes.diverged_fraction == 1.0
    assert found["resnet"].rank == 1


def test_speeds_of_runs_that_shared_a_gpu_are_not_compared() -> None:
    measured = {"tokens_per_s": 50.0, "wall_s": 20.0, "peak_gib": 2.0, "hardware": "H200"}
    shared = [run | {"gpu_share": 8 if run["seed"] else 1} for run in losses("mhc", [1.9, 2.0, 2.1], **measured)]
    shared[0] |= {"tokens_per_s": 80.0, "wall_s": 12.5}
    found = rows(
        *losses("resnet", [2.0, 2.1, 2.2], gpu_share=1, **measured | {"tokens_per_s": 100.0}),
        *shared,
        *losses("hc", [1.9, 2.0, 2.1], gpu_share=8, **measured),
    )
    assert (found["mhc"].tokens_per_s, found["mhc"].wall_s) == (80.0, 12.5), "the one that was alone"
    assert found["mhc"].tokens_per_s_ratio == 0.8
    assert (found["hc"].tokens_per_s, found["hc"].tokens_per_s_ratio, found["hc"].wall_s) == (None, None, None)
    assert (found["hc"].peak_gib, found["hc"].peak_gib_ratio, found["hc"].val_loss.n) == (2.0, 1.0, 3)
    assert [label for label, cell in found.items() if cell.shared_gpu] == ["hc", "mhc"]
    runs = table(*losses("resnet", [2.0], gpu_share=8), *losses("mhc", [1.9]))
    assert f"1 row of {SHARED}." in make_leaderboard(runs, "s").notes


def test_one_seed_has_no_interval_no_test_and_shares_first_place() -> None:
    found = rows(*losses("resnet", [2.0]), *losses("mhc", [1.0]))
    assert found["mhc"].val_loss.half_width is None
    assert found["mhc"].comparison is not None
    assert found["mhc"].comparison.difference.mean == -1.0
    assert found["mhc"].holm_p is None
    assert {(cell.rank, cell.tied) for cell in found.values()} == {(1, True)}


def test_ranks_by_hand() -> None:
    """a and b differ by +-.01 around zero over pairs (a tie); c is one whole nat worse with a spread of .001 (not a tie)."""
    a = [2.00, 2.10, 2.20, 2.30]
    b = [2.01, 2.09, 2.21, 2.30]
    c = [3.00, 3.101, 3.20, 3.301]
    found = rows(*losses("resnet", a), *losses("b", b), *losses("c", c))
    assert {label: (cell.rank, cell.tied) for label, cell in found.items()} == {
        "resnet": (1, True),
        "b": (1, True),
        "c": (3, False),
    }


def test_p_values_are_corrected_over_the_schemes_of_the_group() -> None:
    reference = [2.0, 2.1, 2.2]
    others = {"b": [1.99, 2.08, 2.21], "c": [1.9, 2.01, 2.12], "d": [2.4, 2.1, 2.9]}
    found = rows(
        *losses("resnet", reference), *(run for name, values in others.items() for run in losses(name, values))
    )
    raw = [float(stats.ttest_rel(values, reference).pvalue) for values in others.values()]
    assert [found[name].holm_p for name in others] == pytest.approx(holm(raw))


def test_groups_do_not_mix_sizes_budgets_data_or_other_factors() -> None:
    runs = [
        *losses("resnet", [2.0, 2.1]),
        *losses("mhc", [1.9, 2.0], size="3m"),
        *losses("mhc", [1.9, 2.0], budget_tokens=2000),
        *losses("mhc", [1.9, 2.0], data_fingerprint="other"),
        *losses("mhc", [1.9, 2.0], cell="scheme=mhc,size=1m,depth=8"),
    ]
    cells = compare(summarise(labelled(ranked_runs(table(*runs)))))
    assert len({cell.group for cell in cells}) == 5
    assert all(cell.comparison is None for cell in cells)
    assert all(cell.rank == 1 and not cell.tied for cell in cells)


def test_a_scheme_s_own_factors_are_part_of_its_label_and_share_the_reference() -> None:
    """resnet has no n_streams: its one cell is the reference for all of them."""
    runs = [*losses("resnet", [2.0, 2.1])]
    for n in (2, 16):
        runs += losses("mhc", [1.9, 2.0], cell=f"scheme=mhc,size=1m,scheme.n_streams={n}", n_streams=n)
    found = rows(*runs)
    assert set(found) == {"resnet", "mhc, n = 2", "mhc, n = 16"}
    assert found["mhc, n = 16"].comparison is not None
    assert found["mhc, n = 16"].n_streams == 16


def test_the_sweep_s_name_for_a_scheme_is_its_label() -> None:
    found = rows(*losses("resnet", [2.0]), *losses("mhc", [1.9], cell="scheme=mhc rows first,size=1m,depth=8"))
    assert found["mhc rows first"].scheme == "mhc"
    assert found["mhc rows first"].group.setting == "depth=8"


def test_of_several_resnets_the_plain_one_is_the_reference_and_without_one_there_is_none() -> None:
    variants = losses("resnet", [2.2, 2.3], cell="scheme=resnet wider,size=1m")
    found = rows(*losses("resnet", [2.0, 2.1]), *variants)
    assert [label for label, cell in found.items() if cell.is_reference] == ["resnet"]
    assert found["resnet wider"].comparison is not None
    other = losses("resnet", [2.2, 2.3], cell="scheme=resnet deeper,size=1m")
    assert not any(cell.is_reference for cell in rows(*variants, *other).values())


def test_throughput_is_compared_on_the_same_hardware_only() -> None:
    def at(hardware: str, speed: float) -> dict[str, Any]:
        return {"hardware": hardware, "tokens_per_s": speed}

    found = rows(
        *losses("resnet", [2.0], **at("A", 100.0)),
        *losses("b", [2.0], **at("A", 80.0)),
        *losses("c", [2.0], **at("B", 900.0)),
    )
    assert found["b"].tokens_per_s_ratio == pytest.approx(0.8)
    assert found["c"].tokens_per_s_ratio is None


def test_a_run_without_a_named_size_is_told_by_its_shape() -> None:
    found = rows(*losses("resnet", [2.0], size=None, depth=8, width=336))
    assert found["resnet"].group.size == "8x336"


def test_sizes_sort_by_parameters() -> None:
    assert sorted(["1b", "60m", "400k", "1m", "8x336", "100k"], key=size_order) == [
        "100k",
        "400k",
        "1m",
        "60m",
        "1b",
        "8x336",
    ]


def test_sizes_without_a_name_sort_by_depth() -> None:
    group = rows(*losses("resnet", [2.0], size=None, depth=8, width=336))["resnet"].group
    shapes = ["64x120", "8x336", "32x168"]
    assert sorted((replace(group, size=shape) for shape in shapes), key=group_order) == [
        replace(group, size=shape) for shape in ("8x336", "32x168", "64x120")
    ]


def test_a_study_without_final_runs_says_what_it_has(demo_runs: pd.DataFrame) -> None:
    searched = demo_runs.assign(phase=pd.Series("search", index=demo_runs.index, dtype="string"))
    with pytest.raises(ValueError, match=r"'demo' has no run of phase 'final'.*28 search"):
        make_leaderboard(searched, "demo")


def test_the_verdict_tells_a_tie_that_was_shown_from_one_that_was_not() -> None:
    """Paired differences: small -.001 +- .001 (equal within .01), loud .0 +- .05 (undecided), low -.2 (better)."""
    reference = [2.0, 2.1, 2.2, 2.3, 2.4]
    wobble = [0.001, -0.001, 0.0, 0.001, -0.001]

    def shifted(shift: float, scale: float) -> list[float]:
        return [loss + shift + scale * w for loss, w in zip(reference, wobble, strict=True)]

    found = rows(
        *losses("resnet", reference),
        *losses("small", shifted(0.0002, 1)),
        *losses("loud", shifted(0.0, 50)),
        *losses("low", shifted(-0.2, 1)),
        *losses("high", shifted(0.2, 1)),
        *losses("alone", [2.0]),
    )
    assert {label: verdict(cell) for label, cell in found.items()} == {
        "resnet": None,
        "small": "equivalent",
        "loud": "undecided",
        "low": "better",
        "high": "worse",
        "alone": None,
    }
    narrow = compare(
        summarise(labelled(ranked_runs(table(*losses("resnet", reference), *losses("small", shifted(0.0002, 1)))))),
        margin=0.0005,
    )
    assert [verdict(cell) for cell in narrow if not cell.is_reference] == ["undecided"]


def test_equivalence_is_corrected_over_the_group_as_well() -> None:
    reference = [2.0, 2.1, 2.2]
    others = {"b": [2.001, 2.102, 2.199], "c": [2.0, 2.104, 2.197]}
    found = rows(
        *losses("resnet", reference), *(run for name, values in others.items() for run in losses(name, values))
    )
    raw = []
    for name in others:
        comparison = found[name].comparison
        assert comparison is not None
        assert comparison.equivalence is not None
        raw.append(comparison.equivalence.p)
    assert [found[name].equivalence_p for name in others] == pytest.approx(holm(raw))
