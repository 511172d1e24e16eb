"""`resbench sweep plan` and `resbench sweep run` as typed: what they print, what they refuse, and their exit codes."""

import json
from pathlib import Path

import pytest
import sweep_stand_ins

from resbench.harness import cli

SWEEP = """
name: typed
base:
  data: {class_path: python-source, init_args: {context_length: 32, batch_size: 2, val_sequences: 2}}
  budget: {tokens: 640}
  every: {checkpoint: 0, gain_sequences: 0}
factors:
  size: [100k]
  scheme: [resnet, mhc]
seeds: [0, 1]
"""


def resbench(*arguments: str) -> int:
    """The exit code of a command line."""
    try:
        return cli.main(list(arguments))
    except SystemExit as end:
        return int(end.code or 0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP)
    return path


def test_plan_prints_every_cell_and_what_the_estimate_rests_on_and_writes_nothing(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert resbench("sweep", "plan", str(file), "--output-dir", str(file.parent / "runs")) == 0
    printed = capsys.readouterr().out
    assert "scheme=resnet" in printed
    assert "scheme=mhc" in printed
    # 640 tokens at 64 a step, twice for each of two schemes
    assert "4 runs = 2 cells x 2 seeds; 2.56k tokens" in printed
    assert "throughput assumed, nothing measured yet" in printed
    assert not (file.parent / "runs").exists()


def test_a_stated_throughput_decides_the_estimate(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        resbench("sweep", "plan", str(file), "--set", "flops_per_s=1e9", "--output-dir", str(file.parent / "runs")) == 0
    )
    assert "throughput stated in the sweep file: 1 GFLOP/s per worker" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("mhc]", "mch]"), ["unknown scheme 'mch'", "Did you mean 'mhc'"]),
        (("100k", "100b"), ["100b", "100k, 400k, 1m"]),
        (("python-source", "pyhton-source"), ["pyhton-source", "python-source"]),
        (("mhc]", "{class_path: mhc, init_args: {n_streams: 0}}]"), ["n_streams=0", "at least 1"]),
        (("mhc]", "{class_path: mhc, init_args: {n_stream: 2}}]"), ["n_stream"]),
        (("size: [100k]", "backbone.width: [30]\n  backbone.n_heads: [4]"), ["width=30", "n_heads=4"]),
        (("size: [100k]", "model.learning_rate: [-1]"), ["learning_rate=-1"]),
        (("size: [100k]", "model.learnin_rate: [1]"), ["learnin_rate"]),
        (("size: [100k]", "trainer.num_nodes: [2]"), ["trainer.num_nodes=2", "on one machine"]),
        (("seeds: [0, 1]", "seeds: []"), ["sweep.yaml: seeds"]),
    ],
)
@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_mistake_is_found_before_anything_runs(
    command: str, change: tuple[str, str], expected: list[str], file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert change[0] in SWEEP
    file.write_text(SWEEP.replace(*change))
    assert resbench("sweep", command, str(file), "--output-dir", str(file.parent / "runs")) == 2
    printed = capsys.readouterr().err
    for part in expected:
        assert part in " ".join(printed.split())
    assert len(printed.splitlines()) < 15
    assert "Traceback" not in printed
    assert not (file.parent / "runs" / "mlflow.db").exists()


def test_a_folder_that_cannot_be_made_is_named(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file.parent / "taken").write_text("a file")
    assert resbench("sweep", "run", str(file), "--output-dir", str(file.parent / "taken")) == 2
    assert str(file.parent / "taken") in capsys.readouterr().err


def test_unusable_arguments_are_refused_by_the_parser(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert resbench("sweep", "run", str(file), "--workers", "0") == 2
    assert "at least 1" in capsys.readouterr().err


@pytest.mark.slow
def test_run_trains_and_a_plan_afterwards_knows_the_measured_throughput(
    file: Path, output_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(file), "--output-dir", str(output_dir)]
    assert resbench("sweep", "run", *command, "--set", "seeds=[0]") == 0
    printed = capsys.readouterr().out
    assert "2 of 2 runs have a result (2 complete)" in printed
    assert "bits per byte (unigram" in printed
    assert resbench("sweep", "plan", *command) == 0
    assert "throughput measured on 2 earlier runs" in capsys.readouterr().out
    assert resbench("sweep", "run", *command) == 2
    assert "Add --extend" in capsys.readouterr().err
    assert resbench("sweep", "run", *command, "--extend") == 0
    assert "4 of 4 runs have a result" in capsys.readouterr().out


@pytest.mark.slow
def test_a_trial_starts_at_once_because_everything_was_loaded_before_it_was_forked(
    file: Path, output_dir: Path
) -> None:
    file.write_text(SWEEP.replace("seeds: [0, 1]", "seeds: [0, 1, 2]"))
    assert sweep_stand_ins.run(
        file, output_dir, workers=1, target="sweep_stand_ins:fit_and_measure_start", real=True
    ).complete
    starts = [json.loads(path.read_text()) for path in output_dir.glob("start-*.json")]
    assert len(starts) == 2 * 3
    # Importing torch, lightning and mlflow takes over five seconds of CPU time; a forked trial has them.
    assert sorted(start["cpu_s"] for start in starts)[3] < 1.5
    heavy = [
        name
        for start in starts
        for name in start["imported"]
        if name.partition(".")[0] in ("lightning", "mlflow", "sqlalchemy", "pandas")
    ]
    assert len(set(heavy)) < 10, heavy
