"""The benchmark of a run: both sides train the same model on the same tokens, and what it prints is what it measured."""

import json
from pathlib import Path

import pytest
import torch

from resbench.harness import names
from resbench.harness.bench.cli import main
from resbench.harness.bench.report import markdown
from resbench.harness.bench.run import BareLoop, Plan, Row, Shape, Speed, arguments, finish
from resbench.harness.bench.tokens import RandomTokens
from resbench.harness.config import parse


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(vocab_size=300, head_width=16, warmup_blocks=1, blocks=2, seed=3, folder=tmp_path)


def test_the_command_measures_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    small = ["--shape=1x32:16x2", "--vocab=300", "--head-width=16", "--warmup=1", "--blocks=2"]
    assert main(["run", *small, "--scheme=mhc,n_streams=2", f"--out={out}"]) == 0
    report = json.loads((out / "bench.json").read_text())
    (row,) = report["rows"]
    assert row["scheme"] == "mhc,n_streams=2"
    assert row["tokens_per_step"] == 32
    assert row["fit"]["blocks"] == 2
    assert row["bare"]["blocks"] == 2
    assert row["ratio"] == pytest.approx(row["bare"]["step_ms"] / row["fit"]["step_ms"])
    # The parts follow one another, so they add up to the step.
    parts = sum(row["fit_metrics"][name] for name in names.STEP_PARTS_MS.values())
    assert parts == pytest.approx(row["fit"]["step_ms"], rel=0.3)
    assert row["params_connection"] > 0
    assert row["mfu_fit"] is None  # no peak is known of a CPU
    assert {"seed", "interval", "formula", "environment", "command"} <= report.keys()
    assert report["environment"]["torch"] == torch.__version__
    assert (out / "bench.png").stat().st_size > 10_000
    assert "mhc,n_streams=2" in (out / "table.md").read_text()
    assert "fit / bare" in capsys.readouterr().out


def test_the_bare_loop_trains_what_fit_trains(plan: Plan) -> None:
    argv = arguments("resnet", Shape(1, 32, 16, 2), plan)
    bare = BareLoop(argv)
    cli = parse(argv)
    theirs = cli.model.build(300, 16)
    for (name, ours), (_, other) in zip(bare.network.named_parameters(), theirs.named_parameters(), strict=True):
        assert torch.equal(ours, other), name
    before = bare.network.head.weight.clone()
    assert bare.block(1) > 0
    assert not torch.equal(bare.network.head.weight, before)


def test_a_speed_has_a_t_interval() -> None:
    # Mean 2, standard deviation 1, three blocks: t(0.975, 2) = 4.303, over root three.
    speed = Speed.of([1.0, 2.0, 3.0])
    assert speed.step_ms == 2.0
    assert speed.half_width_ms == pytest.approx(4.303 / 3**0.5, rel=1e-3)


def test_utilisation_follows_from_speed_and_formula() -> None:
    row = Row("resnet", "1x1:1x1", tokens_per_step=1000, flops_per_token=10**9, flops_per_token_6n=2 * 10**9)
    row.bare, row.fit = Speed(9.5, 0.0, 4), Speed(10.0, 0.0, 4)
    finish(row, 1e15)
    assert row.mfu_fit == pytest.approx(0.1)  # 1000 tokens x 1e9 FLOPs in 10 ms are 1e14 FLOP/s
    assert row.mfu_fit_6n == pytest.approx(0.2)
    assert row.ratio == pytest.approx(0.95)
    assert row.ratio_half_width == 0.0


def test_a_loser_is_shown() -> None:
    assert "oom: 3 TiB" in markdown([Row("mhc", "9x9:9x9", 81, outcome="oom", reason="3 TiB")])


def test_random_tokens_fall_as_one_over_rank(tmp_path: Path) -> None:
    data = RandomTokens(str(tmp_path), vocab_size=100, context_length=1000, batch_size=1, sequences=50, val_sequences=1)
    data.prepare_data()
    counts = torch.bincount(torch.cat([batch["tokens"].flatten() for batch in data.val_dataloader()]), minlength=100)
    everything = torch.from_numpy(data._stream.array.astype("int64"))
    share = torch.bincount(everything, minlength=100).double() / len(everything)
    # P(id = k) = ln((k + 2) / (k + 1)) / ln(101): 0.150 for the first, 0.0878 for the second.
    assert share[0] == pytest.approx(0.1502, abs=0.006)  # four standard errors of 50,001 draws
    assert share[1] == pytest.approx(0.0879, abs=0.005)
    assert len(counts) == 100


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--shape=12x768", r"--shape 12x768: expected LAYERSxWIDTH:TOKENSxSEQUENCES"),
        ("--shape=1x30:16x2", r"no multiple of --head-width"),
        ("--set=model.loss", r"--set model.loss: expected KEY=VALUE"),
        ("--set=model.loss=fast", r"model.loss"),
        ("--scheme=nothing", r"nothing"),
        ("--blocks=0", r"--blocks 0: expected at least 1"),
    ],
)
def test_what_cannot_be_measured_is_said(argument: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        main(["run", argument, f"--out={tmp_path}/out"])
    assert not (tmp_path / "out").exists()
