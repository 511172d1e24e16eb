"""The options that commands of sweeps share, and what they mean on this machine: its GPUs, how many runs share one, and compiling ahead."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resbench.sweeps.ahead import Ahead
    from resbench.sweeps.machine import Machine, Offer
    from resbench.sweeps.plan import Plan
    from resbench.sweeps.spec import SweepSpec


def add_gpus(add: Callable[..., Any]) -> None:
    add("--gpus", metavar="LIST", help="GPUs to use, such as 0,1,2,3 in nvidia-smi's order (default: all)")
    add(
        "--per-gpu",
        metavar="K",
        type=positive,
        help="runs that share a GPU; with --gpus or this, --workers defaults to all there is room for",
    )
    add(
        "--no-memory-check",
        action="store_true",
        help="start runs that the memory estimate says do not fit on their GPU",
    )


def add_compile_ahead(add: Callable[..., Any]) -> None:
    add(
        "--compile-ahead",
        metavar="N",
        type=_processes,
        help="before the first run, compile each network of the runs still to do, in N processes beside each other on the sweep's GPUs; at most half "
        "of a time limit goes into that",
    )


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a whole number of at least 1")
    return int(text)


def _processes(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r}, expected how many processes compile at once, at least 1; leave the option out to have each network compiled by its first run"
        )
    return int(text)


def ahead_of(arguments: argparse.Namespace) -> "Ahead | None":
    """What --compile-ahead asks for."""
    from resbench.sweeps.ahead import Ahead

    return None if arguments.compile_ahead is None else Ahead(arguments.compile_ahead)


def offer_of(spec: "SweepSpec", arguments: argparse.Namespace) -> "Offer":
    """What this machine offers a sweep, as the command line and the file wish. Raises ValueError for what it has not."""
    from resbench.sweeps.machine import Offer, Wishes

    return Offer(
        Wishes(arguments.workers, arguments.gpus, arguments.per_gpu, not arguments.no_memory_check), spec.workers
    )


def machine_of(offer: "Offer", plan: "Plan", file: Path) -> "Machine":
    """Raises ValueError for a plan that does not fit on this machine."""
    try:
        machine, told = offer.machine(plan)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    for line in told:
        print(line)
    return machine
