"""Which GPUs each trial gets: small trials share one, larger ones take several, and what the memory estimate says cannot fit is refused.

A *berth* is a place for one trial at a time. Slot i of the sweep's pool is berth i, so a GPU never has more trials than it has berths.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resbench.harness.gpus import Gpu
from resbench.sweeps.plan import CellPlan, one_device, shape_of, written

if TYPE_CHECKING:
    from resbench.harness.memory import MemoryEstimate

Estimate = Callable[[CellPlan], "MemoryEstimate | str"]
"""What a cell needs, or why that cannot be worked out."""


@dataclass(frozen=True)
class Berth:
    """``gpus`` are a trial's own or, where ``share`` is above 1, those of as many trials."""

    gpus: tuple[Gpu, ...]
    share: int

    @property
    def memory_gib(self) -> float:
        """Of one GPU, for one trial."""
        return min(gpu.memory_gib for gpu in self.gpus) / self.share

    def visible(self, devices: int) -> str:
        """`CUDA_VISIBLE_DEVICES` of a trial that trains on so many."""
        return ",".join(gpu.uuid for gpu in self.gpus[:devices])


def choose(text: str | None, found: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """The GPUs that ``--gpus`` names by their places in ``found``, or all of them.

    Raises ValueError for a machine without GPUs, for what is no list of numbers, for one twice and for one that is not there.
    """
    if text is None:
        return tuple(found)
    if not found:
        raise ValueError(
            f"--gpus {text}: no GPU is visible here (`nvidia-smi -L` lists them; CUDA_VISIBLE_DEVICES may hide them). "
            "Leave out --gpus to train on the CPU"
        )
    chosen: list[int] = []
    for part in text.split(","):
        if not part.strip().isdigit():
            raise ValueError(f"--gpus {text}: {part!r} is not a number, expected a list such as 0,1,2,3")
        index = int(part)
        if index >= len(found):
            raise ValueError(f"--gpus {text}: there is no GPU {index}, this machine shows {_numbered(found)}")
        if index in chosen:
            raise ValueError(
                f"--gpus {text}: GPU {index} is listed twice; to run several trials on each GPU, give --per-gpu"
            )
        chosen.append(index)
    return tuple(found[index] for index in chosen)


def berths(
    cells: Sequence[CellPlan], gpus: Sequence[Gpu], workers: int | None, per_gpu: int | None
) -> tuple[Berth, ...]:
    """A berth for each of ``workers`` trials at once, spread over the GPUs; all there is room for if that is None.

    Groups of GPUs are as large as the largest cell asks for. per_gpu: trials that share a GPU; as many as it takes for ``workers`` if None.

    Raises ValueError if there is no room.
    """
    devices = max(cell.devices for cell in cells)
    groups = [tuple(gpus[at : at + devices]) for at in range(0, len(gpus) - devices + 1, devices)]
    if not groups:
        cell = max(cells, key=lambda cell: cell.devices)
        raise ValueError(
            f"cell {cell.cell.id!r}: trainer.devices={devices}, but the sweep has {len(gpus)} GPU{'s' * (len(gpus) != 1)}: "
            "give it more with --gpus, or the run fewer devices"
        )
    if devices > 1 and (per_gpu or 1) > 1:
        raise ValueError(
            f"--per-gpu {per_gpu}: runs of {devices} GPUs (trainer.devices) do not share them; leave it out"
        )
    if workers is None:
        workers = len(groups) * (per_gpu or 1)
    share = per_gpu or (1 if devices > 1 else -(-workers // len(groups)))
    room = len(groups) * share
    if workers > room:
        what = (
            f"{len(groups)} x {devices} GPUs"
            if devices > 1
            else f"{len(groups)} GPU{'s' * (len(groups) != 1)} x {share} trials"
        )
        raise ValueError(
            f"--workers {workers}: there is room for {room} at once ({what}); give fewer, or more with --gpus or --per-gpu"
        )
    order = [group for _ in range(share) for group in groups][:workers]
    return tuple(Berth(group, order.count(group)) for group in order)


def check_memory(cells: Sequence[CellPlan], places: Sequence[Berth], estimate: Estimate) -> list[str]:
    """What the terminal should say of cells that have no estimate, a line for each reason.

    Raises ValueError naming the first cell that cannot fit in its berth, with the estimate, the GPU's memory and what to do.
    """
    tightest = min(places, key=lambda berth: berth.memory_gib)
    gpu = min(tightest.gpus, key=lambda gpu: gpu.memory_gib)
    unknown: dict[str, list[str]] = {}
    for cell in cells:
        needed = estimate(cell)
        if isinstance(needed, str):
            unknown.setdefault(needed, []).append(cell.cell.id)
        elif needed.total > tightest.memory_gib:
            raise ValueError(_refusal(cell, needed, tightest, gpu))
    return [
        f"{ids[0]}{f' and {len(ids) - 1} more' if ids[1:] else ''}: not checked for memory, which cannot be estimated: {reason}"
        for reason, ids in unknown.items()
    ]


def _refusal(cell: CellPlan, needed: "MemoryEstimate", berth: Berth, gpu: Gpu) -> str:
    room = f"the {gpu.memory_gib:.1f} GiB of {gpu.name}"
    if berth.share > 1:
        room = f"{berth.memory_gib:.1f} GiB, its share of {room} with {berth.share} trials on it"
    advice = []
    if berth.share > 1:
        fits = int(gpu.memory_gib // needed.total)
        advice.append(f"--per-gpu {fits}" if fits else "")
    advice += [
        "recompute activations (model.backbone.recompute: auto)",
        "a smaller data.batch_size with trainer.accumulate_grad_batches",
        "more GPUs for each run (trainer.devices with trainer.strategy: fsdp2)",
    ]
    return (
        f"cell {cell.cell.id!r} needs about {needed}; a run has {room}. Try {'; '.join(part for part in advice if part)}. "
        "--no-memory-check starts it all the same"
    )


def estimator(describe: "Callable[[list[str]], MemoryEstimate]") -> Estimate:
    """Estimates of cells by `resbench.harness.memory.estimate_memory`, once for each shape; the error of a model that cannot be run without data."""
    known: dict[str, MemoryEstimate | str] = {}

    def estimate(cell: CellPlan) -> "MemoryEstimate | str":
        config: Mapping[str, object] = cell.cell.config
        shape = shape_of(config)
        if shape not in known:
            with written(config) as path:
                try:
                    known[shape] = describe(["--config", str(path), *one_device(config)])
                except Exception as error:  # a plugin's model may look at its data; that is no reason not to train it
                    known[shape] = f"{type(error).__name__}: {error}".splitlines()[0]
        return known[shape]

    return estimate


def _numbered(found: Sequence[Gpu]) -> str:
    return ", ".join(f"{place} ({gpu.name}, {gpu.memory_gib:.0f} GiB)" for place, gpu in enumerate(found))
