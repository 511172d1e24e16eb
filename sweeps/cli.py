"""``resbench sweep plan | run | worker | slurm | piece | status | stop | retry FILE``, and ``resbench sweep bench``."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resbench.harness.processes import importing
from resbench.sweeps.options import add_compile_ahead, add_gpus, ahead_of, machine_of, offer_of, positive

if TYPE_CHECKING:
    from resbench.sweeps.plan import Plan
    from resbench.sweeps.spec import SweepSpec

DEFAULT_OUTPUT = "runs"
UNFIT = 2  # as for any error a user can put right, such as a full disk
INTERRUPTED = 130  # what a shell reports for a command ended by Ctrl-C


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sweep command; the exit code, 1 if a run failed. Raises ValueError or OSError for what the user can put right."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = _parser(argv).parse_args(argv)
    if arguments.command in ("status", "stop", "retry"):
        return _look_after(arguments)
    if arguments.command == "bench":
        from resbench.sweeps import scale_report

        return scale_report.main(arguments)
    if arguments.command == "piece":
        from resbench.sweeps import piece

        return piece.main(arguments)
    from resbench.sweeps.spec import find_file, load_spec

    spec = load_spec(arguments.file, arguments.set)
    output_dir = Path(arguments.output_dir).expanduser().resolve()
    file = find_file(arguments.file)
    if arguments.command == "slurm":
        return _slurm(spec, arguments)
    if arguments.command == "plan":
        return _plan(spec, file, output_dir, arguments)
    try:
        start = _work if arguments.command == "worker" else _run
        return start(spec, file, output_dir, arguments)
    except KeyboardInterrupt:
        print(f"\nInterrupted. Nothing is lost: run the same command again to go on with {spec.name}.")
        return INTERRUPTED


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="resbench sweep", description="Many runs from one file: schemes x sizes x seeds, searches included."
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="{plan,run,worker,slurm,piece,status,stop,retry,bench}"
    )
    for name, summary in (
        ("plan", "show every cell, its cost and an estimate of the time; run nothing"),
        ("run", "run, or go on with, a sweep"),
        ("worker", "run a sweep together with any number of other workers, on any machines"),
        ("slurm", "print a SLURM array job of workers"),
    ):
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        add = command.add_argument
        add(
            "file",
            metavar="FILE",
            help="a sweep file, or the name of a shipped one: demo, streams, sinkhorn, depth, ladder",
        )
        add(
            "--set",
            metavar="KEY=VALUE",
            action="append",
            default=[],
            help="change the file, such as seeds=[0,1] or size=1m; repeatable",
        )
        add("--workers", metavar="N", type=positive, help="runs at once (default: the file's `workers`, or 1)")
        add(
            "--output-dir",
            metavar="DIR",
            default=DEFAULT_OUTPUT,
            help="checkpoints, logs, databases (default: %(default)s)",
        )
        add(
            "--tracking-uri",
            metavar="URI",
            help="MLflow store (default: MLFLOW_TRACKING_URI, or SQLite in the output folder)",
        )
        if name != "slurm":
            add_gpus(add)
        if name in ("run", "worker"):
            add_compile_ahead(add)
        if name in ("worker", "slurm"):
            add(
                "--storage",
                metavar="URL",
                required=True,
                help="the database the workers share: postgresql://USER@HOST/DATABASE, or sqlite:///PATH on one machine",
            )
        if name == "worker":
            add(
                "--heartbeat",
                metavar="S",
                type=positive,
                help="seconds between signs of life; a worker silent for four times as long is dead (default: that of the workers at it, or 15)",
            )
        if name == "slurm":
            add("--array", metavar="N", type=positive, default=4, help="worker jobs (default: %(default)s)")
            add("--gpus", metavar="N", type=int, default=1, help="GPUs of each job (default: %(default)s)")
            add("--per-gpu", metavar="K", type=positive, help="runs that share a GPU (default: 1)")
            add("--cpus", metavar="N", type=positive, default=8, help="CPU cores of each job (default: %(default)s)")
            add("--time", metavar="HH:MM:SS", default="04:00:00", help="time limit of each job (default: %(default)s)")
        if name == "run":
            add(
                "--time-limit",
                metavar="S",
                type=positive,
                help="start no run that would not end within so many seconds, and stop with exit code 75 if there is more to do",
            )
        if name in ("run", "worker"):
            add(
                "--extend",
                action="store_true",
                help="the file has new cells or seeds since the sweep started: run them too",
            )
            add(
                "--take-over",
                action="store_true",
                help="go on with a sweep without a search that the other of `run` and `worker`, or another machine, began and left",
            )
    summary = "measure how many runs a second a database can deal out, with simulated workers and no training"
    bench = commands.add_parser("bench", help=summary, description=summary[0].upper() + summary[1:] + ".")
    if "bench" in argv[:1]:  # its own arguments are only needed, and imported, then
        from resbench.sweeps.scale_report import add_arguments

        add_arguments(bench.add_argument)
    summary = "run one bounded piece of sweeps, from and to a folder that may travel between machines"
    piece = commands.add_parser("piece", help=summary, description=summary[0].upper() + summary[1:] + ".")
    piece.add_argument(
        "state", metavar="STATE", help="the folder with what earlier pieces found; empty or absent at first"
    )
    piece.add_argument("files", metavar="FILE", nargs="+", help="sweep files, run in this order")
    piece.add_argument(
        "--time-limit",
        metavar="S",
        type=positive,
        default=540,
        help="seconds for the runs; writing takes a few more (default: %(default)s)",
    )
    piece.add_argument("--workers", metavar="N", type=positive, help="runs at once (default: what each file says)")
    piece.add_argument(
        "--output-dir",
        metavar="DIR",
        default=DEFAULT_OUTPUT,
        help="checkpoints, logs, databases on this machine (default: %(default)s)",
    )
    add_gpus(piece.add_argument)
    add_compile_ahead(piece.add_argument)
    for name, summary in (
        ("status", "cells, states, best values, time left, and what died or failed"),
        ("stop", "let the runs under way end, and start no more; `sweep run` goes on later"),
        ("retry", "put failed runs back in the queue"),
    ):
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        add = command.add_argument
        add("file", metavar="FILE", help="the sweep file, or the sweep's name")
        add("--output-dir", metavar="DIR", default=DEFAULT_OUTPUT, help="the one of `sweep run` (default: %(default)s)")
        add("--tracking-uri", metavar="URI", help="the one of `sweep run`")
        add("--storage", metavar="URL", help="of a sweep that workers run: their database")
        if name == "stop":
            add("--undo", action="store_true", help="with --storage: let workers start again")
    return parser


def _look_after(arguments: argparse.Namespace) -> int:
    from resbench.harness.store import default_tracking_uri
    from resbench.sweeps.care import retry, show, stop

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

    if arguments.command == "stop" and arguments.undo and not arguments.storage:
        raise ValueError("--undo: only with --storage; a sweep on one machine goes on with `resbench sweep run`")
    output_dir = Path(arguments.output_dir).expanduser().resolve()
    uri = arguments.tracking_uri or default_tracking_uri(output_dir)
    study = _name(arguments.file)
    folder = output_dir / "sweeps" / study
    if arguments.storage:
        from resbench.sweeps import care_shared

        if arguments.command == "stop":
            return care_shared.stop(study, arguments.storage, not arguments.undo)
        look = care_shared.show if arguments.command == "status" else care_shared.retry
        return look(study, uri, arguments.storage)
    return {"status": show, "stop": stop, "retry": retry}[arguments.command](study, uri, folder)


def _name(file: str) -> str:
    """The name of the sweep in a file, of a shipped one, or the name itself of one whose file is elsewhere."""
    from resbench.sweeps.spec import find_file, load_spec

    if Path(file).suffix in (".yaml", ".yml"):
        return load_spec(file).name
    try:
        found = find_file(file)
    except FileNotFoundError:
        return file
    return load_spec(file).name if found.is_file() else file


def _plan(spec: "SweepSpec", file: Path, output_dir: Path, arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from resbench.harness.store import default_tracking_uri
    from resbench.sweeps.estimate import throughput
    from resbench.sweeps.session import measured_before
    from resbench.sweeps.table import print_plan

    offer = offer_of(spec, arguments)
    plan = _make_plan(spec, file)
    machine = machine_of(offer, plan, file)
    measured = measured_before(arguments.tracking_uri or default_tracking_uri(output_dir), spec.name)
    expected = throughput(plan, measured, machine.threads, machine.gpus)
    print_plan(Console(), plan, expected, machine.workers)
    return 0


def _make_plan(spec: "SweepSpec", file: Path) -> "Plan":
    with importing():
        import resbench.harness.fit  # noqa: F401  (it builds each model once)
        from resbench.sweeps.plan import make_plan

    try:
        return make_plan(spec)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _run(spec: "SweepSpec", file: Path, output_dir: Path, arguments: argparse.Namespace) -> int:
    from resbench.sweeps import pool
    from resbench.sweeps.lock import sweep_lock

    folder = output_dir / "sweeps" / spec.name
    with sweep_lock(folder):
        offer = offer_of(spec, arguments)
        pool.warm_up(offer.threads)  # imports in the background while this process does the same to plan
        from resbench.sweeps.deadline import EX_TEMPFAIL
        from resbench.sweeps.session import run_plan

        plan = _make_plan(spec, file)
        changes = "".join(f"# --set {assignment}\n" for assignment in arguments.set)
        summary = run_plan(
            plan,
            file_text=changes + file.read_text(encoding="utf-8"),
            folder=folder,
            output_dir=output_dir,
            tracking_uri=arguments.tracking_uri,
            machine=machine_of(offer, plan, file),
            extend=arguments.extend,
            take_over=arguments.take_over,
            time_limit_s=arguments.time_limit,
            ahead=ahead_of(arguments),
        )
    if summary.unfit:
        return UNFIT
    if summary.stuck_s:
        return 1
    if summary.out_of_time:
        return EX_TEMPFAIL
    if summary.interrupted:
        return INTERRUPTED
    return 0 if summary.complete else 1


def _work(spec: "SweepSpec", file: Path, output_dir: Path, arguments: argparse.Namespace) -> int:
    from resbench.harness.store import default_tracking_uri
    from resbench.sweeps import pool

    folder = output_dir / "sweeps" / spec.name
    folder.mkdir(parents=True, exist_ok=True)
    offer = offer_of(spec, arguments)
    pool.warm_up(offer.threads)
    from resbench.sweeps.worker import work

    changes = "".join(f"# --set {assignment}\n" for assignment in arguments.set)
    plan = _make_plan(spec, file)
    summary = work(
        plan,
        storage=arguments.storage,
        tracking_uri=arguments.tracking_uri or default_tracking_uri(output_dir),
        file_text=changes + file.read_text(encoding="utf-8"),
        folder=folder,
        output_dir=output_dir,
        machine=machine_of(offer, plan, file),
        extend=arguments.extend,
        take_over=arguments.take_over,
        heartbeat_s=arguments.heartbeat,
        ahead=ahead_of(arguments),
    )
    if summary.unfit:
        return UNFIT
    if summary.interrupted:
        return INTERRUPTED
    return 0 if summary.complete else 1


def _slurm(spec: "SweepSpec", arguments: argparse.Namespace) -> int:
    from resbench.sweeps.slurm import ArrayJob, sbatch

    job = ArrayJob(arguments.array, arguments.gpus, arguments.cpus, arguments.time)
    worker = ["sweep", "worker", arguments.file, "--storage", arguments.storage, "--output-dir", arguments.output_dir]
    worker += ["--tracking-uri", arguments.tracking_uri] if arguments.tracking_uri else []
    worker += ["--workers", str(arguments.workers)] if arguments.workers else []
    if arguments.gpus:
        worker += ["--per-gpu", str(arguments.per_gpu or 1)]  # with it, a worker uses all the GPUs it sees
    worker += [word for assignment in arguments.set for word in ("--set", assignment)]
    print(sbatch(spec.name, worker, job), end="")
    return 0
