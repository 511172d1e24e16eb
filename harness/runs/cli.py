"""``resbench runs list | export | import | delete``."""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from resbench.harness.invocation import command, store_options

if TYPE_CHECKING:
    from rich.console import Console

    from resbench.harness.runs.select import Found, Selection

_SHOWN = 20


def main(argv: Sequence[str] | None = None) -> int:
    """Run a `resbench runs` command. Raises ValueError or OSError for what the user can put right."""
    arguments = _parser().parse_args(argv)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from resbench.harness.runs.select import Selection
    from resbench.harness.store import default_tracking_uri

    uri = arguments.tracking_uri or default_tracking_uri(arguments.output_dir)
    if arguments.command == "import":
        return _import(arguments.file, uri, arguments.replace)
    selection = Selection(arguments.runs, arguments.study, arguments.outcome)
    if arguments.command == "list":
        return _list(uri, selection)
    if arguments.command == "export":
        return _export(uri, selection, arguments.file, int(arguments.max_artifact_mib * 2**20), arguments.placeless)
    return _delete(uri, selection, arguments.yes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="resbench runs", description="List runs, move them between stores, delete them."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="{list,export,import,delete}")
    for name, summary in (
        ("list", "what is in a store"),
        ("export", "write runs to one file: parameters, metrics with their history, tags, datasets, small artifacts"),
        ("import", "read such a file into a store; doing it twice changes nothing"),
        ("delete", "delete runs (MLflow keeps them restorable); says what it would delete, and does it with --yes"),
    ):
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        add = command.add_argument
        if name in ("export", "import"):
            add("file", metavar="FILE", type=Path, help="the run file, such as study.zip")
        if name == "import":
            add("--replace", action="store_true", help="runs that the store has with another content: take the file's")
        else:
            add("runs", metavar="RUN_ID", nargs="*", help="these runs only")
            add(
                "--study",
                metavar="NAME",
                action="append",
                default=[],
                help="runs of this sweep or experiment; repeatable",
            )
            add(
                "--outcome",
                metavar="OUTCOME",
                action="append",
                default=[],
                help="complete, diverged, oom, pruned, failed or running; repeatable",
            )
        if name == "export":
            add(
                "--max-artifact-mib",
                metavar="MIB",
                type=float,
                default=10.0,
                help="larger artifacts stay behind (default: %(default)g)",
            )
            add(
                "--placeless",
                action="store_true",
                help="leave out every parameter and tag that is a path or address on this machine, for files to publish",
            )
        if name == "delete":
            add("--yes", action="store_true", help="do it")
        add(
            "--tracking-uri",
            metavar="URI",
            help="MLflow store (default: MLFLOW_TRACKING_URI, or SQLite in the output folder)",
        )
        add("--output-dir", metavar="DIR", default="runs", help="where that SQLite store is (default: %(default)s)")
    return parser


def _console() -> "Console":
    """As wide as the terminal, and wide enough for whole lines where there is none."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 200)


def _list(uri: str, selection: "Selection") -> int:
    from resbench.harness.runs.select import find
    from resbench.harness.store import open_store

    found = find(open_store(uri, must_exist=True), selection)
    _print(_console(), found)
    return 0


def _export(uri: str, selection: "Selection", path: Path, artifact_limit: int, placeless: bool) -> int:
    from resbench.harness.runs.export import export_runs
    from resbench.harness.runs.select import find, outcome_of
    from resbench.harness.store import open_store

    client = open_store(uri, must_exist=True)
    found = find(client, selection)
    under_way = [item for item in found if item.run.info.status in ("RUNNING", "SCHEDULED")]
    if not selection.ids:  # a run that is still written to would be another one in an hour
        found = [item for item in found if item not in under_way]
    if not found:
        raise ValueError(
            f"nothing to export from {uri}: no run that has ended is selected ({len(under_way)} are running)"
        )
    exported = export_runs(client, found, path, artifact_limit, placeless=placeless)
    ended = Counter(outcome_of(item.run) for item in found)
    print(
        f"{path}: {exported.runs} runs ({_tally(ended)}), {exported.artifacts} artifacts, {_size(path.stat().st_size)}"
    )
    if under_way and not selection.ids:
        print(f"{len(under_way)} runs that are under way were not exported; name one by its id to export it as it is")
    if exported.left_out:
        artifacts = [f"{name} ({why})" for names in exported.left_out.values() for name, why in names.items()]
        print(f"{len(artifacts)} artifacts stayed behind, such as {artifacts[0]}")
    print(f"Next, where the runs should go:\n  {command('runs', 'import', str(path))}")
    return 0


def _import(path: Path, uri: str, replace: bool) -> int:
    from resbench.harness.runs.archive import Archive
    from resbench.harness.runs.restore import import_runs
    from resbench.harness.store import open_store

    with Archive(path) as archive:
        client = open_store(uri)
        result = import_runs(client, uri, archive, replace=replace)
        studies = sorted({record.tags.get("study", record.experiment) for record in archive.records.values()})
    print(f"{path} into {uri}:")
    print(f"  {len(result.new)} new, {len(result.known)} already there, {len(result.replaced)} replaced")
    if result.differing:
        print(
            f"  {len(result.differing)} are there with another content and were left alone, such as run {result.differing[0]}; "
            "--replace takes the file's"
        )
    print("Next:")
    for study in studies:
        print(f"  {command('leaderboard', 'build', '--study', study, *store_options(uri))}")
    return 1 if result.differing else 0


def _delete(uri: str, selection: "Selection", yes: bool) -> int:
    from resbench.harness.runs.select import find
    from resbench.harness.store import open_store

    if selection.everything:
        raise ValueError("which runs? Give run ids, --study or --outcome")
    client = open_store(uri, must_exist=True)
    found = find(client, selection)
    console = _console()
    _print(console, found)
    if not found:
        return 0
    if not yes:
        print(f"Nothing is deleted yet: the same command with --yes deletes these {len(found)} runs.")
        return 1
    for item in found:
        client.delete_run(item.run.info.run_id)
    print(
        f"{len(found)} runs deleted. Until `mlflow gc` removes them for good, `mlflow runs restore --run-id ID` brings one back."
    )
    return 0


def _print(console: "Console", found: Sequence["Found"]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from resbench.harness import names
    from resbench.harness.runs.select import outcome_of, study_of

    if not found:
        console.print("no runs")
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("run", no_wrap=True)
    for heading in ("study", "name", "outcome", "started"):
        table.add_column(heading, no_wrap=True, overflow="ellipsis")
    table.add_column("val loss", justify="right", no_wrap=True)
    shown = found if len(found) <= _SHOWN or not console.is_terminal else found[-_SHOWN:]
    for item in shown:
        run = item.run
        loss = run.data.metrics.get(names.VAL_LOSS)
        started = datetime.fromtimestamp((run.info.start_time or 0) / 1000).strftime("%Y-%m-%d %H:%M")
        cells = (run.info.run_id, study_of(run, item.experiment), run.info.run_name or "", outcome_of(run), started)
        table.add_row(*(Text(cell) for cell in cells), "" if loss is None else f"{loss:.4f}")
    if len(shown) < len(found):
        console.print(f"... {len(found) - len(shown)} older runs (all of them in a pipe: resbench runs list | less)")
    console.print(table)
    console.print(f"{len(found)} runs: {_tally(Counter(outcome_of(item.run) for item in found))}", highlight=False)


def _tally(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {word}" for word, number in sorted(counts.items()))


def _size(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 1024:.0f} KiB"
