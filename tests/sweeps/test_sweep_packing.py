"""Trials on a machine's GPUs: who gets which, what cannot fit, and no CUDA in the process that plans. The machines are made up."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sweep_stand_ins

from resbench.harness.gpus import Gpu, visible
from resbench.harness.memory import CONTEXT_GIB, MemoryEstimate
from resbench.sweeps import machine as machines
from resbench.sweeps.cli import main
from resbench.sweeps.machine import Machine, Offer, Wishes
from resbench.sweeps.packing import berths, check_memory
from resbench.sweeps.plan import Plan, make_plan
from resbench.sweeps.spec import load_spec

Sweep = Callable[..., Path]
GPUS = tuple(Gpu(f"GPU-{letter}", "NVIDIA H100", 80.0, (9, 0)) for letter in "abcd")


@pytest.fixture
def plan(sweep_file: Sweep) -> Callable[..., Plan]:
    def make(more: str = "") -> Plan:
        spec = load_spec(sweep_file(more))
        return make_plan(spec, sweep_stand_ins.describe, sweep_stand_ins.FIELDS.__getitem__)

    return make


def places(machine: Machine, plan: Plan) -> list[str | None]:
    return [machine.visible(slot, plan.cells[0].cell) for slot in range(machine.workers)]


def test_trials_are_spread_over_gpus_and_share_them_as_told(plan: Callable[..., Plan]) -> None:
    def offered(wishes: Wishes, file_workers: int | None = None) -> list[str | None]:
        sweep = plan()
        return places(Offer(wishes, file_workers, GPUS).machine(sweep)[0], sweep)

    unchecked = {"memory_check": False}
    assert offered(Wishes(**unchecked)) == ["GPU-a"]  # one worker by default
    assert offered(Wishes(gpus="0,2", **unchecked)) == ["GPU-a", "GPU-c"]
    assert offered(Wishes(gpus="3,1", per_gpu=2, **unchecked), 1) == ["GPU-d", "GPU-b"] * 2
    assert offered(Wishes(workers=3, gpus="0,1", per_gpu=2, **unchecked)) == ["GPU-a", "GPU-b", "GPU-a"]
    assert offered(Wishes(**unchecked), 6) == ["GPU-a", "GPU-b", "GPU-c", "GPU-d", "GPU-a", "GPU-b"]


def test_runs_of_several_gpus_have_theirs_alone_and_smaller_ones_part_of_them(plan: Callable[..., Plan]) -> None:
    sweep = plan("overrides: [{when: {scheme: mhc}, set: {trainer.devices: 2}}]")
    found, _ = Offer(Wishes(gpus="0,1,2,3", memory_check=False), None, GPUS).machine(sweep)
    small = next(cell.cell for cell in sweep.cells if cell.devices == 1)
    large = next(cell.cell for cell in sweep.cells if cell.devices == 2)
    assert [found.visible(slot, large) for slot in range(found.workers)] == ["GPU-a,GPU-b", "GPU-c,GPU-d"]
    assert [found.visible(slot, small) for slot in range(found.workers)] == ["GPU-a", "GPU-c"]
    assert found.gpus == 4


@pytest.mark.parametrize("per_gpu", [1, 2, 3])
@pytest.mark.parametrize("workers", [1, 4, 5])
def test_no_gpu_has_more_trials_than_told(plan: Callable[..., Plan], workers: int, per_gpu: int) -> None:
    cells = plan().cells
    if workers > 4 * per_gpu:
        with pytest.raises(ValueError, match=rf"--workers {workers}: there is room for {4 * per_gpu} at once"):
            berths(cells, GPUS, workers, per_gpu)
        return
    found = berths(cells, GPUS, workers, per_gpu)
    on_each = Counter(gpu for berth in found for gpu in berth.gpus)
    assert len(found) == workers
    assert max(on_each.values()) <= per_gpu
    assert all(berth.share == on_each[berth.gpus[0]] for berth in found)


@pytest.mark.parametrize(
    ("wishes", "found", "expected"),
    [
        (Wishes(gpus="0"), (), "--gpus 0: no GPU is visible here"),
        (Wishes(per_gpu=2), (), "--per-gpu 2: no GPU is visible here"),
        (Wishes(gpus="0,4"), GPUS, r"there is no GPU 4, this machine shows 0 \(NVIDIA H100, 80 GiB\), 1"),
        (Wishes(gpus="1,1"), GPUS, "GPU 1 is listed twice; to run several trials on each GPU, give --per-gpu"),
        (Wishes(gpus="0,x"), GPUS, "'x' is not a number, expected a list such as 0,1,2,3"),
        (Wishes(gpus="-1"), GPUS, "'-1' is not a number"),
    ],
)
def test_gpus_that_are_not_there_are_refused(wishes: Wishes, found: tuple[Gpu, ...], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        Offer(wishes, None, found)


@pytest.mark.parametrize(
    ("more", "wishes", "expected"),
    [
        ("overrides: [{set: {trainer.devices: 8}}]", Wishes(), "trainer.devices=8, but the sweep has 4 GPUs"),
        ("overrides: [{set: {trainer.devices: 2}}]", Wishes(per_gpu=2), "runs of 2 GPUs .* do not share them"),
        ("overrides: [{set: {trainer.accelerator: cpu}}]", Wishes(gpus="0"), "no cell of this sweep trains on a GPU"),
    ],
)
def test_plans_that_do_not_go_on_these_gpus_are_refused(
    plan: Callable[..., Plan], more: str, wishes: Wishes, expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        Offer(wishes, None, GPUS).machine(plan(more))


def test_a_cell_that_cannot_fit_is_refused_with_its_estimate_and_what_to_do(plan: Callable[..., Plan]) -> None:
    """39 GiB: two of them fit on 80 GiB, three do not."""
    cells = plan().cells
    needed = MemoryEstimate(weights=1.0, gradients=1.0, moments=2.0, activations=35.0 - CONTEXT_GIB)
    assert check_memory(cells, berths(cells, GPUS, None, 2), lambda cell: needed) == []
    with pytest.raises(ValueError, match="cell 'scheme=resnet'") as refused:
        check_memory(cells, berths(cells, GPUS, None, 3), lambda cell: needed)
    told = str(refused.value)
    for part in (
        "cell 'scheme=resnet' needs about 39.0 GiB (activations 34.2",
        "26.7 GiB, its share of the 80.0 GiB of NVIDIA H100 with 3 trials on it",
        "--per-gpu 2",
        "model.backbone.recompute",
        "--no-memory-check",
    ):
        assert part in told
    alone = MemoryEstimate(10.0, 10.0, 20.0, 60.0)
    with pytest.raises(ValueError, match="a run has the 80.0 GiB of NVIDIA H100") as refused:
        check_memory(cells, berths(cells, GPUS, None, None), lambda cell: alone)
    assert "--per-gpu" not in str(refused.value)
    told = check_memory(cells, berths(cells, GPUS, None, 3), lambda cell: "RuntimeError: looks at its data")
    assert told == [
        f"scheme=resnet and {len(cells) - 1} more: not checked for memory, which cannot be estimated: RuntimeError: looks at its data"
    ]


def test_trials_under_way_never_share_a_gpu_with_more_than_told(
    sweep_file: Sweep, output_dir: Path, runs_of: Callable[[], list[Any]]
) -> None:
    """Ten runs in four slots on two GPUs, each of which notes when it begins and ends, and on what."""
    file = sweep_file(stand_in="{seconds: 0.4, notes_gpus: true}")
    sweep = make_plan(load_spec(file), sweep_stand_ins.describe, sweep_stand_ins.FIELDS.__getitem__)
    found, _ = Offer(Wishes(gpus="0,1", per_gpu=2, memory_check=False), None, GPUS).machine(sweep)
    assert sweep_stand_ins.run(file, output_dir, machine=found).complete
    notes = [line.split() for line in (output_dir / "gpus.txt").read_text().splitlines()]
    assert len(notes) == 20
    busy: Counter[str] = Counter()
    most: Counter[str] = Counter()
    for _, change, gpu in sorted(notes, key=lambda note: float(note[0])):
        busy[gpu] += int(change)
        most[gpu] = max(most[gpu], busy[gpu])
    assert most == {"GPU-a": 2, "GPU-b": 2}
    assert [run.data.tags["gpu_share"] for run in runs_of()] == 10 * ["2"], "and each of them says so"


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (None, "abcd"),
        ("2,0", "ca"),
        ("GPU-b, 3", "bd"),
        ("0,9,1", "a"),  # as CUDA does: what is not there ends the list
        ("0,0", ""),
        ("", ""),
        ("-1", ""),
        ("GPU-", ""),  # not one GPU's beginning
    ],
)
def test_what_the_scheduler_hides_stays_hidden(wanted: str | None, expected: str) -> None:
    assert [gpu.uuid[-1] for gpu in visible(GPUS, wanted)] == list(expected)


def test_the_command_refuses_what_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real estimate: 15m parameters with 64 x 512 tokens on a GPU of 4 GiB."""
    monkeypatch.setattr(machines, "inventory", lambda: (Gpu("GPU-x", "Small", 4.0, (8, 0)),))
    data = "{class_path: python-source, init_args: {context_length: 512, batch_size: 64}}"
    file = tmp_path / "sweep.yaml"
    file.write_text(
        f"name: s\nbase: {{data: {data}, budget: {{tokens: 100000}}}}\nfactors: {{size: [15m]}}\nseeds: [0]\n"
    )
    with pytest.raises(ValueError, match=r"sweep.yaml: cell 'size=15m' needs about .*the 4.0 GiB of Small"):
        main(["plan", str(file), "--gpus", "0", "--output-dir", str(tmp_path)])
    assert main(["plan", str(file), "--gpus", "0", "--no-memory-check", "--output-dir", str(tmp_path)]) == 0
    assert "per GPU" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["plan", str(file), "--per-gpu", "0"])
    assert "'0', expected a whole number of at least 1" in capsys.readouterr().err
