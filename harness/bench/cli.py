"""`resbench bench run`: the speed of a training run beside a bare loop."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

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
    vocabulary = arguments.vocab or (50304 if on_gpu else 4096)
    head = arguments.head_width or (64 if on_gpu else 32)
    rows = []
    with tempfile.TemporaryDirectory(prefix="resbench-bench-") as folder:
        plan = Plan(
            vocabulary,
            head,
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="resbench bench", description="How fast a training run is.")
    commands = parser.add_subparsers(title="commands", required=True)
    command = commands.add_parser(
        "run",
        help="`resbench fit` beside a bare PyTorch loop over the same compiled module",
        description="Train random tokens with `resbench fit` and with a bare loop over the same module, and compare tokens/s.",
    )
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
    command.add_argument(
        "--warmup", type=int, default=2, metavar="BLOCKS", help="blocks of ten steps left out (default: %(default)s)"
    )
    command.add_argument(
        "--blocks", type=int, default=6, help="blocks of ten steps measured on each side (default: %(default)s)"
    )
    command.add_argument("--seed", type=int, default=0, help="of weights and tokens (default: %(default)s)")
    command.add_argument(
        "--set",
        action="append",
        metavar="KEY=VALUE",
        help="a further argument of `resbench fit`, such as model.loss=plain (repeatable)",
    )
    command.add_argument("--out", default="bench-run", metavar="DIR", help="where to write (default: %(default)s)")
    command.set_defaults(command=run)
    return parser
