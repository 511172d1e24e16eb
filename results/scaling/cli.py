"""`resbench scaling`: laws, frontiers, multipliers and effects of a study's runs, in the terminal and as files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from resbench.results.source_options import add_source_options, where_of


def main(argv: Sequence[str]) -> int:
    """Run `resbench scaling ...`; returns the exit status. What a user got wrong raises ValueError or OSError."""
    arguments = _parser().parse_args(argv)
    from rich.console import Console

    from resbench.results.cli import choose_study, folder_name
    from resbench.results.figures.scaling import draw_scaling
    from resbench.results.publish import figure_files, write_files
    from resbench.results.runs import load_runs
    from resbench.results.scaling.report import print_scaling
    from resbench.results.scaling.study import scaling
    from resbench.results.source import open_source

    source = open_source(where_of(arguments))
    runs = load_runs(source)
    chosen = choose_study(runs, arguments.study, source.name)
    folder = Path(arguments.out) if arguments.out else Path(arguments.output_dir) / "scaling" / folder_name(chosen)
    folder.mkdir(parents=True, exist_ok=True)  # one that cannot be had is said before anything is fitted
    found = scaling(runs[runs["study"] == chosen], chosen, arguments.resamples, arguments.size)
    drawings = draw_scaling(found)
    files: dict[str, str | bytes] = {}
    for drawing in drawings:
        files |= figure_files(drawing)
    for name, table in found.tables().items():
        files[f"{name}.csv"] = table.to_csv(index=False, lineterminator="\n")
    write_files(folder, files | {"scaling.json": found.to_json()})

    console = Console()
    print_scaling(found, console)
    for drawing in drawings:
        if drawing.reason:
            console.print(f"{drawing.title}: not drawn. {drawing.reason}", markup=False, highlight=False)
    console.print(
        f"Wrote {folder / 'scaling.json'}, its tables and figures.", markup=False, highlight=False, soft_wrap=True
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="resbench scaling",
        description="Fit scaling laws to a study's final runs: L(N, D), power laws of loss in compute, time and memory, multipliers over "
        "resnet, the largest size predicted from the others, the effect of streams and Sinkhorn iterations. Writes tables, scaling.json "
        "and figures.",
    )
    add = parser.add_argument
    add("--study", metavar="NAME", help="sweep (or experiment) to fit; default: the latest")
    add(
        "--size",
        metavar="NAME",
        action="append",
        help="fit these sizes only (repeatable), where others have too few seeds or do not belong to the law; default: all",
    )
    add_source_options(add)
    add("--out", metavar="DIR", help="where to write; default: OUTPUT_DIR/scaling/STUDY")
    add(
        "--resamples",
        metavar="N",
        type=_count,
        default=500,
        help="bootstrap resamples of the runs (default: %(default)s)",
    )
    return parser


def _count(text: str) -> int:
    value = int(text)
    if not 20 <= value <= 100_000:
        raise argparse.ArgumentTypeError(f"{text}: expected 20 to 100000; fewer make no interval")
    return value
