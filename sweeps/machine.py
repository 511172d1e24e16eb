"""What this machine offers a sweep: how many trials at once, threads for each, and their GPUs."""

from dataclasses import dataclass

from resbench.harness import names
from resbench.harness.gpus import Gpu, inventory
from resbench.sweeps.grid import Cell, devices_of, wants_gpus
from resbench.sweeps.packing import Berth, berths, check_memory, choose, estimator
from resbench.sweeps.plan import Plan
from resbench.sweeps.pool import threads_per_worker


@dataclass(frozen=True)
class Machine:
    """What trials may use: how many at once, CPU threads for each, and the berth of each slot, none where they train on the CPU."""

    workers: int
    threads: int
    berths: tuple[Berth, ...] = ()

    @property
    def gpus(self) -> int:
        return len({gpu for berth in self.berths for gpu in berth.gpus})

    def visible(self, slot: int, cell: Cell) -> str | None:
        """`CUDA_VISIBLE_DEVICES` of a run of ``cell`` in a slot; None to leave it alone."""
        return self.berths[slot].visible(devices_of(cell)) if self.berths and wants_gpus(cell) else None

    def tags(self, slot: int, cell: Cell) -> dict[str, str]:
        """What a run of ``cell`` in a slot says of its place: how many runs share its GPU."""
        return {names.TAG_GPU_SHARE: str(self.berths[slot].share)} if self.berths and wants_gpus(cell) else {}


@dataclass(frozen=True)
class Wishes:
    """What the command line and the sweep file say. ``gpus`` is the text of --gpus."""

    workers: int | None = None
    gpus: str | None = None
    per_gpu: int | None = None
    memory_check: bool = True


class Offer:
    """A machine for a sweep, in two steps: how many trials at most is known before the sweep is planned, where they run only afterwards.

    Raises ValueError for wishes that this machine cannot fulfil.
    """

    def __init__(self, wishes: Wishes, file_workers: int | None, found: tuple[Gpu, ...] | None = None) -> None:
        self._wishes = wishes
        self._gpus = choose(wishes.gpus, inventory() if found is None else found)
        if wishes.per_gpu is not None and not self._gpus:
            raise ValueError(
                f"--per-gpu {wishes.per_gpu}: no GPU is visible here; leave it out to train on the CPU, or give --workers"
            )
        packed = wishes.gpus is not None or wishes.per_gpu is not None
        room = len(self._gpus) * (wishes.per_gpu or 1) if packed else None
        self._stated = wishes.workers or (None if packed else file_workers or 1)
        self.threads = threads_per_worker(self._stated or room or 1)

    def machine(self, *plans: Plan) -> tuple[Machine, list[str]]:
        """The machine for all of these sweeps, and what the terminal should say of it."""
        cells = [cell for plan in plans for cell in plan.cells if wants_gpus(cell.cell)]
        if not self._gpus or not cells:
            if self._wishes.gpus is not None or self._wishes.per_gpu is not None:
                raise ValueError("--gpus, --per-gpu: no cell of this sweep trains on a GPU (trainer.accelerator)")
            return Machine(self._stated or 1, self.threads), []
        places = berths(cells, self._gpus, self._stated, self._wishes.per_gpu)
        told: list[str] = []
        if self._wishes.memory_check:
            from resbench.harness.memory import estimate_memory

            told = check_memory(cells, places, estimator(estimate_memory))
        return Machine(len(places), self.threads, places), told
