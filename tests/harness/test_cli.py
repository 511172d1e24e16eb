"""The command line as a user meets it."""

import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from resbench.harness import cli
from resbench.harness.cli import main

Argv = Callable[..., list[str]]


def test_help_answers_at_once() -> None:
    seconds = []
    for _ in range(3):
        start = time.monotonic()
        command = [str(Path(sys.executable).parent / "resbench"), "--help"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        seconds.append(time.monotonic() - start)
    assert answer.returncode == 0
    for command in cli.COMMANDS:
        assert command in answer.stdout
    assert min(seconds) < 1.5


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from resbench.harness.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "sys.exit(bool({'torch', 'lightning', 'mlflow', 'pandas', 'numpy', 'jsonargparse', 'rich'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False).returncode == 0


def test_version_and_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out.startswith("resbench ")
    with pytest.raises(SystemExit) as exit_:
        main(["fitt"])
    assert exit_.value.code == 2
    assert "fit" in capsys.readouterr().err
    assert main([]) == 0


def test_fit_from_the_command_line(argv: Argv, output_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *argv("--budget.tokens=1280")]) == 0
    printed = capsys.readouterr()
    assert "complete after 1,280 tokens" in printed.out
    assert "bits per byte (token frequencies alone:" in printed.out
    assert f"sqlite:///{output_dir}/mlflow.db" in printed.out
    assert "1,280/1,280 tokens" in printed.err  # no terminal: plain lines
    for noise in ("GPU available", "Tip", "num_workers", "Warning", "alembic", "Seed set"):
        assert noise not in printed.err + printed.out


def screen(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a failing command prints: one screen, no traceback, exit code 2."""
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    assert 0 < len(printed.err.splitlines()) <= 25
    assert printed.err.startswith(f"resbench {arguments[0]}: error: ")
    return printed.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--model.scheme=mch"], ["model.scheme", "Did you mean 'mhc'", "resnet"]),
        (["--model.backbone.size=2m"], ["2m", "125m"]),
        (["--data=txt"], ["data", "python-source"]),
        (["--model.learning_rat=1"], ["model.learning_rat", "learning_rate"]),
        (["--model.learning_rate=x"], ["model.learning_rate", "float"]),
        (["--model.backbone.width=33"], ["width=33", "n_heads=2"]),
        (["--model.scheme=mhc", "--model.scheme.n_streams=0"], ["n_streams=0"]),
        (["--data.root=/no/such/folder"], ["/no/such/folder"]),
        (
            ["--data=text", "--data.data_files=/no/such.txt"],
            ["data.init_args.data_files", "no such file: /no/such.txt"],
        ),
        (["--tracking.uri=http://127.0.0.1:9"], ["127.0.0.1:9", "does not answer"]),
        (["--tracking.uri=./mlruns"], ["sqlite:///"]),
        (["--config=missing.yaml"], ["missing.yaml"]),
    ],
)
def test_mistakes_are_one_screen(
    argv: Argv, arguments: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = argv(*arguments)
    if "--data=text" in arguments:  # which has no root, and says so
        given = [argument for argument in given if not argument.startswith("--data.root=")]
    printed = " ".join(screen(["fit", *given], capsys).split())
    for part in expected:
        assert part in printed
    assert "Union" not in printed  # how jsonargparse reads types is no concern of the user


def test_an_output_directory_that_is_a_file(argv: Argv, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert "a file is in the way" in " ".join(screen(["fit", *argv(f"--output_dir={tmp_path}/file")], capsys).split())


def test_a_database_of_another_version(argv: Argv, output_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with sqlite3.connect(output_dir / "mlflow.db") as database:
        database.execute("update alembic_version set version_num = 'ffffffffffff'")
    for command in (["fit", *argv()], ["ui", f"--output-dir={output_dir}"]):
        assert "another version of MLflow" in " ".join(screen(command, capsys).split())


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two more distributions: one whose scheme raises on import, one that is fine."""
    (tmp_path / "broken_scheme.py").write_text("raise RuntimeError('compiled for another torch')")
    (tmp_path / "fine_scheme.py").write_text(
        "from resbench.architectures.schemes.resnet import ResNet\nclass Fine(ResNet):\n    'A scheme that loads.'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, group in (("broken", "broken_scheme:Broken"), ("fine", "fine_scheme:Fine")):
        folder = tmp_path / f"their_{name}-1.5.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: their-{name}\nVersion: 1.5\n")
        (folder / "entry_points.txt").write_text(f"[resbench.schemes]\n{name} = {group}\n")


@pytest.mark.usefixtures("plugins")
def test_list_shows_what_there_is_and_what_is_broken(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in ("resnet", "hc", "mhc", "identity-hc", "python-source", "text", "transformer"):
        assert any(line.startswith(name) and "resbench" in line for line in lines), name
    broken = next(line for line in lines if line.startswith("broken"))
    assert "their-broken 1.5" in broken
    assert "compiled for another torch" in broken
    assert "A scheme that loads." in next(line for line in lines if line.startswith("fine"))
    assert any(line.split()[:2] == ["1m", "1,003,520"] for line in lines)


@pytest.mark.usefixtures("plugins")
def test_a_broken_plugin_stops_only_who_asks_for_it(argv: Argv, capsys: pytest.CaptureFixture[str]) -> None:
    printed = " ".join(screen(["fit", *argv("--model.scheme=broken")], capsys).split())
    assert "their-broken 1.5" in printed
    assert "compiled for another torch" in printed
    assert main(["fit", *argv("--model.scheme=fine", "--budget.tokens=256")]) == 0


def test_print_config_and_help_of_a_scheme(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, expected in (
        (["fit", "--print_config"], "seed_everything: 0"),
        (["fit", "--model.scheme.help", "mhc"], "sinkhorn_iterations"),
        (["fit", "--help"], "resbench fit --model.scheme mhc"),
    ):
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert not exit_.value.code
        assert expected in capsys.readouterr().out


def test_the_ui_needs_runs_and_a_free_port(
    output_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no run has been logged" in " ".join(screen(["ui", f"--output-dir={tmp_path}/none"], capsys).split())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        printed = screen(["ui", f"--output-dir={output_dir}", f"--port={port}"], capsys)
    assert str(port) in printed
    assert main(["ui", "--tracking-uri=https://mlflow.example.org"]) == 0
    assert "open it in a browser" in capsys.readouterr().out
