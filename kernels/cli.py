"""``resbench kernels check`` and ``resbench kernels bench``."""

import argparse
import os
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 for kernels that fail the bar, 2 for a machine that cannot run it."""
    parser = argparse.ArgumentParser(prog="resbench kernels", description="Check and time the fused kernels.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="compare every operation with its float64 definition")
    check.add_argument("--operation", action="append", help="only this operation (repeatable)")
    check.add_argument(
        "--jobs",
        type=positive,
        default=max(1, min(8, cores() // 2)),
        metavar="N",
        help="processes that compile and compare beside each other (default: %(default)s)",
    )
    bench = commands.add_parser("bench", help="time the kernels against the byte floor and other implementations")
    bench.add_argument("--peers", action="store_true", help="also time the public implementations that are installed")
    bench.add_argument("--json", metavar="FILE", help="write every measurement to FILE")
    bench.add_argument("--figure", metavar="FILE", help="draw the roofline figure (.svg or .png)")
    bench.add_argument("--quick", action="store_true", help="two shapes only")
    bench.add_argument(
        "--jobs",
        type=int,
        default=min(8, cores() // 2),
        metavar="N",
        help="processes that compile everything before anything is timed; 0 compiles each when its turn comes (default: %(default)s)",
    )
    arguments = parser.parse_args(argv)
    if arguments.command == "check":
        return run_check(arguments.operation, arguments.jobs)
    return run_bench(arguments)


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a whole number of at least 1")
    return int(text)


def run_check(wanted: Sequence[str] | None, jobs: int) -> int:
    import torch

    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        os.environ["TRITON_INTERPRET"] = "1"  # before the kernels are imported
        print("no GPU: running the kernels in Triton's interpreter, at small shapes")
    from resbench.kernels import functional
    from resbench.kernels.cases import OPERATIONS
    from resbench.kernels.report import print_findings
    from resbench.kernels.suite import compare

    if not on_gpu:
        functional.INTERPRETED = True
    unknown = [name for name in wanted or () if name not in OPERATIONS]
    if unknown:
        raise ValueError(f"--operation {unknown[0]}: expected one of {', '.join(OPERATIONS)}")
    passed = print_findings(compare("cuda" if on_gpu else "cpu", tuple(wanted or OPERATIONS), jobs))
    return 0 if passed else 1


def run_bench(arguments: argparse.Namespace) -> int:
    import torch

    if not torch.cuda.is_available():
        print(
            "resbench kernels bench needs a CUDA GPU: there is none here. `resbench kernels check` runs without one.",
            file=sys.stderr,
        )
        return 2
    from resbench.kernels import bench
    from resbench.kernels.report import draw, print_rows, save

    def keep(report: bench.Report) -> None:
        if arguments.json:
            save(report, arguments.json)

    report = bench.run(with_peers=arguments.peers, quick=arguments.quick, processes=arguments.jobs, keep=keep)
    if report is None:
        print("the kernels do not pass `resbench kernels check`, so their speed means nothing", file=sys.stderr)
        return 1
    print_rows(report)
    if arguments.figure:
        draw(report, arguments.figure)
    return 0
