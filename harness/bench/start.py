"""`resbench bench start`: how long a run takes from its process's birth to the end of its first step, and where the time goes.

Two kinds of process: one started from a shell (`resbench fit`), which imports everything, and one forked from a server that has imported it already,
which is how sweeps start their trials. On a GPU both kinds compile. The caches of the compilers and of resbench start empty, and there is no MLflow
database, so the first run is the cold one.
"""

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from statistics import median
from typing import Literal

from resbench.harness import names
from resbench.harness.bench.run import Plan, Shape, arguments
from resbench.harness.compilation import CACHES
from resbench.harness.store import open_store

Kind = Literal["shell", "fork"]


@dataclass(frozen=True)
class Start:
    """One start. ``seconds`` by phase (`names.START_S`), and their sum."""

    kind: Kind
    number: int
    """Counted over all kinds; the first finds no database and empty caches."""
    seconds: dict[str, float]
    total: float


def measure_starts(
    scheme: str, shape: Shape, plan: Plan, repeats: int, say: Callable[[str], None] = lambda line: None
) -> list[Start]:
    """Start a run of one step so many times as each kind. Raises RuntimeError for a start that fails."""
    steps = ("budget.tokens", 2 * shape.tokens), ("every.checkpoint", 0)
    argv = [*arguments(scheme, shape, plan), *(f"--{key}={value}" for key, value in steps)]
    # Read by the fork server; the second keeps it from initialising CUDA, which does not survive a fork.
    os.environ |= {variable: str(plan.folder / folder) for variable, folder in CACHES.items()}
    os.environ["RESBENCH_CACHE"] = str(plan.folder / "cache")
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    multiprocessing.get_context("forkserver").set_forkserver_preload(["resbench.harness.fit"])
    found: list[Start] = []
    kinds: tuple[Kind, ...] = ("shell", "fork")
    for kind in kinds:
        if kind == "fork":
            forkserver.ensure_running()
            _fork(["--print_config"])  # the server has finished importing when its first child has run
        for _ in range(repeats):
            experiment = f"start-{len(found)}"
            (_shell if kind == "shell" else _fork)([*argv, f"--tracking.experiment={experiment}"])
            found.append(_read(kind, len(found), plan, experiment))
            say(f"{kind}: {found[-1].total:.2f} s")
    return found


def _shell(argv: list[str]) -> None:
    program = "import sys; from resbench.harness.cli import program; sys.exit(program())"
    done = subprocess.run([sys.executable, "-c", program, "fit", *argv], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"`resbench fit {' '.join(argv)}` failed: {done.stderr.strip()[-500:]}")


def _fork(argv: list[str]) -> None:
    process = multiprocessing.get_context("forkserver").Process(target=_run_quietly, args=(argv,))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"a forked `resbench fit {' '.join(argv)}` ended with exit status {process.exitcode}")


def _run_quietly(argv: list[str]) -> None:
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    from resbench.harness.fit import fit

    fit(argv)


def _read(kind: Kind, number: int, plan: Plan, experiment: str) -> Start:
    client = open_store(f"sqlite:///{plan.folder}/mlflow.db")
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    (run,) = client.search_runs([found.experiment_id])
    metrics = run.data.metrics
    seconds = {phase: metrics[name] for phase, name in names.START_S.items() if name in metrics}
    return Start(kind, number, seconds, metrics[names.START_TOTAL_S])


def markdown(starts: Sequence[Start]) -> str:
    """Phases down, starts across: the first one alone, since caches were empty, then the medians of each kind's others."""
    columns: list[tuple[str, list[Start]]] = [("shell, first", [start for start in starts if start.number == 0])]
    for kind in ("shell", "fork"):
        rest = [start for start in starts if start.kind == kind and start.number > 0]
        if rest:
            columns.append((f"{kind}, median of {len(rest)}", rest))
    lines = [f"| seconds | {' | '.join(heading for heading, _ in columns)} |", f"|{' --- |' * (len(columns) + 1)}"]
    for phase in names.START_S:
        values = [median(start.seconds.get(phase, 0.0) for start in column) for _, column in columns]
        lines.append(f"| {phase} | {' | '.join(f'{value:.2f}' for value in values)} |")
    totals = [median(start.total for start in column) for _, column in columns]
    return "\n".join([*lines, f"| all | {' | '.join(f'{total:.2f}' for total in totals)} |"])


def save(starts: Sequence[Start], about: dict[str, object], folder: Path) -> None:
    """Write ``start.json`` and ``start.md`` into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    content = about | {"starts": [vars(start) for start in starts]}
    (folder / "start.json").write_text(json.dumps(content, indent=1) + "\n")
    (folder / "start.md").write_text(markdown(starts) + "\n")
