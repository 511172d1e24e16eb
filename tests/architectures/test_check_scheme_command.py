"""`resbench check-scheme`: what it prints, writes, returns and refuses."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from broken_schemes import BreaksTheGraph, LeaksTheFuture

from resbench.architectures.conformance import CHECKS, Subject
from resbench.architectures.conformance.cost import measure_cost
from resbench.architectures.registry import available, resolve
from resbench.harness.cli import main
from resbench.results.conformance import load_badges


def test_a_good_scheme_fits_one_screen_and_returns_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-scheme", "identity-hc", "n_streams=2", "--json", str(tmp_path / "found.json")]) == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) <= 25
    assert max(map(len, printed.splitlines())) <= 150
    for check in CHECKS:
        assert check.name in printed
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["conforms"] is True
    assert found["arguments"] == {"n_streams": 2}
    judged = [check["name"] for check in found["checks"] if check["outcome"] != "not applicable"]
    assert {check.name for check in CHECKS} - set(judged) <= {"Triton"}
    assert found["badge"] == {
        "schemaVersion": 1,
        "label": "resbench conformance",
        "message": f"{len(judged)}/{len(judged)}",
        "color": "brightgreen",
    }
    assert found["cost"]["memory_ratio"] > 1
    assert found["cost"]["time_us"] > 0


def test_a_failure_returns_1_with_a_command_that_shows_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"{LeaksTheFuture.__module__}.{LeaksTheFuture.__name__}"
    assert (
        main(["check-scheme", name, "--only", "causality", "--only", "mixing", "--json", str(tmp_path / "found.json")])
        == 1
    )
    printed = capsys.readouterr().out
    assert "causality: no token sees a later one" in printed
    again = next(line for line in printed.splitlines() if "again: " in line).partition("again: ")[2]
    assert again == f"resbench check-scheme {name} --only causality --case 2,2,4,1"
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["badge"]["message"] == "1/2"
    assert found["badge"]["color"] == "red"
    assert [check["reproduction"] for check in found["checks"]] == [again, None]
    assert main(shlex.split(again)[1:]) == 1
    assert "moving token 1 changes the output of token 0" in capsys.readouterr().out


def test_all_schemes_are_a_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--only", "parameters", "--only", "mixing claims", "--json", str(tmp_path / "all.json")]
    assert main(["check-scheme", "--all", *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(available("scheme"))
    assert next(line for line in lines if line.startswith("mhc ")).split()[1] == "2/2"
    assert next(line for line in lines if line.startswith("attnres ")).split()[1] == "1/1"  # it claims nothing
    assert load_badges([tmp_path / "all.json"])["mhc"] == "2/2"


def test_a_long_finding_leaves_the_other_columns_alone(capsys: pytest.CaptureFixture[str]) -> None:
    name = f"{BreaksTheGraph.__module__}.{BreaksTheGraph.__name__}"
    assert main(["check-scheme", name, "--only", "torch.compile", "--only", "mixing"]) == 1
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("torch.compile "))
    assert row.split()[1] == "FAIL"
    assert row.rstrip().endswith("…")
    assert len(row.rstrip()) <= 150


@pytest.mark.slow
def test_the_interpreter_stands_in_for_a_gpu() -> None:
    command = [str(Path(sys.executable).parent / "resbench"), "check-scheme", "single-pass-mhc", "--only", "Triton"]
    ran = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "1"}, timeout=240
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "off on the interpreter" in ran.stdout or "off on NVIDIA" in ran.stdout


def test_the_checks_can_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-scheme", "--list"]) == 0
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()] == [check.name for check in CHECKS]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give the name of a scheme"),
        (["mhc", "--all"], "give the name of a scheme"),
        (["mch"], "unknown scheme 'mch'. Did you mean 'mhc'?"),
        (["mhc", "streams=4"], "has no argument 'streams': expected one of n_streams"),
        (["mhc", "4"], "'4': expected KEY=VALUE"),
        (["mhc", "n_streams=0"], "n_streams=0: expected at least 1"),
        (["mhc", "--only", "speed"], "no check is called 'speed': expected one of constructor"),
        (["mhc", "--only", "depth", "--case", "1,2"], "--case 1,2: expected four numbers"),
        (["mhc", "--only", "depth", "--case", "0,2,4,1"], "expected numbers of at least 1"),
        (["mhc", "--only", "depth", "--json", "no/such/folder/found.json"], "there is no folder"),
    ],
)
def test_what_cannot_be_checked_is_an_error(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["check-scheme", *arguments])
    assert ended.value.code == 2
    assert says in " ".join(capsys.readouterr().err.split())


def test_memory_is_what_stays_alive_between_forward_and_backward() -> None:
    resnet = measure_cost(Subject(resolve("scheme", "resnet")))
    assert resnet.memory_ratio == 1
    # At least the state and the branch's input of every sublayer, C float32 each.
    assert resnet.bytes_per_token >= 2 * 4 * resnet.width
    four = measure_cost(Subject(resolve("scheme", "identity-hc"), {"n_streams": 4}))
    assert four.memory_ratio > 2
    # Full AttnRes keeps one more vector per sublayer, as resnet does, and not its quadratic number of intermediates.
    assert measure_cost(Subject(resolve("scheme", "attnres"))).memory_ratio < 2
