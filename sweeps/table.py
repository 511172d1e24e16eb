"""A plan and a finished sweep as tables for the terminal."""

from rich.console import Console
from rich.table import Table

from resbench.sweeps.estimate import Throughput
from resbench.sweeps.plan import Plan
from resbench.sweeps.progress import count, duration


def print_plan(console: Console, plan: Plan, throughput: Throughput, workers: int) -> None:
    """Every cell with its size and cost, the totals, and where the estimate of the time comes from."""
    spec = plan.spec
    table = Table(title=f"{spec.name}: {len(plan.cells)} cells", title_justify="left")
    factors = [name for name in spec.factors if any(name in cell.cell.labels for cell in plan.cells)]
    for name in factors:
        table.add_column(
            name.rpartition(".")[2],
            overflow="fold",
            min_width=min(24, max(len(c.cell.labels.get(name, "")) for c in plan.cells)),
        )
    for heading in ("params", "added", "FLOPs/tok", "tokens", "steps", "runs", "time"):
        table.add_column(heading, justify="right")
    for cell in plan.cells:
        table.add_row(
            *(cell.cell.labels.get(name, "-") for name in factors),
            count(cell.params_total),
            count(cell.params_connection),
            count(cell.flops_per_token),
            count(cell.tokens),
            f"{cell.steps:,}",
            str(plan.runs_per_cell),
            duration(throughput.seconds(cell) * plan.runs_per_cell),
        )
    console.print(table)
    console.print(
        "params: the whole model; added: what the residual scheme adds; FLOPs of training; time: of all runs of the cell, one after another",
        style="dim",
    )
    for line in totals(plan, throughput, workers):
        console.print(line, highlight=False, soft_wrap=True)


def totals(plan: Plan, throughput: Throughput, workers: int) -> list[str]:
    """Runs, tokens, FLOPs and time of the whole sweep in words."""
    spec = plan.spec
    seeds = f"{len(spec.seeds)} seed{'s' * (len(spec.seeds) > 1)}"
    if spec.search:
        per_cell = f"{len(plan.cells)} cells x ({plan.trials} search trials with seed {spec.search.seed} + {seeds} at the best found)"
    else:
        per_cell = f"{len(plan.cells)} cells x {seeds}"
    tokens = sum(cell.tokens for cell in plan.cells) * plan.runs_per_cell
    flops = sum(cell.flops for cell in plan.cells) * plan.runs_per_cell
    time = duration(throughput.total_seconds(plan, workers))
    return [
        f"{plan.runs} runs = {per_cell}; {count(tokens)} tokens, {count(flops)} training FLOPs"
        + (", less what is pruned" if spec.search else ""),
        f"about {time} with {workers} worker{'s' * (workers > 1)} (throughput {throughput.source})",
    ]
