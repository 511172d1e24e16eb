"""Published studies: one command makes their site from the runs in the repository, the same to the last byte wherever and however it runs."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from resbench.harness.cli import main
from resbench.results.publish import SUMS
from resbench.results.runs import load_runs
from resbench.results.source import open_source

PUBLISHED = Path(__file__).parents[2] / "results" / "published"
DEMO = PUBLISHED / "demo"
STUDY = PUBLISHED / "h200-2026"


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The demo's site built twice at once: other processes, folders, working directories, hash seeds, time zones and languages."""
    folders, builds = [], []
    for number, (seed, zone, language) in enumerate((("1", "UTC", "C.UTF-8"), ("2024", "Asia/Kolkata", "C"))):
        here = tmp_path_factory.mktemp(f"build-{number}")
        (here / "matplotlibrc").write_text(f"lines.linewidth: {number + 5}\nfont.size: {number + 20}\n")
        folders.append(here / ("site" * (number + 1)))
        command = [
            sys.executable,
            "-c",
            "import sys; from resbench.harness.cli import main; sys.exit(main())",
            "leaderboard",
            "build",
            "--from",
            str(DEMO / "runs.zip"),
            "--out",
        ]
        environment = os.environ | {"PYTHONHASHSEED": seed, "TZ": zone, "LC_ALL": language, "OMP_NUM_THREADS": "1"}
        builds.append(
            subprocess.Popen(
                [*command, str(folders[-1])],
                cwd=here,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    for build in builds:
        output, _ = build.communicate(timeout=240)
        assert build.returncode == 0, output
    return folders[0], folders[1]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_the_site_is_the_same_to_the_last_byte(sites: tuple[Path, Path]) -> None:
    first, second = (contents(folder) for folder in sites)
    assert list(first) == list(second)
    assert [name for name in first if first[name] != second[name]] == []
    assert {
        "index.html",
        "method.html",
        "schemes/mhc.html",
        "figures/difference.svg",
        "figures/difference.png",
        SUMS,
    } <= set(first)


def test_the_listing_names_every_file_of_the_site_with_its_digest(sites: tuple[Path, Path]) -> None:
    files = contents(sites[0])
    listed = dict(line.split("  ")[::-1] for line in files.pop(SUMS).decode().splitlines())
    assert listed == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def test_the_published_figure_has_the_numbers_of_the_published_runs(sites: tuple[Path, Path]) -> None:
    assert (DEMO / "difference.csv").read_text() == (sites[0] / "figures" / "difference.csv").read_text()
    assert (DEMO / "sweep.yaml").read_bytes() == (sites[0] / "configs" / "sweep.yaml").read_bytes()


def test_every_row_of_the_published_study_is_in_its_track(sites: tuple[Path, Path]) -> None:
    table = (sites[0] / "index.html").read_text()
    assert table.count('data-track="demo/1"') == 8
    assert 'data-track="open"' not in table


def test_the_published_files_are_small_and_name_no_place() -> None:
    assert sum(path.stat().st_size for path in DEMO.iterdir()) < 2_000_000
    runs = load_runs(DEMO / "runs.zip")
    assert (runs["outcome"] == "complete").all()
    assert len(runs) == 16
    values = [
        value for run in open_source(DEMO / "runs.zip").runs() for value in (*run.params.values(), *run.tags.values())
    ]
    assert not [value for value in values if value.startswith(("/", "sqlite:"))]


@pytest.mark.parametrize(
    ("folder", "sweeps"),
    [("claims", ("streams", "sinkhorn", "depth", "ladder")), ("beyond/claims", ("beyond",))],
)
def test_the_study_s_claims_are_those_of_its_runs(folder: str, sweeps: tuple[str, ...], tmp_path: Path) -> None:
    chosen = [word for sweep in sweeps for word in ("--study", f"h200-{sweep}")]
    files = sorted(map(str, (STUDY / "state").glob("runs-*.zip")))
    assert main(["claims", "--from", *files, *chosen, "--out", str(tmp_path)]) == 0
    for name in ("claims.md", "claims.json"):
        assert (tmp_path / name).read_bytes() == (STUDY / folder / name).read_bytes(), name


def test_the_study_s_tables_name_only_figures_that_are_there() -> None:
    for table in STUDY.glob("*/leaderboard.md"):
        named = re.findall(r"\]\(([\w/.-]+\.svg)\)", table.read_text())
        assert named
        assert [name for name in named if not (table.parent / name).is_file()] == [], table


def test_the_study_s_pages_count_its_runs() -> None:
    """Each planned run is there once, and as many as the pages say."""
    runs = load_runs(sorted((STUDY / "state").glob("runs-*.zip")))
    assert not runs.duplicated(["study", "trial_key"]).any()
    planned = sum(
        int(n)
        for n in re.findall(r"^\| \[\w+\.yaml\].*\| (\d+) \| \S+ \| \d+ \|$", (STUDY / "README.md").read_text(), re.M)
    )
    said = f"{len(runs)} of {planned} planned"
    assert said in " ".join((STUDY / "README.md").read_text().split())
    assert said in " ".join((PUBLISHED.parents[1] / "README.md").read_text().split())
