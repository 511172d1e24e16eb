"""How long a sweep will take: training FLOPs over a throughput that was stated, measured or assumed, and which of these it is."""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from resbench.sweeps.plan import CellPlan, Plan

# Starting a run: building the model, opening the data and the tracking store, the final validation.
STARTUP_S = 1.5
# Assumptions for a first plan on an unknown machine, from small models trained with the torch implementations: see `Throughput.source`.
CPU_FLOPS_PER_S_AND_THREAD = 2.5e10
GPU_FLOPS_PER_S = 3e13


@dataclass(frozen=True)
class Throughput:
    """Training FLOP/s of one worker. ``per_cell`` holds what finished runs of a cell measured, in tokens per second."""

    flops_per_s: float
    source: str
    per_cell: Mapping[str, float]

    def seconds(self, plan: CellPlan) -> float:
        """One run of the cell, start-up included."""
        measured = self.per_cell.get(plan.cell.id)
        training = plan.tokens / measured if measured else plan.flops / self.flops_per_s
        return training + STARTUP_S

    def total_seconds(self, plan: Plan, workers: int) -> float:
        """The whole sweep; pruning is not foreseen."""
        return sum(self.seconds(cell) for cell in plan.cells) * plan.trainings_per_cell / min(workers, plan.runs)


def throughput(plan: Plan, measured: Iterable[tuple[str, float, float]], threads: int, gpus: int) -> Throughput:
    """What to expect of one worker. ``measured`` has (cell, tokens/s, training FLOPs per token) of earlier runs of the sweep."""
    by_cell: dict[str, list[float]] = {}
    rates = []
    for cell, tokens_per_s, flops_per_token in measured:
        by_cell.setdefault(cell, []).append(tokens_per_s)
        rates.append(tokens_per_s * flops_per_token)
    per_cell = {cell: statistics.median(values) for cell, values in by_cell.items()}
    if plan.spec.flops_per_s is not None:
        return Throughput(
            plan.spec.flops_per_s, f"stated in the sweep file: {_readable(plan.spec.flops_per_s)}FLOP/s per worker", {}
        )
    if rates:
        rate = statistics.median(rates)
        return Throughput(
            rate, f"measured on {len(rates)} earlier runs of this sweep: {_readable(rate)}FLOP/s per worker", per_cell
        )
    if gpus:
        return Throughput(
            GPU_FLOPS_PER_S, f"assumed, nothing measured yet: {_readable(GPU_FLOPS_PER_S)}FLOP/s per GPU", {}
        )
    rate = CPU_FLOPS_PER_S_AND_THREAD * threads
    return Throughput(
        rate, f"assumed, nothing measured yet: {_readable(rate)}FLOP/s on {threads} CPU thread{'s' * (threads > 1)}", {}
    )


def _readable(value: float) -> str:
    for factor, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.3g} "
