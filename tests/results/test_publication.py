"""Publishing: what goes out is what was built and checked, in one step, and nothing of anybody else's is lost."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from simulated_laws import ladder

from resbench.results import publication
from resbench.results.cli import main
from resbench.results.publication import publish
from resbench.results.publish import write_files
from resbench.results.submission.making import make_submission
from resbench.results.submission.reading import Refused
from resbench.results.submission.rerun import machine
from resbench.results.submission.verification import SCHEMA, Verification, signed

PAGE = "<!doctype html><html><body><main>rows</main><footer><p>end</p></footer></body></html>"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    write_files(folder, {"figures/loss.svg": "<svg/>", "leaderboard.json": "{}", "index.html": PAGE})
    return folder


@pytest.fixture(scope="module")
def text() -> str:
    runs = ladder({"resnet": 1.0, "mhc": 1.2}, ratios=(20,), config_hash="c" * 64, commit="0" * 40, dirty=False)
    runs["run_id"] = [f"{position:032x}" for position in range(len(runs))]
    runs = runs.assign(data_fingerprint="d" * 64, tokens=runs["budget_tokens"], hardware="NVIDIA H100 80GB HBM3")
    runs["tokens_per_s"] = runs["tokens"].astype("float64") / runs["wall_s"]
    return make_submission(runs, "laws", "A. Reader")


@pytest.fixture
def submission(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "laws.json"
    file.write_text(text)
    return file


def record_of(text: str, **changes: Any) -> Verification:
    content = json.loads(text)
    run = content["runs"][0]
    return signed(
        {
            "schema": SCHEMA, "submission": content["digest"], "study": "laws", "submitter": "A. Reader", "verifier": "B. Verifier",
            "at": "2026-01-01T00:00:00Z", "machine": machine("cpu"), "runs": [run["run_id"]], "sample_seed": 1, "eligible": 30, "left_out": {},
            "seed_sd": 0.01, "tolerance_run": 0.04, "tolerance_mean": 0.003, "mean_difference": 0.0, "mean_low": None, "mean_high": None,
            "reruns": [
                {"run_id": run["run_id"], "cell": run["cell"], "seed": 0, "hardware": run["hardware"], "submitted": 3.0, "rerun": 3.0,
                 "difference": 0.0, "verdict": "agrees", "reason": "", "seconds": 1.0}
            ],
            "verdict": "verified",
        } | changes
    )  # fmt: skip


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_published(
    site: Path, submission: Path, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "record.json"
    record.write_text(record_of(text).text())
    (site / ".env").write_text("SECRET=1")  # in the folder, but not of the build
    folder = tmp_path / "public"
    command = [
        "publish",
        str(folder),
        "--site",
        str(site),
        "--submission",
        str(submission),
        "--verification",
        str(record),
    ]
    assert main(command) == 0
    assert "for any static host" not in capsys.readouterr().err
    published = content(folder)
    assert not any("SECRET" in str(found) for found in published.values())
    assert published["figures/loss.svg"] == b"<svg/>"
    assert b'<a href="submissions/index.html">' in published["index.html"]
    (name,) = [name for name in published if re.fullmatch(r"submissions/laws-[0-9a-f]{12}\.json", name)]
    assert published[name].decode() == text
    listing = published["submissions/index.html"].decode()
    assert "verified: 1 of 1 reruns agree, by B. Verifier" in listing
    for link in re.findall(r'href="([^"#:]+)"', listing):
        assert (folder / "submissions" / link).is_file(), link
    assert "<script" not in listing
    assert not re.search(r"https?://", listing)
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    workflow = yaml.safe_load(published[".github/workflows/pages.yml"])
    steps = [step["uses"] for step in workflow["jobs"]["deploy"]["steps"] if "uses" in step]
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", used) for used in steps)
    assert workflow["permissions"] == {"contents": "read", "pages": "write", "id-token": "write"}
    assert "secrets." not in published[".github/workflows/pages.yml"].decode()


def test_again_is_the_same_and_replaces_only_what_we_wrote(site: Path, submission: Path, tmp_path: Path) -> None:
    folder = tmp_path / "public"
    first = publish(folder, site, [submission])
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref")
    assert publish(folder, site, [submission]) == first
    assert (folder / ".git" / "HEAD").read_text() == "ref"
    publish(folder, site)
    assert "submissions/index.html" not in content(folder), "what is no longer published is gone"
    (folder / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match=r"mine.txt: not of the earlier"):
        publish(folder, site)
    (folder / "mine.txt").unlink()
    (folder / "index.html").write_text("edited")
    with pytest.raises(ValueError, match=r"index.html: changed since it was published"):
        publish(folder, site)
    assert (folder / "index.html").read_text() == "edited"
    assert not list(tmp_path.glob(".public-*"))


def test_a_folder_of_somebody_elses_is_refused(site: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    publish(other, site)  # empty is fine
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="not empty, and not written by"):
        publish(tmp_path / "theirs", site)
    (tmp_path / "link").symlink_to(other)
    with pytest.raises(ValueError, match="not a folder"):
        publish(tmp_path / "link", site)
    assert (tmp_path / "theirs" / "thesis.tex").exists()


def test_a_site_that_is_not_as_it_was_built_is_refused(site: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a site that"):
        publish(tmp_path / "public", tmp_path)
    (site / "leaderboard.json").write_text("[]")
    with pytest.raises(ValueError, match=r"leaderboard.json: changed since the site was built"):
        publish(tmp_path / "public", site)
    (site / "leaderboard.json").unlink()
    with pytest.raises(ValueError, match="which is not there"):
        publish(tmp_path / "public", site)
    sums = (site / "SHA256SUMS").read_text()
    (site / "SHA256SUMS").write_text(f"{'0' * 64}  ../laws.json\n{sums}")
    with pytest.raises(ValueError, match=r"lists '\.\./laws.json'"):
        publish(tmp_path / "public", site)
    assert not (tmp_path / "public").exists()


def test_a_refused_submission_and_a_strange_record_are_not_published(
    site: Path, submission: Path, text: str, tmp_path: Path
) -> None:
    hostile = tmp_path / "hostile.json"
    hostile.write_text(text.replace('"mhc"', '"<script>"'))
    with pytest.raises(Refused, match="hostile.json"):
        publish(tmp_path / "public", site, [hostile])
    record = tmp_path / "record.json"
    record.write_text(record_of(text, submission="a" * 64).text())
    with pytest.raises(ValueError, match="which is not among those given"):
        publish(tmp_path / "public", site, [submission], [record])
    with pytest.raises(ValueError, match="given twice"):
        publish(tmp_path / "public", site, [submission, submission])
    assert not (tmp_path / "public").exists()


def test_a_failure_on_the_way_leaves_the_earlier_folder(
    site: Path, submission: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "public"
    publish(folder, site)
    before = content(folder)
    rename = os.rename

    def fails(source: Path, target: Path) -> None:
        if Path(source).name == "new":
            raise OSError("disk gone")
        rename(source, target)

    monkeypatch.setattr(publication.os, "rename", fails)
    with pytest.raises(OSError, match="disk gone"):
        publish(folder, site, [submission])
    assert content(folder) == before
    assert not list(tmp_path.glob(".public-*"))
