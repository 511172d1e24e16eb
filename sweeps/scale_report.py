"""`resbench sweep bench`: measure the queue with 1 to 64 simulated workers; a table, a figure, and JSON with the machine it was measured on."""

import argparse
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from rich.console import Console
from rich.progress import track
from sqlalchemy import create_engine, text

from resbench.sweeps.database import storage_url
from resbench.sweeps.postgres import running
from resbench.sweeps.scale import OPERATIONS, Measurement, measure, saturation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SETTINGS = ("server_version", "max_connections", "shared_buffers", "fsync", "synchronous_commit")
_LIBRARIES = ("optuna", "sqlalchemy", "psycopg")
_OWN_SERVER = {"max_connections": "200"}
WORDS = {
    "look": "look at the queue",
    "claim": "claim a trial",
    "heartbeat": "send a heartbeat",
    "finish": "end a trial",
}


def add_arguments(add: Callable[..., Any]) -> None:
    add(
        "--storage",
        metavar="URL",
        help="an empty PostgreSQL database (default: a server of its own for the time being)",
    )
    add(
        "--workers",
        metavar="LIST",
        type=_counts,
        default=[1, 2, 4, 8, 16, 32, 64],
        help="simulated workers, such as 1,2,4 (default: 1,2,4,8,16,32,64)",
    )
    add("--trials", metavar="N", type=int, default=10_000, help="queued for each of these (default: %(default)s)")
    add(
        "--limit",
        metavar="S",
        type=float,
        default=60.0,
        help="seconds for each of these at most (default: %(default)s)",
    )
    add("--json", metavar="FILE", help="write everything that was measured, with the machine")
    add("--markdown", metavar="FILE", help="write the table")
    add("--figure", metavar="FILE", help="draw throughput and latency; .svg or .png")


def main(arguments: argparse.Namespace) -> int:
    """The command. Raises ValueError for what the user can put right."""
    if arguments.trials < max(arguments.workers):
        raise ValueError(f"--trials {arguments.trials}: fewer than workers; give at least {max(arguments.workers)}")
    outputs = {name: Path(path) for name in ("json", "markdown", "figure") if (path := getattr(arguments, name))}
    for path in outputs.values():
        if not path.parent.is_dir():
            raise ValueError(f"--{path.suffix[1:]}: {path.parent} is no folder; create it first")
    with _database(arguments.storage) as url:
        about = environment(url)
        loads, measured = [], []
        for workers in track(arguments.workers, "measuring", console=Console(stderr=True), transient=True):
            loads.append(os.getloadavg()[0])
            name = f"bench-{time.time_ns():x}-{workers}"
            measured.append(measure(url, workers, arguments.trials, arguments.limit, name))
    written = {
        "json": lambda: json.dumps(as_json(measured, loads, about, arguments), indent=1) + "\n",
        "markdown": lambda: table(measured, loads) + "\n",
    }
    for name, text_of in written.items():
        if name in outputs:
            outputs[name].write_text(text_of(), encoding="utf-8")
    if "figure" in outputs:
        figure = draw(measured, f"{about['cpu']}, {about['cores']} cores, PostgreSQL {about['server_version']}")
        figure.savefig(outputs["figure"], metadata={"Date": None} if outputs["figure"].suffix == ".svg" else None)
    print(table(measured, loads))
    print(f"\n{verdict(measured, about['cores'])}")
    return 0


def table(measured: Sequence[Measurement], loads: Sequence[float]) -> str:
    """A row for each number of workers, as Markdown; latencies are p50 / p95 / p99 in milliseconds."""
    heads = [
        "workers",
        "trials/s",
        "ended",
        *(f"{WORDS[name]}, ms" for name in OPERATIONS),
        "cores: workers / server / all",
        "load before",
    ]
    lines = [f"| {' | '.join(heads)} |", f"| {' | '.join('---' for _ in heads)} |"]
    for one, load in zip(measured, loads, strict=True):
        latencies = [one.latency[name] for name in OPERATIONS]
        cells = [
            str(one.workers),
            f"{one.trials_per_s:.1f}",
            f"{one.trials} in {one.seconds:.0f} s",
            *(f"{it.p50:.1f} / {it.p95:.1f} / {it.p99:.1f}" for it in latencies),
            " / ".join(_cores(spent, one.seconds) for spent in (one.worker_cpu_s, one.server_cpu_s, one.machine_cpu_s)),
            f"{load:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cores(cpu_s: float | None, seconds: float) -> str:
    return "?" if cpu_s is None else f"{cpu_s / seconds:.2f}"


def verdict(measured: Sequence[Measurement], cores: int) -> str:
    """Where it saturates, and what limits it."""
    best = max(measured, key=lambda one: one.trials_per_s)
    enough = saturation(measured)
    busy, server = best.machine_cpu_s / best.seconds, best.server_cpu_s
    most = f"{enough.trials_per_s:.0f} trials/s from {enough.workers} workers on, at most {best.trials_per_s:.0f} with {best.workers}"
    each = f"a trial costs {1e3 * best.worker_cpu_s / best.trials:.0f} ms of CPU time in its worker"
    if server is None:
        return f"{most}; {each}."
    each += f" and {1e3 * server / best.trials:.0f} ms in the server"
    others = busy - (best.worker_cpu_s + server) / best.seconds
    if others > 0.25 * cores:
        return f"{most}, where other programs had {others:.1f} of {cores} cores: no measure of what the queue can do; {each}."
    if busy > 0.9 * cores:
        return f"Saturated: {most}; all {cores} cores are busy, {each}."
    return f"Saturated: {most}; {busy:.1f} of {cores} cores are busy, so it waits for the disk or for locks; {each}."


def as_json(
    measured: Sequence[Measurement], loads: Sequence[float], about: dict[str, Any], arguments: argparse.Namespace
) -> dict[str, Any]:
    rows = [
        {**asdict(one), "trials_per_s": one.trials_per_s, "load_before": load}
        for one, load in zip(measured, loads, strict=True)
    ]
    return {
        "format": 1,
        "trials": arguments.trials,
        "limit_s": arguments.limit,
        "environment": about,
        "saturated_from_workers": saturation(measured).workers,
        "measurements": rows,
    }


def environment(url: str) -> dict[str, Any]:
    """The machine, the server's settings that matter here, and the versions of what talks to it."""
    engine = create_engine(storage_url(url))
    settings = {}
    if engine.dialect.name == "postgresql":
        with engine.connect() as connection:
            settings = {name: connection.execute(text(f"show {name}")).scalar_one() for name in _SETTINGS}
    engine.dispose()
    settings.setdefault("server_version", engine.dialect.name)
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _LIBRARIES},
        **settings,
        "measured": time.strftime("%Y-%m-%d"),
    }


def draw(measured: Sequence[Measurement], title: str) -> "Figure":
    """Throughput, and the latency of each operation, against the number of workers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    workers = [one.workers for one in measured]
    left.plot(workers, [one.trials_per_s for one in measured], "o-", color="#0072B2")
    left.axvline(saturation(measured).workers, color="0.6", linestyle=":", label="nine tenths of the most")
    left.set(ylabel="trials per second", ylim=(0, None), title="throughput")
    left.legend(frameon=False, loc="lower right")
    for name, color, marker in zip(OPERATIONS, ("#999999", "#0072B2", "#009E73", "#D55E00"), "s^ov", strict=True):
        latency = [one.latency[name] for one in measured]
        right.plot(workers, [it.p50 for it in latency], marker=marker, color=color, label=WORDS[name])
        right.fill_between(workers, [it.p50 for it in latency], [it.p99 for it in latency], color=color, alpha=0.12)
    right.set(yscale="log", ylabel="milliseconds", title="latency: median, shaded up to p99")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xlim(min(workers) / 1.3, max(workers) * 1.3)
        axes.set_xticks(workers, [str(count) for count in workers])
        axes.set_xlabel("workers at once")
        axes.grid(alpha=0.3)
    figure.suptitle(f"Queue of a sweep, stub trials: {title}", fontsize=10)
    return figure


@contextmanager
def _database(url: str | None) -> Iterator[str]:
    if url is not None:
        yield url
        return
    with running(_OWN_SERVER) as server:
        yield server.url


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown CPU"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def _counts(given: str) -> list[int]:
    counts = given.split(",")
    if not all(part.strip().isdigit() and int(part) > 0 for part in counts):
        raise argparse.ArgumentTypeError(f"{given!r}, expected numbers of workers such as 1,2,4,8")
    return sorted({int(part) for part in counts})
