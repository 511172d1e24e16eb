"""`resbench claims`: what papers claim of the schemes, beside what the runs of one or several studies say."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from resbench.results.source_options import add_source_options, where_of


def main(argv: Sequence[str]) -> int:
    """Run `resbench claims ...`; returns the exit status. What a user got wrong raises ValueError or OSError."""
    arguments = _parser().parse_args(argv)
    from rich.console import Console

    from resbench.results.claims.evidence import GAINS, evidence
    from resbench.results.claims.report import print_claims, to_json, to_markdown
    from resbench.results.cli import choose_study, studies
    from resbench.results.curves import load_curves
    from resbench.results.publish import write_files
    from resbench.results.runs import load_runs
    from resbench.results.source import open_source

    source = open_source(where_of(arguments))
    runs = load_runs(source)
    asked = arguments.study or studies(runs) or [None]  # of a source without runs, which is refused
    chosen = [choose_study(runs, study, source.name) for study in asked]
    runs = runs[runs["study"].isin(chosen)]
    rows = evidence(runs, load_curves(source, list(runs["run_id"]), GAINS))
    console = Console()
    print_claims(rows, console)
    if arguments.out:
        folder = Path(arguments.out)
        about = ", ".join(sorted(chosen))
        write_files(folder, {"claims.md": to_markdown(rows, about), "claims.json": to_json(rows, about)})
        console.print(f"Wrote {folder / 'claims.md'} and claims.json.", markup=False, highlight=False, soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="resbench claims",
        description="Test what papers claim of residual schemes (loss, gain, divergence, streams) with the runs of studies: each claim with its "
        "source, our paired difference and interval, and whether it agrees.",
    )
    add = parser.add_argument
    add("--study", metavar="NAME", action="append", default=[], help="only this study; repeatable (default: all)")
    add_source_options(add)
    add("--out", metavar="DIR", help="write claims.md and claims.json there")
    return parser
