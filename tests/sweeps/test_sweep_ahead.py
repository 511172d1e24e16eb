"""Compiling ahead of a sweep: each distinct network once, before any trial, and nothing of it left but the compilers' cache."""

import json
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sweep_stand_ins
from mlflow import MlflowClient
from rich.console import Console

from resbench.harness import cli
from resbench.harness.gpus import Gpu
from resbench.sweeps import keys, pool
from resbench.sweeps.ahead import Ahead, brief, compiles, network_of
from resbench.sweeps.deadline import Deadline
from resbench.sweeps.grid import Cell
from resbench.sweeps.machine import Machine
from resbench.sweeps.packing import Berth
from resbench.sweeps.plan import CellPlan, make_plan
from resbench.sweeps.spec import load_spec

COMPILED = "overrides: [{set: {model.compile: true}}]\n"
TWO_GPUS = tuple(Berth((Gpu(f"GPU-{letter}", "NVIDIA H100", 80.0, (9, 0)),), 1) for letter in "ab")
TARGET = "sweep_stand_ins:train_or_compile"
Run = Callable[..., Any]
Notes = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def file_of(sweep_file: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A sweep of stand-ins with two seeds of five networks. compiling: how that goes."""

    def write(more: str = COMPILED, *, factor: str = "", compiling: str = "well") -> Path:
        file = sweep_file(more, f"{{notes: {tmp_path / 'notes'}, compiling: {compiling}}}")
        file.write_text(file.read_text().replace("seeds:", f"{factor}\nseeds:"))
        return file

    return write


@pytest.fixture
def run(file_of: Callable[..., Path], output_dir: Path) -> Run:
    """Such a sweep, compiled ahead in ``processes``, with its trials."""

    def start(
        more: str = COMPILED, *, factor: str = "", compiling: str = "well", processes: int = 3, **options: Any
    ) -> Any:
        file = file_of(more, factor=factor, compiling=compiling)
        options.setdefault("ahead", Ahead(processes))
        return sweep_stand_ins.run(file, output_dir, target=TARGET, **options)

    return start


@pytest.fixture
def compile_ahead(file_of: Callable[..., Path]) -> Callable[..., None]:
    """The same without trials."""

    def start(more: str = COMPILED, *, ahead: Ahead, seconds: float = 600.0, streams: str = "[2, 4]") -> None:
        file = file_of(more)
        file.write_text(file.read_text().replace("[2, 4]", streams))
        plan = make_plan(load_spec(file), sweep_stand_ins.describe, sweep_stand_ins.FIELDS.__getitem__)
        pool.warm_up(1)
        ahead.compile(plan, plan.cells, Machine(1, 1), TARGET, Console(), Deadline(seconds), lambda: False)

    return start


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    """What ran, in order."""

    def read() -> list[dict[str, Any]]:
        path = tmp_path / "notes"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    return read


CONFIG: dict[str, Any] = {
    "model": {
        "scheme": {"class_path": "mhc", "init_args": {"n_streams": 4}},
        "backbone": {"class_path": "transformer", "init_args": {"size": "1m"}},
        "learning_rate": 0.01,
    },
    "data": {"class_path": "python-source", "init_args": {"batch_size": 64, "context_length": 512}},
    "budget": {"tokens": 400},
}


@pytest.mark.parametrize(
    ("key", "value", "same"),
    [
        ("budget.tokens", 800, True),
        ("every.validation", 100, True),
        ("model.learning_rate", 0.02, True),
        ("model.warmup_fraction", 0.1, True),
        ("trainer.log_every_n_steps", 5, True),
        ("data.val_sequences", 256, True),
        ("data.batch_size", 32, False),
        ("data.context_length", 256, False),
        ("scheme", "hc", False),
        ("scheme.n_streams", 2, False),
        ("size", "3m", False),
        ("model.compile_mode", "reduce-overhead", False),
        ("model.loss", "plain", False),
        ("trainer.precision", "32-true", False),
    ],
)
def test_a_network_is_what_the_compiled_graph_depends_on(key: str, value: Any, same: bool) -> None:
    changed = Cell("cell", {}, CONFIG).with_values({key: value})
    assert changed != CONFIG
    assert (network_of(changed) == network_of(CONFIG)) is same
    in_another_order = {name: CONFIG[name] for name in reversed(CONFIG)}
    assert network_of(in_another_order) == network_of(CONFIG)


@pytest.mark.parametrize(
    ("choice", "accelerator", "on_gpu", "on_cpu"),
    [
        (None, "auto", True, False),
        (None, "cpu", False, False),
        (True, "auto", True, True),
        (False, "gpu", False, False),
    ],
)
def test_what_is_compiled_is_what_the_model_says_or_else_what_is_on_a_gpu(
    choice: bool | None, accelerator: str, on_gpu: bool, on_cpu: bool
) -> None:
    config = Cell("cell", {}, CONFIG).with_values({"model.compile": choice, "trainer.accelerator": accelerator})
    cell = CellPlan(Cell("cell", {}, config), 1, 0, 1, 400, 4)
    assert compiles(cell, Machine(2, 1, TWO_GPUS)) is on_gpu
    assert compiles(cell, Machine(2, 1)) is on_cpu


def test_compiling_takes_two_steps_one_validation_batch_and_no_checkpoint(tmp_path: Path) -> None:
    config = Cell("cell", {}, CONFIG).with_values({"data.val_sequences": 256, "every.checkpoint": 100})
    short = brief(CellPlan(Cell("cell", {}, config), 1, 0, 1, 512 * 64 * 7, 7), tmp_path)
    assert short["budget"] == {"tokens": 2 * 512 * 64}
    assert short["every"] == {"validation": 2 * 512 * 64, "checkpoint": 0}
    assert keys.look_up(short, keys.expand("data.val_sequences")) == 64
    assert short["tracking"]["uri"] == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert short["tracking"]["weights"] is False
    assert network_of({key: short[key] for key in CONFIG}) == network_of(CONFIG)
    assert keys.look_up(config, keys.expand("data.val_sequences")) == 256, "the cell's own stays"


def is_removed(notes: list[dict[str, Any]]) -> bool:
    """Everything that compiling wrote; it did write."""
    folders = [Path(note["config"]["output_dir"]).parent for note in notes if note["kind"] == "ahead"]
    return len(set(folders)) == 1 and folders[0].name.startswith("resbench-ahead-") and not folders[0].exists()


def test_each_network_is_compiled_once_before_any_trial_and_leaves_nothing(
    run: Run, notes: Notes, output_dir: Path, runs_of: Callable[[], list[Any]], capsys: Any
) -> None:
    """Two learning rates and two seeds of five networks are twenty runs."""
    rates = "  rate: [{label: low, set: {model.learning_rate: 0.01}}, {label: high, set: {model.learning_rate: 0.02}}]"
    assert run(factor=rates).outcomes == {"complete": 20}
    assert [note["kind"] for note in notes()] == ["ahead"] * 5 + ["trial"] * 20
    ahead = [note["config"] for note in notes() if note["kind"] == "ahead"]
    assert len({network_of(config) for config in ahead}) == 5
    assert {config["budget"]["tokens"] for config in ahead} == {20}, "two steps of ten tokens"
    assert is_removed(notes())
    found = runs_of()
    assert len(found) == 20
    folders = {path.name for path in output_dir.iterdir() if path.is_dir()}
    assert folders <= {run.info.run_id for run in found} | {"sweeps", "artifacts"}
    experiments = MlflowClient(f"sqlite:///{output_dir / 'mlflow.db'}").search_experiments()
    assert {experiment.name for experiment in experiments} <= {"Default", "stand-in"}
    assert len(list((output_dir / "sweeps" / "stand-in" / "logs").iterdir())) == 20
    printed = capsys.readouterr().out
    assert "Compiling 5 networks ahead, 3 at once" in printed
    assert "5 networks compiled ahead in " in printed


def test_only_networks_of_runs_still_to_do_are_compiled(run: Run, notes: Notes, capsys: Any) -> None:
    assert run(COMPILED, ahead=None).complete
    assert run(COMPILED).complete
    assert {note["kind"] for note in notes()} == {"trial"}
    assert "ahead" not in capsys.readouterr().out


def test_a_network_that_fails_is_left_to_its_trial(run: Run, notes: Notes, capsys: Any) -> None:
    more = (
        "overrides: [{set: {model.compile: true}}, {when: {scheme: resnet}, set: {model.stand_in.compiling: raises}}]"
    )
    assert run(more).outcomes == {"complete": 10}
    printed = capsys.readouterr().out
    assert (
        "scheme=resnet: not compiled ahead, its trial will try: RuntimeError: the network is not one graph\n" in printed
    )
    assert "4 of 5 networks compiled ahead in " in printed
    assert "1 left to their trials" in printed
    assert Counter(note["kind"] for note in notes()) == {"ahead": 5, "trial": 10}
    assert is_removed(notes())


def test_networks_are_spread_over_the_gpus_and_those_without_memory_are_compiled_again(
    run: Run, notes: Notes, capsys: Any
) -> None:
    more = "overrides: [{when: {scheme: mhc}, set: {model.stand_in.compiling: oom}}]"
    assert run(more, processes=5, machine=Machine(2, 1, TWO_GPUS)).complete
    ahead = [note for note in notes() if note["kind"] == "ahead"]
    assert sorted(note["gpu"] for note in ahead[:5]) == ["GPU-a"] * 3 + ["GPU-b"] * 2
    again = [note["config"]["model"]["scheme"]["class_path"] for note in ahead[5:]]
    assert again == ["mhc", "mhc"], "on two GPUs, two at once"
    assert "5 networks compiled ahead" in capsys.readouterr().out


def test_sweeps_of_one_command_compile_a_network_once(
    compile_ahead: Callable[..., None], notes: Notes, capsys: Any
) -> None:
    ahead = Ahead(3)
    compile_ahead(ahead=ahead)
    compile_ahead(ahead=ahead, streams="[2, 8]")
    streams = [note["config"]["model"]["scheme"].get("init_args", {}).get("n_streams") for note in notes()]
    assert Counter(streams) == {None: 1, 2: 2, 4: 2, 8: 2}
    capsys.readouterr()
    compile_ahead(ahead=ahead)
    assert capsys.readouterr().out == ""


def test_trials_have_the_rest_of_a_time_limit(
    run: Run, notes: Notes, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("resbench.sweeps.ahead.TIME_SHARE", 0.01)
    monkeypatch.setattr("resbench.sweeps.ahead.EXPECTED_S", 0.5)
    assert run(COMPILED + "flops_per_s: 1e12\n", compiling="hangs", time_limit_s=100.0).complete
    told = r"0 of 5 networks compiled ahead in [1-5] s; the rest of the time is for trials; 5 left to their trials\."
    assert re.search(told, capsys.readouterr().out)
    assert Counter(note["kind"] for note in notes()) == {"ahead": 3, "trial": 10}
    assert is_removed(notes())


def test_what_would_not_end_in_time_is_not_begun(compile_ahead: Callable[..., None], notes: Notes, capsys: Any) -> None:
    """Half of 60 s is less than a network is expected to take."""
    compile_ahead(ahead=Ahead(3), seconds=60)
    told = "0 of 5 networks compiled ahead in 0 s; the rest of the time is for trials; 5 left to their trials."
    assert told in capsys.readouterr().out
    assert not notes()


def test_ctrl_c_while_compiling_ends_the_sweep_before_its_first_run(
    run: Run, notes: Notes, runs_of: Callable[[], list[Any]], capsys: Any
) -> None:
    def interrupt() -> None:
        while len(notes()) < 3:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    summary = run(COMPILED, compiling="hangs")
    thread.join()
    assert summary.interrupted
    assert not runs_of()
    assert is_removed(notes())
    printed = capsys.readouterr().out
    assert "stopped; 5 left to their trials" in printed
    assert "Run the same command again" in printed


def test_a_worker_compiles_what_it_is_going_to_train(
    file_of: Callable[..., Path], notes: Notes, output_dir: Path, runs_of: Callable[[], list[Any]]
) -> None:
    storage = f"sqlite:///{output_dir / 'shared.db'}"
    assert sweep_stand_ins.work(file_of(), output_dir, storage, workers=2, target=TARGET, ahead=Ahead(3)).complete
    assert [note["kind"] for note in notes()] == ["ahead"] * 5 + ["trial"] * 10
    assert len(runs_of()) == 10


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("", "it compiles none of its networks (model.compile is false, or null on a CPU)"),
        (
            COMPILED
            + "search: {trials: 1, seed: 9, sampler: random, space: {data.batch_size: [1, 2], model.eps: [1e-8, 1e-6]}}",
            "its networks are not known yet, the search draws data.batch_size",
        ),
    ],
)
def test_where_nothing_can_be_compiled_ahead_that_is_said(
    more: str, reason: str, compile_ahead: Callable[..., None], notes: Notes, capsys: Any
) -> None:
    compile_ahead(more, ahead=Ahead(3))
    assert capsys.readouterr().out == f"--compile-ahead 3: nothing to compile ahead for stand-in: {reason}\n"
    assert not notes()


@pytest.mark.parametrize("given", ["0", "-1", "many"])
@pytest.mark.parametrize(
    "command", [("run", "demo"), ("worker", "demo", "--storage", "sqlite:///x"), ("piece", "state", "demo")]
)
def test_a_number_of_processes_that_is_none_is_refused(command: tuple[str, ...], given: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["sweep", *command, "--compile-ahead", given])
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert f"argument --compile-ahead: {given!r}, expected how many processes compile at once, at least 1" in told
    assert "leave the option out" in told


REAL = """
name: real
base:
  model: {compile: true, backbone: compiled_bigrams.Bigrams}
  data: {class_path: python-source, init_args: {context_length: 16, batch_size: 2, val_sequences: 2}}
  budget: {tokens: 96}
  every: {checkpoint: 0, gain_sequences: 0}
factors: {model.learning_rate: [0.01]}
seeds: [0]
"""


@pytest.mark.slow
def test_a_trial_finds_its_network_in_the_compilers_cache(
    tmp_path: Path, output_dir: Path, own_cache: Path, capsys: Any
) -> None:
    """With the real compiler, behind `fit`, in processes forked from one server."""
    file = tmp_path / "sweep.yaml"
    file.write_text(REAL)
    assert not (own_cache / "inductor").exists()
    summary = sweep_stand_ins.run(
        file, output_dir, workers=1, target="compiled_bigrams:train", real=True, ahead=Ahead(1)
    )
    assert summary.complete
    assert "1 network compiled ahead in " in capsys.readouterr().out
    kept = [path for kind in ("aotautograd", "fxgraph") for path in (own_cache / "inductor" / kind).rglob("*")]
    assert any(path.is_file() for path in kept)
    found = json.loads((output_dir / "cache.json").read_text())
    assert found.get("autograd_cache_hit") == 1
    assert "autograd_cache_miss" not in found
