"""A plan and a finished sweep as tables for the terminal."""

from rich.console import Console
from rich.table import Table

from resbench.sweeps import keys
from resbench.sweeps.estimate import Throughput
from resbench.sweeps.plan import Plan
from resbench.sweeps.progress import count, duration, plural


def print_plan(console: Console, plan: Plan, throughput: Throughput, workers: int) -> None:
    """Every cell with its size and cost, the totals, and where the estimate of the time comes from."""
    spec = plan.spec
    labels = [dict(part.split("=", 1) for part in cell.cell.id.split(",") if "=" in part) for cell in plan.cells]
    fixed = {name: label for name, label in labels[0].items() if all(other.get(name) == label for other in labels)}
    title = f"{spec.name}: {plural(len(plan.cells), 'cell')}" + (
        f", all with {', '.join(f'{k}={v}' for k, v in fixed.items())}" if fixed else ""
    )
    table = Table(title=title, title_justify="left")
    table.add_column("cell", overflow="fold")
    for heading in ("params", "added", "FLOPs/token", "tokens", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    for cell, named in zip(plan.cells, labels, strict=True):
        table.add_row(
            ", ".join(f"{name}={label}" for name, label in named.items() if name not in (*fixed, *keys.RATIO)) or "all",
            count(cell.params_total),
            count(cell.params_connection),
            count(cell.flops_per_token),
            count(cell.tokens),
            duration(throughput.seconds(cell), digits=2),
        )
    console.print(table)
    console.print(
        "added: parameters of the residual scheme; FLOPs of training; tokens and time of one run",
        style="dim",
        soft_wrap=True,
    )
    for line in totals(plan, throughput, workers):
        console.print(line, highlight=False, soft_wrap=True)


def totals(plan: Plan, throughput: Throughput, workers: int) -> list[str]:
    """Runs, tokens, FLOPs and time of the whole sweep in words."""
    spec = plan.spec
    seeds = plural(len(spec.seeds), "seed")
    cells = plural(len(plan.cells), "cell")
    if spec.search:
        first, *others = spec.search.trial_seeds
        trained = f"seeds {first} to {others[-1]} each" if others else f"seed {first}"
        per_cell = f"{cells} x ({plan.trials} search trials with {trained} + {seeds} at the best found)"
    else:
        per_cell = f"{cells} x {seeds}"
    tokens = sum(cell.tokens for cell in plan.cells) * plan.trainings_per_cell
    flops = sum(cell.flops for cell in plan.cells) * plan.trainings_per_cell
    time = duration(throughput.total_seconds(plan, workers))
    return [
        f"{plural(plan.runs, 'run')} = {per_cell}; {count(tokens)} tokens, {count(flops)} training FLOPs"
        + (", less what is pruned" if spec.search else ""),
        f"about {time} with {plural(workers, 'worker')} (throughput {throughput.source})",
    ]
