"""A sweep is kept by `sweep run` in one folder or by workers over one database; whoever else starts it is told who, and what to do."""

from collections.abc import Callable
from pathlib import Path

import pytest
import sweep_stand_ins

from resbench.harness.runs.export import is_place
from resbench.sweeps.cli import main
from resbench.sweeps.database import open_shared, storage_url
from resbench.sweeps.keeper import Keeper
from resbench.sweeps.lock import sweep_lock
from resbench.sweeps.queue import RunQueue

Sweep = Callable[..., Path]
FEW = "exclude: [{scheme: [hc, mhc]}]"
SEARCH = "search: {trials: 1, seed: 77, space: {model.learning_rate: {low: 1e-4, high: 1.0}}, sampler: random}\n" + FEW


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'shared.db'}"


def test_what_workers_keep(sweep_file: Sweep, output_dir: Path, storage: str, tmp_path: Path) -> None:
    file = sweep_file(FEW)
    assert sweep_stand_ins.work(file, output_dir, storage, workers=2).complete
    queue = RunQueue.existing(open_shared(storage_url(storage)), "stand-in")
    queue.add(["one more"])
    attempt = queue.latest()["one more"]
    assert queue.claim(attempt, "somebody")
    with pytest.raises(
        ValueError, match=r"kept by workers over sqlite:.*1 worker \(somebody; a run since \d+ s\) is at"
    ) as e:
        sweep_stand_ins.run(file, output_dir, take_over=True)
    assert f"stop stand-in --storage {storage}" in str(e.value)
    queue.complete(attempt, "complete")
    with pytest.raises(ValueError, match="nobody is known to work on it now.\nJoin them with .* or give --take-over"):
        sweep_stand_ins.run(file, output_dir)
    with pytest.raises(ValueError, match=f"add --storage {storage}"):
        main(["status", str(file), "--output-dir", str(output_dir)])
    with pytest.raises(ValueError, match="kept by workers over"):
        sweep_stand_ins.work(file, output_dir, f"sqlite:///{tmp_path / 'another.db'}")
    (output_dir / "other").mkdir()
    with pytest.raises(ValueError, match="belongs to MLflow run .* give the --tracking-uri of the other workers"):
        sweep_stand_ins.work(file, output_dir / "other", storage)
    assert sweep_stand_ins.run(file, output_dir, take_over=True).outcomes == {"complete": 2}
    assert sweep_stand_ins.run(file, output_dir).outcomes == {"complete": 2}
    with pytest.raises(ValueError, match="kept by `sweep run` in"):
        sweep_stand_ins.work(file, output_dir, storage)


def test_what_sweep_run_keeps(sweep_file: Sweep, output_dir: Path, storage: str) -> None:
    file = sweep_file(FEW)
    assert sweep_stand_ins.run(file, output_dir).complete
    with (
        sweep_lock(output_dir / "sweeps" / "stand-in"),
        pytest.raises(ValueError, match=r"kept by `sweep run` in .*, and process \d+ on .* is at work on it now"),
    ):
        sweep_stand_ins.work(file, output_dir, storage, take_over=True)
    with pytest.raises(ValueError, match="give --take-over to go on with workers here"):
        sweep_stand_ins.work(file, output_dir, storage)
    file.write_text(file.read_text().replace("seeds: [0, 1]", "seeds: [0, 1, 2]"))
    more = sweep_stand_ins.work(file, output_dir, storage, take_over=True, extend=True)
    assert more.outcomes == {"complete": 3}


def test_a_search_stays_where_it_began(sweep_file: Sweep, output_dir: Path, storage: str) -> None:
    file = sweep_file(SEARCH)
    assert sweep_stand_ins.run(file, output_dir).complete
    with pytest.raises(ValueError, match="and so is its search, which would begin anew here"):
        sweep_stand_ins.work(file, output_dir, storage, take_over=True)


def test_the_same_path_on_another_machine(sweep_file: Sweep, output_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One MLflow server, two machines, each with its own /home/me/runs."""
    file = sweep_file(FEW)
    assert sweep_stand_ins.run(file, output_dir).complete
    (output_dir / "sweeps" / "stand-in" / "books").write_text("what another sweep left here")
    with pytest.raises(ValueError, match="kept by `sweep run` in"):
        sweep_stand_ins.run(file, output_dir)


def test_a_keeper_is_of_its_place_alone() -> None:
    keeper = Keeper.here("workers", "postgresql://me:secret@db:5432/sweeps?sslmode=require&password=secret")
    assert Keeper.of(str(keeper)) == keeper
    assert "secret" not in str(keeper)
    assert is_place(str(keeper))  # and so left out of what is exported for others
    assert Keeper.of(str(Keeper.here("run", "/home/me/my runs"))).place == "/home/me/my runs"  # type: ignore[union-attr]
