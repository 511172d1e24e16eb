"""`resbench bench run | start | loss | data`: how fast a training run, its start, its loss and its data are."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from resbench.harness.bench.data_cli import add_data_command

GPU_SHAPES = ("12x768:1024x64", "24x1024:2048x16", "16x2048:2048x8")
CPU_SHAPES = ("2x96:64x4", "4x128:128x8")


def main(argv: Sequence[str]) -> int:
    """Run `resbench bench ...`; returns the exit status. What a user got wrong raises ValueError or OSError."""
    arguments = _parser().parse_args(argv)
    code: int = arguments.command(arguments)
    return code


def run(arguments: argparse.Namespace) -> int:
    """Measure every scheme at every shape, writing what there is after each; 1 if one of them did not complete."""
    import torch
    from rich.console import Console

    from resbench.harness.bench.report import FORMULA, cells, save
    from resbench.harness.bench.run import Plan, Shape, measure

    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    shapes = [Shape.parse(text) for text in arguments.shape or (GPU_SHAPES if on_gpu else CPU_SHAPES)]
    for name in ("warmup", "blocks"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name} {getattr(arguments, name)}: expected at least 1")
    rows = []
    with tempfile.TemporaryDirectory(prefix="resbench-bench-") as folder:
        plan = Plan(
            *_sizes(arguments, on_gpu),
            arguments.warmup,
            arguments.blocks,
            arguments.seed,
            Path(folder),
            tuple(arguments.set or ()),
        )
        for shape in shapes:
            for scheme in arguments.scheme or ["resnet"]:
                rows.append(measure(scheme, shape, plan, lambda line: print(line, file=sys.stderr, flush=True)))
                save(rows, plan, device, Path(arguments.out))
                print(" | ".join(cells(rows[-1])), file=sys.stderr, flush=True)
    _show(Console(width=None if sys.stdout.isatty() else 200), rows)
    print(f"\n{FORMULA}\nWritten: {arguments.out}/bench.json, table.md and bench.png")
    return 0 if all(row.outcome == "complete" for row in rows) else 1


def _show(console: object, rows: Sequence[object]) -> None:
    from rich.console import Console
    from rich.table import Table

    from resbench.harness.bench.report import HEADINGS, cells
    from resbench.harness.bench.run import Row

    assert isinstance(console, Console)
    table = Table("", *(f"{row.scheme} {row.shape}" for row in rows if isinstance(row, Row)), box=None, pad_edge=False)
    columns = [cells(row) for row in rows if isinstance(row, Row)]
    for heading, *values in zip(HEADINGS[2:], *(column[2:] for column in columns), strict=True):
        table.add_row(heading, *values)
    console.print(table)


def start(arguments: argparse.Namespace) -> int:
    """Measure cold starts of the first scheme at the first shape."""
    import torch

    from resbench.harness.bench.report import environment
    from resbench.harness.bench.run import Plan, Shape
    from resbench.harness.bench.start import markdown, measure_starts, save

    if arguments.repeats < 1:
        raise ValueError(f"--repeats {arguments.repeats}: expected at least 1")
    on_gpu = torch.cuda.device_count() > 0  # leaves CUDA alone, which the forked runs need for themselves
    shape = Shape.parse((arguments.shape or (GPU_SHAPES if on_gpu else CPU_SHAPES))[0])
    scheme = (arguments.scheme or ["resnet"])[0]
    with tempfile.TemporaryDirectory(prefix="resbench-bench-") as folder:
        plan = Plan(*_sizes(arguments, on_gpu), 1, 1, arguments.seed, Path(folder), tuple(arguments.set or ()))
        say = partial(print, file=sys.stderr, flush=True)
        starts = measure_starts(scheme, shape, plan, arguments.repeats, say)
    about = {
        "scheme": scheme,
        "shape": str(shape),
        "environment": environment(torch.device("cuda" if on_gpu else "cpu")),
    }
    save(starts, about, Path(arguments.out))
    print(f"{markdown(starts)}\n\nWritten: {arguments.out}/start.json and start.md")
    return 0


def loss(arguments: argparse.Namespace) -> int:
    """Time every implementation of the loss at every shape."""
    import torch

    from resbench.harness.bench.loss import implementations, markdown, measure_loss
    from resbench.harness.bench.run import Shape

    on_gpu = torch.cuda.is_available()
    vocabulary, _ = _sizes(arguments, on_gpu)
    rows = []
    for text in arguments.shape or (GPU_SHAPES if on_gpu else CPU_SHAPES):
        shape = Shape.parse(text)
        for name, implementation in implementations(compiled=on_gpu or arguments.compile).items():
            device = torch.device("cuda" if on_gpu else "cpu")
            rows.append(measure_loss(name, implementation, shape.tokens, shape.width, vocabulary, device))
    print(markdown(rows))
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "loss.md").write_text(markdown(rows) + "\n")
    return 0


def _sizes(arguments: argparse.Namespace, on_gpu: bool) -> tuple[int, int]:
    """Vocabulary and width of a head."""
    return arguments.vocab or (50304 if on_gpu else 4096), arguments.head_width or (64 if on_gpu else 32)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="resbench bench", description="How fast a training run is.")
    commands = parser.add_subparsers(title="commands", required=True)
    command = commands.add_parser(
        "run",
        help="`resbench fit` beside a bare PyTorch loop over the same compiled module",
        description="Train random tokens with `resbench fit` and with a bare loop over the same module, and compare tokens/s.",
        epilog=COLUMNS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_common(command, "bench-run")
    command.add_argument(
        "--warmup", type=int, default=2, metavar="BLOCKS", help="blocks of ten steps left out (default: %(default)s)"
    )
    command.add_argument(
        "--blocks", type=int, default=6, help="blocks of ten steps measured on each side (default: %(default)s)"
    )
    command.set_defaults(command=run)
    command = commands.add_parser(
        "start",
        help="from a process's birth to the end of its first step, by phase",
        description="Start runs from a shell and by forking, as sweeps do, and say where the time to the first step goes.",
    )
    _add_common(command, "bench-start")
    command.add_argument("--repeats", type=int, default=3, help="starts of each kind (default: %(default)s)")
    command.set_defaults(command=start)
    command = commands.add_parser(
        "loss",
        help="the chunked loss beside the plain one and liger-kernel's",
        description="Time forward and backward of the output projection and its loss, at the tokens and widths of the shapes.",
    )
    _add_common(command, "bench-loss")
    command.add_argument("--compile", action="store_true", help="compile on a CPU too, which takes a minute")
    command.set_defaults(command=loss)
    add_data_command(commands)
    return parser


COLUMNS = """\
what the columns mean (speeds are taken after the warm-up; a dash is what the device or the backbone does not have):
  bare, fit tokens/s  training tokens a second of the bare loop and of `resbench fit`: mean and 95 % interval over n blocks of ten steps
  fit / bare          their ratio; 1 means that the harness costs nothing
  MFU bare, fit       share of the device's peak FLOP/s, counting masked attention at half and the connections; (6N) by the common formula
  data / forward / backward / optimizer ms   the parts of one step of `resbench fit`
  metrics             share of a step's time that the metrics of every step take
  structure, steps    one measurement of gains, mixing, streams and attention, in steps that could have been done instead
  peak GiB bare / fit, activations GiB       largest memory allocated; of it, what forward keeps for backward
  first step s        the first step of the bare loop, compilation included

Without options: resnet, 2 + 6 blocks of ten steps on each side, at the shapes named above.
"""


def _add_common(command: argparse.ArgumentParser, out: str) -> None:
    command.add_argument(
        "--shape",
        action="append",
        metavar="LxC:TxB",
        help=f"layers x width : sequence length x sequences (repeatable; default {', '.join(GPU_SHAPES)}; "
        f"without a GPU {', '.join(CPU_SHAPES)})",
    )
    command.add_argument(
        "--scheme",
        action="append",
        metavar="NAME[,KEY=VALUE]",
        help="residual scheme with its arguments, such as mhc,n_streams=4 (repeatable; default resnet)",
    )
    command.add_argument("--vocab", type=int, help="vocabulary (default: 50304; without a GPU 4096)")
    command.add_argument("--head-width", type=int, help="width of an attention head (default: 64; without a GPU 32)")
    command.add_argument("--seed", type=int, default=0, help="of weights and tokens (default: %(default)s)")
    command.add_argument(
        "--set",
        action="append",
        metavar="KEY=VALUE",
        help="a further argument of `resbench fit`, such as model.loss=plain (repeatable)",
    )
    command.add_argument("--out", default=out, metavar="DIR", help="where to write (default: %(default)s)")
