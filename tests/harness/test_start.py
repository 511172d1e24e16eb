"""The start of a run: every second of it is in one phase."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from harness_support import run_of

from resbench.harness import names, start
from resbench.harness.bench.cli import main
from resbench.harness.bench.start import Start, markdown
from resbench.harness.fit import fit

Argv = Callable[..., list[str]]


@pytest.fixture
def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no run had started in this process yet."""
    monkeypatch.setattr(start.Timeline, "_in_use", False)
    monkeypatch.setattr(start, "_current", None)


@pytest.mark.usefixtures("new_process")
def test_the_first_run_counts_from_the_birth_of_its_process() -> None:
    born = psutil.Process().create_time()  # to the second, as psutil takes the time of boot
    first = start.Timeline()
    assert first.seconds["imports"] == pytest.approx(time.time() - born, abs=1.1)
    second = start.Timeline()
    assert "imports" not in second.seconds
    assert second.total == 0.0


def test_a_process_knows_its_age() -> None:
    """To the kernel's hundredth of a second: one that is asked at once is milliseconds old."""
    program = "from resbench.harness.start import age_s; import time; time.sleep(0.5); print(age_s())"
    began = time.monotonic()
    age = float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)
    assert 0.5 <= age <= time.monotonic() - began + 0.02


def test_phases_follow_one_another() -> None:
    start.begin()
    start.mark("config")
    time.sleep(0.02)
    start.mark("data")
    start.mark("config")  # only the first end counts
    found = start.end()
    assert found is not None
    assert list(found.seconds)[-2:] == ["config", "data"]
    assert found.seconds["data"] >= 0.02
    assert found.total == pytest.approx(sum(found.seconds.values()))
    assert start.end() is None
    start.mark("data")  # after the end nothing is starting


def test_a_run_logs_its_start_once(argv: Argv, output_dir: Path) -> None:
    result = fit(argv("--budget.tokens=512"))
    metrics = run_of(output_dir, result.run_id).data.metrics
    phases = {phase: metrics[name] for phase, name in names.START_S.items() if name in metrics}
    assert {
        "config",
        "store",
        "data",
        "record",
        "model",
        "validation",
        "forward",
        "backward",
        "optimizer",
    } <= phases.keys()
    assert metrics[names.START_TOTAL_S] == pytest.approx(sum(phases.values()), abs=1e-3)
    assert min(phases.values()) >= 0


def test_the_table_sets_the_cold_start_apart() -> None:
    starts = [
        Start("shell", 0, {"imports": 9.0, "forward": 30.0}, 39.0),
        Start("shell", 1, {"imports": 3.0, "forward": 1.0}, 4.0),
        Start("shell", 2, {"imports": 5.0, "forward": 1.0}, 6.0),
        Start("shell", 3, {"imports": 4.0, "forward": 9.0}, 13.0),
        Start("fork", 4, {"imports": 0.1, "forward": 1.0}, 1.1),
    ]
    lines = markdown(starts).splitlines()
    assert lines[0] == "| seconds | shell, first | shell, median of 3 | fork, median of 1 |"
    assert "| imports | 9.00 | 4.00 | 0.10 |" in lines
    assert lines[-1] == "| all | 39.00 | 6.00 | 1.10 |"


def test_losses_are_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["loss", "--shape=1x16:8x2", "--vocab=100", f"--out={tmp_path}/out"]) == 0
    lines = [line.split(" | ") for line in (tmp_path / "out/loss.md").read_text().splitlines()[2:]]
    assert [line[1] for line in lines] == ["plain", "chunked"]
    assert float(lines[0][4].strip(" |")) == pytest.approx(float(lines[1][4].strip(" |")), abs=1e-4)
    assert "16, 16, 100" in capsys.readouterr().out
    with pytest.raises(ValueError, match="--repeats 0: expected at least 1"):
        main(["start", "--repeats=0"])
