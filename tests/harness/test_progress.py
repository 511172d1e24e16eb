"""What a user sees of a run."""

import io
from pathlib import Path

import pytest
from harness_support import Argv
from rich.console import Console

from resbench.harness.callbacks import progress
from resbench.harness.callbacks.progress import short
from resbench.harness.fit import fit


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00k"),
        (46592, "46.6k"),
        (999_600, "1.00M"),
        (1_200_000, "1.20M"),
        (10**10, "10.0B"),
    ],
)
def test_short_counts(count: int, shown: str) -> None:
    assert short(count) == shown


def test_the_bar_fits_a_terminal(argv: Argv, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(
        progress, "Console", lambda **_: Console(file=screen, force_terminal=True, width=80, color_system=None)
    )
    fit(argv("--model.scheme=mhc"))
    last = [line for line in screen.getvalue().replace("\r", "\n").splitlines() if "tokens" in line][-1]
    assert "5.12k/5.12k tokens" in last
    assert "val " in last
    assert "/s" in last
    assert "…" not in last


def test_lines_tell_speed_and_losses(argv: Argv, output_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(argv())
    line = capsys.readouterr().err.splitlines()[-1]
    for part in ("resnet", "5,120/5,120 tokens", "loss ", "val ", "/s"):
        assert part in line
    fit(argv("--trainer.enable_progress_bar=false"))
    assert capsys.readouterr().err == ""


def test_a_profile_is_printed_on_request(argv: Argv, capsys: pytest.CaptureFixture[str]) -> None:
    fit(argv("--trainer.profiler=simple", "--budget.tokens=256"))
    assert "run_training_batch" in capsys.readouterr().out
