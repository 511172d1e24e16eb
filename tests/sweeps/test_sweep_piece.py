"""A sweep in bounded pieces, each on a machine that knows nothing but the state folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sweep_stand_ins

from resbench.harness.gpus import Gpu
from resbench.results.source import Where, open_source
from resbench.sweeps import machine as machines
from resbench.sweeps import pool
from resbench.sweeps.ahead import Ahead
from resbench.sweeps.cli import main
from resbench.sweeps.deadline import EX_TEMPFAIL, Deadline
from resbench.sweeps.estimate import Throughput
from resbench.sweeps.grid import Cell
from resbench.sweeps.piece import run_piece
from resbench.sweeps.plan import CellPlan, Plan, make_plan
from resbench.sweeps.run import Machine
from resbench.sweeps.spec import load_spec

SWEEP = """
name: pieces
base:
  model: {learning_rate: 0.01}
  budget: {tokens: 400}
factors: {scheme: [resnet, hc]}
search:
  trials: 1
  seed: 7
  space: {model.learning_rate: {low: 1e-4, high: 1.0, log: true}}
  sampler: random
seeds: [0, 1]
"""


@pytest.fixture
def new_machine(tmp_path: Path, empty_store: Path) -> Callable[[], Path]:
    """An output folder that nobody has used, with an empty store to save the time of making one."""
    count = iter(range(100))

    def make() -> Path:
        folder = tmp_path / f"machine-{next(count)}"
        folder.mkdir()
        shutil.copy(empty_store, folder / "mlflow.db")
        return folder

    return make


def planned(folder: Path, text: str = SWEEP) -> tuple[Plan, str]:
    file = folder / "pieces.yaml"
    file.write_text(text)
    return make_plan(load_spec(file), sweep_stand_ins.describe, sweep_stand_ins.FIELDS.__getitem__), text


def piece(plan: tuple[Plan, str], state: Path, output_dir: Path, seconds: float) -> int:
    pool.warm_up(1)
    return run_piece([(*plan, Machine(1, 1))], state, output_dir, seconds, target="sweep_stand_ins:train")


class FourRuns(Deadline):
    """Time for four runs, however slow the machine that tests run on is."""

    started = 0

    def fits(self, cell: CellPlan) -> bool:
        self.started += self.started < 5
        self.held_back |= self.started == 5
        return self.started < 5

    @property
    def over(self) -> bool:
        return False


class NoRun(FourRuns):
    """Time for none."""

    started = 5


def trial_keys(where: Where | list[Path]) -> list[str]:
    """Of the complete runs there."""
    runs = [run for run in open_source(where).runs() if "trial_key" in run.tags]
    assert {run.tags["outcome"] for run in runs} == {"complete"}
    return sorted(run.tags["trial_key"] for run in runs)


def test_pieces_on_fresh_machines_make_the_whole_sweep_once(
    tmp_path: Path, new_machine: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resbench.sweeps.session.Deadline", FourRuns)
    plan, state = planned(tmp_path), tmp_path / "state"
    codes: list[int] = []
    machines: list[Path] = []
    while not codes or codes[-1] == EX_TEMPFAIL:
        assert len(codes) < 3, "six runs are two pieces"
        machines.append(new_machine())
        codes.append(piece(plan, state, machines[-1], 600))
    assert codes == [EX_TEMPFAIL, 0]
    files = sorted(state.glob("runs-*.zip"))
    assert [len(trial_keys(file)) for file in files] == [4, 2]
    assert trial_keys(files) == sorted(
        f"pieces/scheme={scheme}/{rest}"
        for scheme in ("resnet", "hc")
        for rest in ("search/trial=0", "final/seed=0", "final/seed=1")
    )
    # The last machine knows everything, and doing it again adds nothing.
    assert trial_keys(f"sqlite:///{machines[-1] / 'mlflow.db'}") == trial_keys(files)
    assert piece(plan, state, new_machine(), 600) == 0
    assert sorted(state.glob("runs-*.zip")) == files


def test_a_changed_sweep_is_not_mixed_with_earlier_pieces(tmp_path: Path, new_machine: Callable[[], Path]) -> None:
    state = tmp_path / "state"
    state.mkdir()
    plan = planned(tmp_path)
    (state / "pieces.plan.json").write_text(json.dumps(plan[0].record()))
    changed = planned(tmp_path, SWEEP.replace("tokens: 400", "tokens: 800"))
    with pytest.raises(ValueError, match="was started with other settings"):
        piece(changed, state, new_machine(), 5)
    assert not list(state.glob("runs-*"))


def test_a_limit_that_no_run_fits_is_said_and_not_tried_for_ever(
    tmp_path: Path, new_machine: Callable[[], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    endless = SWEEP.replace("learning_rate: 0.01", "learning_rate: 0.01, stand_in: {seconds: 600}")
    assert piece(planned(tmp_path, endless), tmp_path / "state", new_machine(), 4.0) == 1
    assert "give a longer --time-limit or smaller runs" in capsys.readouterr().out


def cell(name: str, flops_per_token: int, tokens: int = 100) -> CellPlan:
    return CellPlan(Cell(name, {}, {}), 10, 0, flops_per_token, tokens, 10)


def test_durations_are_learned_from_the_cell_itself_or_the_one_most_like_it() -> None:
    now = [0.0]
    deadline = Deadline(
        100, Throughput(100.0, "", {"known": 50.0}), clock=lambda: now[0]
    )  # no cells: it knows none's like
    assert deadline.seconds(cell("a", 10)) == 100 * 10 / 100 + 1.5
    deadline.ended(cell("small", 10), 6.0, 4.0)
    deadline.ended(cell("large", 1000), 40.0, 39.0)
    assert deadline.seconds(cell("small", 10)) == 6.0
    assert deadline.seconds(cell("like small", 20)) == 2.0 + 2 * 4.0, (
        "as long per FLOP as the small one, after the overhead"
    )
    assert deadline.seconds(cell("like large", 500)) == 40.0, "as long per token as the large one"
    assert deadline.seconds(cell("like large", 500, tokens=50)) == 2.0 + 0.5 * 38.0
    assert deadline.seconds(cell("like small", 10, tokens=300)) == 2.0 + 3 * 4.0
    assert deadline.seconds(cell("known", 10)) == 100 / 50 + 1.5 + 2.0, "measured earlier, plus the overhead seen now"
    assert deadline.fits(cell("large", 1000))
    now[0] = 53.0
    assert not deadline.held_back
    assert not deadline.fits(cell("large", 1000)), "47 s are left, 40 with the margin are 48"
    assert deadline.fits(cell("small", 10))
    assert deadline.held_back
    assert deadline.longest == 40.0


def test_the_first_run_may_be_one_that_nobody_has_measured() -> None:
    """A larger cell is expected to take too long by what a small one took per FLOP; without daring, it would never have its turn."""
    small, large = cell("small", 10), cell("large", 1000)
    expected = Throughput(100.0, "", {"small": 50.0})
    assert Deadline(100, expected, [small, large], clock=lambda: 0.0).seconds(large) == 100 * (100 / 50 + 1.5)
    assert not Deadline(100, expected, [small, large], clock=lambda: 0.0).fits(large)
    daring = Deadline(100, expected, [small, large], daring=True, clock=lambda: 0.0)
    assert daring.fits(large)
    assert not daring.fits(cell("other", 1000)), "the first one only"
    known = Deadline(100, Throughput(100.0, "", {"large": 0.5}), [small, large], daring=True, clock=lambda: 0.0)
    assert not known.fits(large), "200 s are known, and too many"


def test_a_piece_is_given_gpus_as_a_sweep_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = tuple(Gpu(f"GPU-{letter}", "NVIDIA H100", 80.0, (9, 0)) for letter in "abcd")
    monkeypatch.setattr(machines, "inventory", lambda: gpus)
    given: dict[str, Any] = {}

    def look(plans: Any, *_: Any, **more: Any) -> int:
        (given["machine"],) = [machine for _, _, machine in plans]
        given.update(more)
        return 0

    monkeypatch.setattr("resbench.sweeps.piece.run_piece", look)
    plan, _ = planned(tmp_path)
    monkeypatch.setattr("resbench.sweeps.plan.make_plan", lambda spec: plan)
    command = ["piece", str(tmp_path / "state"), str(tmp_path / "pieces.yaml"), "--no-memory-check"]
    more = ["--gpus", "0,2", "--per-gpu", "2", "--compile-ahead", "3"]
    assert main([*command, *more]) == 0
    assert [berth.gpus[0].uuid for berth in given["machine"].berths] == ["GPU-a", "GPU-c"] * 2
    assert isinstance(given["ahead"], Ahead)
    assert main(command) == 0
    assert [berth.gpus[0].uuid for berth in given["machine"].berths] == ["GPU-a"]
    assert given["ahead"] is None
    with pytest.raises(ValueError, match=r"--gpus 7: there is no GPU 7"):
        main([*command, "--gpus", "7"])


def test_a_narrower_sweep_of_the_study_counts_its_own_runs_alone(
    new_machine: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody splits a sweep's file, so that two machines that share nothing can each take a part of what a state has."""
    base = "{model: {learning_rate: 0.01}, budget: {tokens: 400}}"
    wide = f"name: pieces\nbase: {base}\nfactors: {{scheme: [resnet, hc]}}\nseeds: [0]\n"
    state = tmp_path / "state"
    assert piece(planned(tmp_path, wide), state, new_machine(), 600.0) == 0
    (state / "pieces.plan.json").unlink()
    part = wide.replace("[resnet, hc]", "[hc]").replace("seeds: [0]", "seeds: [0, 1]")
    with monkeypatch.context() as patch:
        patch.setattr("resbench.sweeps.session.Deadline", NoRun)
        assert piece(planned(tmp_path, part), state, new_machine(), 600.0) == EX_TEMPFAIL, (
            "resnet's run is none of its two"
        )
    assert piece(planned(tmp_path, part), state, new_machine(), 600.0) == 0
    found = trial_keys(sorted(state.glob("runs-*.zip")))
    assert found == [f"pieces/scheme={name}/final/seed={seed}" for name, seed in (("hc", 0), ("hc", 1), ("resnet", 0))]
