"""A scheme from somebody else's package, as `resbench new-scheme` writes it, is listed, swept beside the built-ins and ranked."""

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from resbench.harness.cli import main

Command = Callable[..., subprocess.CompletedProcess[str]]

SWEEP = """
name: plugged
base:
  data: {class_path: python-source, init_args: {root: %s, context_length: 32, batch_size: 4, val_sequences: 4, val_fraction: 0.2}}
  budget: {tokens: 1280}
factors:
  size: [100k]
  scheme: [resnet, damped]
seeds: [0, 1]
"""


@pytest.mark.slow
def test_a_plugin_is_listed_swept_and_ranked(
    resbench: Command, plugin_site: Path, tmp_path: Path, empty_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = resbench("list", site=plugin_site)
    assert listed.returncode == 0, listed.stderr
    line = next(line for line in listed.stdout.splitlines() if "damped" in line)
    assert "resbench-damped" in line
    assert "0.1.0" in line
    assert main(["list"]) == 0  # this process has it nowhere on its path
    assert "resbench-damped" not in capsys.readouterr().out

    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for i in range(60):
        (corpus / f"module_{i}.py").write_text(f"def function_{i}(x):\n    return x + {i}\n" * 8)
    sweep = tmp_path / "plugged.yaml"
    sweep.write_text(SWEEP % corpus)
    runs = tmp_path / "runs"
    runs.mkdir()
    shutil.copy(empty_store, runs)
    swept = resbench("sweep", "run", str(sweep), "--output-dir", str(runs), site=plugin_site)
    assert swept.returncode == 0, swept.stdout + swept.stderr

    board = resbench(
        "leaderboard", "build", "--study", "plugged", "--output-dir", str(runs), "--out", str(tmp_path / "board")
    )
    assert board.returncode == 0, board.stdout + board.stderr
    rows = json.loads((tmp_path / "board" / "leaderboard.json").read_text())["rows"]
    assert {row["scheme"] for row in rows} == {"resnet", "damped"}
    damped = next(row for row in rows if row["scheme"] == "damped")
    assert damped["params_connection"] == 4  # one momentum for each of the two layers' two sublayers
    assert damped["outcomes"]["complete"] == 2
    assert damped["difference"]["n"] == 2  # paired with resnet by seed

    with sqlite3.connect(runs / "mlflow.db") as database:
        runs_of = dict(
            database.execute("select value, count(*) from tags where key = 'scheme' group by value").fetchall()
        )
    assert runs_of == {"resnet": 2, "damped": 2}
