"""`resbench leaderboard build` (and submit, check): from the runs in MLflow to a page, a table in the terminal, and files to pass on."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from resbench.harness.processes import importing
from resbench.results.publish_cli import add_command as add_publish_command
from resbench.results.source_options import add_source_options
from resbench.results.submission.cli import add_commands as add_submission_commands

if TYPE_CHECKING:
    import pandas as pd


def main(argv: Sequence[str]) -> int:
    """Run `resbench leaderboard ...`; returns the exit status. What a user got wrong raises ValueError or OSError."""
    arguments = _parser().parse_args(argv)
    if "run" in arguments:
        status: int = arguments.run(arguments)
        return status
    return build(
        arguments.study,
        arguments.tracking_uri,
        Path(arguments.output_dir),
        arguments.out and Path(arguments.out),
        arguments.conformance,
        arguments.margin,
        arguments.files,
        arguments.verification,
    )


def build(
    study: str | None,
    tracking_uri: str | None,
    output_dir: Path,
    out: Path | None,
    conformance: Sequence[Path] = (),
    margin: float | None = None,
    files: Sequence[Path] = (),
    verifications: Sequence[Path] = (),
) -> int:
    """Build the leaderboard of a study (the latest one if None) into `out`, `<output_dir>/leaderboard/<study>` by default.

    ``conformance``: files of `resbench check-scheme --json`, shown as badges. ``margin``: largest difference in loss that counts as
    none, nats/token (`statistics.MARGIN` if None). ``files``: of `resbench runs export`, or submissions, to be read in place of the store.
    ``verifications``: of `resbench leaderboard verify`, shown beside the rows they are about.
    """
    from rich.console import Console

    with importing():
        from resbench.harness.store import default_tracking_uri
        from resbench.results.conformance import load_badges
        from resbench.results.leaderboard import make_leaderboard
        from resbench.results.publish import PAGE, Rules, files_of, write_files
        from resbench.results.runs import load_runs
        from resbench.results.source import open_source
        from resbench.results.statistics import MARGIN
        from resbench.results.submission.verification import load_verifications, with_verification
        from resbench.results.terminal import print_leaderboard
        from resbench.results.tracks import load_tracks, place
        from resbench.results.tuning import learning_rate_curves

    badges = load_badges(conformance)
    records = load_verifications(verifications)
    source = open_source(list(files) or tracking_uri or default_tracking_uri(output_dir))
    tracks = load_tracks()
    placed = place(load_runs(source), source, tracks)
    runs = placed.runs
    chosen = choose_study(runs, study, source.name)
    own = runs[runs["study"] == chosen]
    rates = learning_rate_curves(own, source)
    leaderboard = make_leaderboard(own, chosen, badges, MARGIN if margin is None else margin, rates)
    leaderboard = replace(leaderboard, cells=with_verification(leaderboard.cells, records))
    folder = out or output_dir / "leaderboard" / folder_name(chosen)
    folder.mkdir(parents=True, exist_ok=True)  # one that cannot be had is said before figures are drawn
    write_files(folder, files_of(leaderboard, source, Rules(tracks, placed.reasons)))

    console = Console()
    print_leaderboard(leaderboard, console)
    others = [name for name in studies(runs) if name != chosen]
    if study is None and others:
        console.print(
            f"Other studies: {', '.join(others)}. Choose one with --study NAME.", markup=False, highlight=False
        )
    for line in next_steps(folder / PAGE, None if files else source.name):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def next_steps(page: Path, uri: str | None) -> list[str]:
    """What to look at and what to run next; without a store (None) there is nothing to open in MLflow."""
    from resbench.harness.invocation import command, store_options

    commands = ({} if uri is None else {command("ui", *store_options(uri)): "compare single runs in MLflow"}) | {
        command("sweep", "plan", "streams"): "what a larger comparison would cost",
        command("list"): "schemes, tasks and sizes",
    }
    width = max(map(len, commands))
    return [f"Open {page}", "Next:", *(f"  {typed:<{width}}  {why}" for typed, why in commands.items())]


def studies(runs: pd.DataFrame) -> list[str]:
    """The studies of a table of runs, the one with the latest run first."""
    latest = runs.groupby("study")["started"].max().sort_values(ascending=False, kind="stable")
    return [str(name) for name in latest.index]


def choose_study(runs: pd.DataFrame, study: str | None, uri: str) -> str:
    """The study asked for, or the latest one that has final runs. Raises ValueError that says what there is, or what to run first."""
    from resbench.results.runs import FINAL

    known = studies(runs)
    if not known:
        raise ValueError(
            f"no runs in {uri}. Make some first: resbench sweep run sweeps/demo.yaml (or give --tracking-uri or --output-dir)"
        )
    if study is None:
        return next(iter(studies(runs[runs["phase"] == FINAL])), known[0])
    if study not in known:
        raise ValueError(f"no study {study!r} in {uri}. Studies there: {', '.join(known)}")
    return study


def folder_name(study: str) -> str:
    """A study's name as a folder's: anything that could leave the parent folder or trouble a file system becomes `-`."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", study).strip(".-") or "study"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="resbench leaderboard", description="Turn runs into a leaderboard.")
    commands = parser.add_subparsers(title="commands", required=True)
    command = commands.add_parser(
        "build",
        help="build the page, the tables and the figures of a study",
        description="Read a study's runs from MLflow, or from exported files (the same ones give the same bytes everywhere), and write a static "
        "site (index.html, schemes/, method.html), leaderboard.{md,json,csv}, configs/ and figures/; print the table.",
    )
    command.add_argument("--study", metavar="NAME", help="sweep (or experiment) to build; default: the latest")
    add_source_options(command.add_argument)
    command.add_argument("--out", metavar="DIR", help="where to write; default: OUTPUT_DIR/leaderboard/STUDY")
    command.add_argument(
        "--conformance",
        metavar="FILE",
        nargs="+",
        type=Path,
        default=[],
        help="files that `resbench check-scheme NAME --json FILE` wrote: badges in the table",
    )
    command.add_argument(
        "--verification",
        metavar="FILE",
        nargs="+",
        type=Path,
        default=[],
        help="records that `resbench leaderboard verify` wrote: which rows a rerun agreed with",
    )
    command.add_argument(
        "--margin",
        metavar="NATS",
        type=_positive,
        help="largest difference in loss that counts as none, for the equivalence tests (default: 0.01 nats/token)",
    )
    add_submission_commands(commands)
    add_publish_command(commands)
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: expected a positive number of nats per token, such as 0.01")
    return value
