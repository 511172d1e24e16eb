"""`resbench leaderboard build` as a user meets it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import simulated
from simulated import SCRIPT, Store

from resbench.harness.store import open_store
from resbench.results.cli import folder_name, main


def test_a_study_is_built_where_it_is_asked_for_and_printed(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_figures: None
) -> None:
    assert main(["build", "--study", "demo", "--tracking-uri", store.uri, "--out", str(tmp_path / "site")]) == 0
    assert json.loads((tmp_path / "site" / "leaderboard.json").read_text())["study"] == "demo"
    printed = capsys.readouterr().out
    assert "identity-hc" in printed
    assert "unigram entropy 4.610 bits/byte" in printed
    assert "1 run diverged" in printed
    assert str(tmp_path / "site" / "index.html") in printed
    assert f"resbench ui --tracking-uri {store.uri}" in printed
    assert "resbench sweep plan streams" in printed
    assert max(len(line) for line in printed.splitlines() if "│" in line or "─" in line) <= 80


def test_by_default_the_latest_study_goes_below_the_output_directory(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    empty_store: Path,
    no_figures: None,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_store, tmp_path / "runs")
    client = open_store(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    for position, name in enumerate(["older", "newer"]):
        experiment = client.create_experiment(name)
        for seed in (0, 1):
            simulated.simulate_run(
                client, experiment, simulated.Scheme("resnet"), study=None, seed=seed, start=simulated.START + position
            )
    assert main(["build"]) == 0
    assert (tmp_path / "runs" / "leaderboard" / "newer" / "index.html").exists()
    assert not (tmp_path / "runs" / "leaderboard" / "older").exists()
    assert "Other studies: older" in capsys.readouterr().out


def test_an_unknown_study_is_answered_with_the_known_ones(store: Store) -> None:
    with pytest.raises(ValueError, match=r"no study 'dmeo' .*Studies there: .*demo"):
        main(["build", "--study", "dmeo", "--tracking-uri", store.uri])


def test_an_empty_store_is_answered_with_what_to_run(tmp_path: Path, empty_store: Path) -> None:
    uri = f"sqlite:///{shutil.copy(empty_store, tmp_path)}"
    with pytest.raises(ValueError, match="resbench sweep run"):
        main(["build", "--tracking-uri", uri])


def test_a_study_of_search_runs_only_is_not_ranked(tmp_path: Path, empty_store: Path) -> None:
    uri = f"sqlite:///{shutil.copy(empty_store, tmp_path)}"
    client = open_store(uri)
    simulated.simulate_run(
        client, client.create_experiment("tuning"), simulated.Scheme("hc"), study="tuning", phase="search"
    )
    with pytest.raises(ValueError, match=r"no run of phase 'final' to rank \(runs there: 1 search\)"):
        main(["build", "--tracking-uri", uri])


def test_a_file_in_the_way_is_named_before_anything_is_drawn(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("resbench.results.publish.draw_study")
    (tmp_path / "site").write_text("not a folder")
    with pytest.raises(FileExistsError, match="site"):
        main(["build", "--study", "single", "--tracking-uri", store.uri, "--out", str(tmp_path / "site")])


@pytest.mark.parametrize(
    ("study", "folder"), [("demo", "demo"), ("../../etc", "etc"), ("a b/c", "a-b-c"), ("...", "study"), ("<x>", "x")]
)
def test_a_study_s_folder_stays_below_the_leaderboards(study: str, folder: str) -> None:
    assert folder_name(study) == folder


def test_a_hostile_study_is_printed_as_it_is_called(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_figures: None
) -> None:
    assert main(["build", "--study", "hostile", "--tracking-uri", store.uri, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert SCRIPT in printed
    assert "\x1b" not in printed
    assert "\u202e" not in printed


def test_help_does_not_import_what_building_needs() -> None:
    code = (
        "import sys, contextlib, io\nfrom resbench.results.cli import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()): main(['build', '--help'])\n"
        "print([name for name in ('pandas', 'matplotlib', 'mlflow', 'scipy', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_what_check_scheme_found_is_a_badge_in_the_table(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_figures: None
) -> None:
    from resbench.harness.cli import main as resbench

    checked = tmp_path / "mhc.json"
    options = ["--only", "parameters", "--only", "constructor", "--json", str(checked)]
    assert resbench(["check-scheme", "mhc", *options]) == 0
    failed = json.loads(checked.read_text())
    failed["checks"][0]["outcome"] = "failed"
    (tmp_path / "hc.json").write_text(json.dumps({**failed, "scheme": "hc"}))
    site = ["--study", "demo", "--tracking-uri", store.uri, "--out", str(tmp_path / "site")]
    assert main(["build", *site, "--conformance", str(checked), str(tmp_path / "hc.json")]) == 0
    rows = json.loads((tmp_path / "site" / "leaderboard.json").read_text())["rows"]
    badges = {row["scheme"]: row["conformance"] for row in rows}
    assert badges == {"mhc": "2/2", "hc": "1/2, fails: parameters", "resnet": None, "identity-hc": None}
    page = (tmp_path / "site" / "index.html").read_text()
    assert "Conforms" in page
    assert "1/2, fails: parameters" in page
    capsys.readouterr()

    (tmp_path / "notes.json").write_text('{"scheme": "mhc"}')
    with pytest.raises(
        ValueError, match=r"notes\.json: not a file that `resbench check-scheme NAME --json FILE` wrote"
    ):
        main(["build", *site, "--conformance", str(tmp_path / "notes.json")])
