"""Tracks: rules that do not change once frozen, and rows that are in one only if they kept them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pandas as pd
import pytest
import simulated
from simulated import Store

from resbench.results.cells import OPEN_TRACK
from resbench.results.leaderboard import make_leaderboard
from resbench.results.runs import load_runs
from resbench.results.source import open_source
from resbench.results.tracks import FILE, Track, load_tracks, place, same

RULES = {
    "id": "small",
    "version": 1,
    "frozen": date(2026, 1, 1),
    "title": "Small",
    "about": "For tests.",
    "task": ["python-source"],
    "sizes": ["100k", "400k"],
    "tokens": [simulated.BUDGET],
    "fixed": {"model.learning_rate": 3e-3},
    "may_tune": ["model.scheme.*"],
    "tuning_runs": 1,
    "seeds": 3,
}


@dataclass
class Placed:
    runs: pd.DataFrame
    reason: str


def placed(store: Store, two_seeds_of: tuple[str, ...] = (), **changes: object) -> Placed:
    source = open_source(store.uri)
    runs = load_runs(source, "demo")
    runs = runs[~(runs["scheme"].isin(two_seeds_of) & (runs["seed"] >= 2))]
    found = place(runs, source, [Track.model_validate(RULES | changes)])
    return Placed(found.runs, " ".join(found.reasons.values()))


def test_the_shipped_tracks_are_the_ones_that_were_frozen() -> None:
    tracks = load_tracks()
    assert {track.name for track in tracks} >= {"demo/1", "bytes-30m/1", "depth-10m/1", "cifar-5m/1"}


def test_a_frozen_rule_cannot_be_changed_without_a_new_version(tmp_path: Path) -> None:
    file = tmp_path / "tracks.yaml"
    file.write_text(FILE.read_text().replace("tuning_runs: 6", "tuning_runs: 60"))
    with pytest.raises(
        ValueError, match=r"tracks\.yaml: bytes-30m: the rules of version 1 are not those .* frozen .* add version 2"
    ):
        load_tracks(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("version: 1", "version: 0"), "demo: version: Input should be greater than or equal to 1"),
        (("seeds: 2", "seed: 2"), "demo: seeds: Field required"),
        (("- id: bytes-30m", "- id: Bytes 30m"), "Bytes 30m: id: String should match pattern"),
    ],
)
def test_a_file_that_is_no_list_of_tracks_is_refused_by_track_and_rule(
    change: tuple[str, str], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "tracks.yaml"
    file.write_text(FILE.read_text().replace(*change, 1))
    with pytest.raises(ValueError, match=message):
        load_tracks(file)


def test_a_version_cannot_be_there_twice(tmp_path: Path) -> None:
    file = tmp_path / "tracks.yaml"
    file.write_text(FILE.read_text() * 2)
    with pytest.raises(ValueError, match="version 1 is there twice"):
        load_tracks(file)


def test_runs_that_kept_the_rules_are_in_the_track(store: Store) -> None:
    found = placed(store)
    finals = found.runs[found.runs["phase"] == "final"]
    assert set(finals["track"]) == {"small/1"}
    assert set(found.runs.loc[found.runs["phase"] == "search", "track"]) == {OPEN_TRACK}
    groups = {cell.group.track for cell in make_leaderboard(found.runs, "demo").cells}
    assert groups == {"small/1"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"task": ["p-hop"]}, "no track has this task"),
        ({"sizes": ["1m"]}, "size 100k, not 1m"),
        ({"tokens": [5, 7]}, "100,000 tokens, not 5 or 7"),
        ({"fixed": {"model.learning_rate": 1.0}}, "model.learning_rate is 0.003, not 1.0"),
        ({"fixed": {"data.seq": 8}}, "data.seq is not logged, not 8"),
        ({"seeds": 9}, "3 complete seeds, at least 9"),
    ],
)
def test_a_row_that_broke_a_rule_is_in_the_open_track_with_the_reason(
    changes: dict[str, object], reason: str, store: Store
) -> None:
    found = placed(store, **changes)
    assert OPEN_TRACK in set(found.runs.loc[found.runs["phase"] == "final", "track"])
    assert reason in found.reason


def test_only_the_cell_that_was_tuned_too_much_leaves_the_track(store: Store) -> None:
    """hc at 100k has a search run; no other cell has. Ranks do not cross tracks, so it is compared with nobody there."""
    found = placed(store, tuning_runs=0)
    leaderboard = make_leaderboard(found.runs, "demo")
    left = [cell for cell in leaderboard.cells if cell.group.track == OPEN_TRACK]
    assert [(cell.label, cell.group.size) for cell in left] == [("hc", "100k")]
    assert left[0].comparison is None
    assert "1 search trials, at most 0" in found.reason


def test_a_row_that_only_lacks_seeds_is_compared_in_its_track_and_not_ranked(store: Store) -> None:
    leaderboard = make_leaderboard(placed(store, two_seeds_of=("mhc",)).runs, "demo")
    assert {cell.group.track for cell in leaderboard.cells} == {"small/1"}
    assert {cell.scheme for cell in leaderboard.cells if cell.unranked} == {"mhc"}
    for cell in leaderboard.cells:
        assert (cell.rank is None) == bool(cell.unranked)
        assert cell.is_reference or cell.comparison is not None
    assert any("not ranked" in note for note in leaderboard.notes)


def test_a_lone_row_with_enough_seeds_stays_with_those_it_is_compared_with(store: Store) -> None:
    found = placed(store, two_seeds_of=("mhc", "hc", "identity-hc"))
    leaderboard = make_leaderboard(found.runs, "demo")
    assert {cell.group.track for cell in leaderboard.cells} == {OPEN_TRACK}
    assert all(cell.is_reference or cell.comparison is not None for cell in leaderboard.cells)
    assert "the only row of its comparison with enough seeds" in found.reason


@pytest.mark.parametrize(
    ("logged", "value", "equal"),
    [
        ("0.003", 3e-3, True),
        ("1e-3", 0.001, True),
        ("8", 8, True),
        ("True", True, True),
        ("1", True, False),
        ("a", "a", True),
    ],
)
def test_logged_text_is_compared_as_the_value_it_says(
    logged: str, value: bool | int | float | str, equal: bool
) -> None:
    assert same(logged, value) is equal


@pytest.mark.parametrize(("ratio", "kept"), [(simulated.BUDGET / simulated.PARAMS["100k"], True), (20, False)])
def test_a_budget_may_be_given_per_parameter_of_the_plain_model(store: Store, ratio: float, kept: bool) -> None:
    """hc and mhc have more parameters than resnet, and the same tokens: the ratio is counted on the model without connections."""
    found = placed(store, tokens=[], tokens_per_parameter=[ratio], sizes=["100k"])
    finals = found.runs[(found.runs["phase"] == "final") & (found.runs["size"] == "100k")]
    assert set(finals["track"]) == {"small/1" if kept else OPEN_TRACK}
    assert kept or "0.971 tokens per parameter, not 20" in found.reason


def test_a_track_has_one_kind_of_budget() -> None:
    for budget in ({"tokens": [], "tokens_per_parameter": []}, {"tokens": [1], "tokens_per_parameter": [1]}):
        with pytest.raises(ValueError, match="tokens or as tokens_per_parameter"):
            Track.model_validate(RULES | budget)
