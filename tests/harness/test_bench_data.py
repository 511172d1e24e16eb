"""`resbench bench data` as typed, on a corpus of a few hundred lines: what is measured is said, drawn and judged."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from resbench.harness.bench.data import KINDS, Rate, draw
from resbench.harness.cli import main


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    files = []
    for shard in range(2):
        texts = [f"line {shard}.{i}: " + " ".join(str(i * k % 97) for k in range(120)) for i in range(150)]
        files.append(str(tmp_path / f"{shard}.parquet"))
        pq.write_table(pa.table({"text": texts}), files[-1])
    return files


@pytest.fixture(autouse=True)
def small_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resbench.harness.bench.data.VOCABULARY", 300)


def bench(shards: list[str], out: Path, wanted: float) -> int:
    small = ["--context-length", "32", "--batch-size", "2", "--seconds", "0.05", "--workers", "0,1"]
    return main(["bench", "data", *small, "--tokens-per-s", str(wanted), "--out", str(out), "--data", *shards])


def test_every_loader_is_measured_and_judged(
    shards: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(shards, tmp_path / "out", wanted=10) == 0
    content = json.loads((tmp_path / "out" / "data.json").read_text())
    assert [(rate["kind"], rate["workers"]) for rate in content["rates"]] == [(k, w) for k in KINDS for w in (0, 1)]
    for rate in content["rates"]:
        assert 0 < rate["slowest"] <= rate["tokens_per_s"] <= rate["fastest"]
    assert content["wanted_tokens_per_s"] == 50
    assert content["assumed_consumption_tokens_per_s"] == 10
    assert (tmp_path / "out" / "data.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert printed.count(": enough") == len(KINDS)


def test_too_slow_is_said_and_is_the_exit_code(
    shards: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "resbench.harness.bench.data.measure", lambda kind, workers, plan: Rate(kind, workers, 9.0, 8.0, 10.0)
    )
    assert bench(shards, tmp_path / "out", wanted=10) == 1
    assert capsys.readouterr().out.count("NOT enough (0.18 of what is wanted)") == len(KINDS)


def test_the_figure_has_a_line_per_loader_and_both_levels() -> None:
    rates = [Rate(kind, workers, 1e6 * (1 + workers), 9e5, 3e6) for kind in KINDS for workers in (0, 2)]
    (axes,) = draw(rates, consumed=4e5, margin=5, cores=2).axes
    levels = [line.get_ydata()[0] for line in axes.get_lines() if len(set(map(float, line.get_ydata()))) == 1]
    assert {4e5, 2e6} <= set(levels)
    assert axes.get_legend_handles_labels()[1] == list(KINDS)


@pytest.mark.parametrize(("option", "value"), [("--workers", "1,two"), ("--seconds", "0"), ("--tokens-per-s", "-1")])
def test_impossible_arguments_are_refused(option: str, value: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "data", option, value])
    assert stopped.value.code == 2
