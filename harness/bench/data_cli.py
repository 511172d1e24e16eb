"""`resbench bench data` as typed: its arguments, what it prints, and its exit code."""

import argparse
import tempfile
from pathlib import Path


def data(arguments: argparse.Namespace) -> int:
    """Measure every loader with every number of workers, writing what there is after each; 1 if no loader delivers what is wanted."""
    import os

    import psutil

    from resbench.harness.bench.data import KINDS, Plan, measure, save, write_shards
    from resbench.harness.quiet import quiet_libraries

    workers = [int(count) for count in arguments.workers.split(",") if count.strip().isdigit()]
    if not workers or len(workers) != len(arguments.workers.split(",")):
        raise ValueError(f"--workers {arguments.workers}: expected numbers of processes such as 0,1,2,4")
    for name, value in (("seconds", arguments.seconds), ("tokens-per-s", arguments.tokens_per_s)):
        if value <= 0:
            raise ValueError(f"--{name} {value}: expected more than 0")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count() or 1
    wanted = arguments.margin * arguments.tokens_per_s
    rates = []
    with tempfile.TemporaryDirectory(prefix="resbench-bench-") as folder, quiet_libraries():
        given = [Path(file) for file in arguments.data or ()]
        files = tuple(given) or write_shards(Path(folder), max(16, *workers))
        plan = Plan(files, Path(folder) / "cache", arguments.context_length, arguments.batch_size, arguments.seconds)
        for kind in KINDS:
            for count in workers:
                rate = measure(kind, count, plan)
                rates.append(rate)
                save(rates, plan, arguments.tokens_per_s, arguments.margin, cores, Path(arguments.out))
                print(
                    f"{kind:<30} {count:>2} workers {rate.tokens_per_s:>13,.0f} tokens/s "
                    f"({rate.slowest:,.0f} to {rate.fastest:,.0f}), {rate.tokens_per_s / arguments.tokens_per_s:.1f}x",
                    flush=True,
                )
    best = {kind: max(rate.tokens_per_s for rate in rates if rate.kind == kind) for kind in KINDS}
    print(f"\n{cores} cores; wanted: {arguments.margin:g} x {arguments.tokens_per_s:,.0f} = {wanted:,.0f} tokens/s")
    for kind, rate_of in best.items():
        print(f"  {kind}: {'enough' if rate_of >= wanted else 'NOT enough'} ({rate_of / wanted:.2f} of what is wanted)")
    print(f"Written: {arguments.out}/data.json and data.png")
    return 0 if max(best.values()) >= wanted else 1


def add_data_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `data` to the commands of `resbench bench`."""
    loaders = commands.add_parser(
        "data",
        help="tokens/s of the data loaders by number of workers",
        description="Measure what the loaders of cached and of streamed text deliver, against what a model consumes.",
    )
    loaders.add_argument(
        "--workers", default="0,1,2,4,8", metavar="N,N", help="numbers of worker processes (default: %(default)s)"
    )
    loaders.add_argument(
        "--seconds", type=float, default=3.0, help="of each of three repeats per number (default: %(default)s)"
    )
    loaders.add_argument("--context-length", type=int, default=1024, help="tokens of a sequence (default: %(default)s)")
    loaders.add_argument("--batch-size", type=int, default=32, help="sequences of a batch (default: %(default)s)")
    loaders.add_argument(
        "--data",
        nargs="+",
        metavar="FILE",
        help="Parquet files with a column `text` (default: the source of the standard library in 16 files)",
    )
    loaders.add_argument(
        "--tokens-per-s",
        type=float,
        default=450_000,
        help="what a model consumes; the default (%(default)s) is an assumption for 125M parameters on one H200, compiled, in bf16",
    )
    loaders.add_argument(
        "--margin", type=float, default=5.0, help="how many times that is wanted (default: %(default)s)"
    )
    loaders.add_argument("--out", default="bench-data", metavar="DIR", help="where to write (default: %(default)s)")
    loaders.set_defaults(command=data)
