"""`resbench sweep piece`: one bounded piece of one or several sweeps, on a machine that may be fresh, with all that is known in one folder.

The state folder has a file of `resbench runs export` for each piece, ``runs-0001.zip`` and so on, with the runs that got their result in it; the
searches, ``optuna.db``; and what each sweep consists of, ``SWEEP.plan.json``. A piece takes them up, runs the sweeps in the order given until its
time is over, and adds its own file. A run that was cut short does not travel and is run again. Each file is put in place in one step, and the
searches first, which may know more than the runs, so that the folder is whole at any moment; whoever reads results reads all its ``runs-*.zip``.
"""

import argparse
import json
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from resbench.harness.runs.archive import Archive
from resbench.harness.runs.export import export_runs
from resbench.harness.runs.restore import ORIGIN, import_runs
from resbench.harness.runs.select import Selection, find, outcome_of
from resbench.harness.store import default_tracking_uri, open_store
from resbench.sweeps.ahead import Ahead
from resbench.sweeps.changes import compare, refusal
from resbench.sweeps.deadline import EX_TEMPFAIL
from resbench.sweeps.ledger import RESULTS
from resbench.sweeps.lock import sweep_lock
from resbench.sweeps.machine import Machine
from resbench.sweeps.plan import Plan
from resbench.sweeps.run import FIT, Summary
from resbench.sweeps.session import run_plan

SEARCHES = "optuna.db"
SHORTEST_S = 20.0
"""Seconds below which another sweep is not begun."""
DARING = 0.75
"""Share of a piece's time that has to be left for a sweep to start with a run of unknown duration."""
ARTIFACT_LIMIT = 2**20
"""Bytes; larger artifacts do not travel."""


def run_piece(
    plans: Sequence[tuple[Plan, str, Machine]],
    state: Path,
    output_dir: Path,
    time_limit_s: float,
    *,
    target: str = FIT,
    ahead: Ahead | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Take up the state, run the plans (each with its file's text and what its trials may use) until the time is over, and write the state.

    Returns 0 when every run of every plan has its result, 75 if there is more to do, 1 if a run failed or none fits in the time.
    Raises what `run_plan` and `import_runs` raise; the state is then as it was.
    """
    begun = clock()
    output_dir.mkdir(parents=True, exist_ok=True)
    state.mkdir(parents=True, exist_ok=True)
    uri = default_tracking_uri(output_dir)
    for plan, _, _ in plans:
        _same_plan(state, plan)
    known = restore(state, output_dir, uri)
    codes: list[int] = []
    try:
        for plan, text, machine in plans:
            left = time_limit_s - (clock() - begun)
            if left < SHORTEST_S and codes:
                codes.append(EX_TEMPFAIL)
                break
            folder = output_dir / "sweeps" / plan.spec.name
            with sweep_lock(folder):
                summary = run_plan(
                    plan,
                    file_text=text,
                    folder=folder,
                    output_dir=output_dir,
                    tracking_uri=uri,
                    machine=machine,
                    target=target,
                    time_limit_s=left,
                    daring=left > DARING * time_limit_s,
                    brought=state,
                    ahead=ahead,
                    extend=True,  # whether it may differ from earlier pieces was asked above
                )
            codes.append(_code(summary, first=not codes))
            if summary.interrupted and not summary.out_of_time:
                break
    finally:
        save(state, output_dir, uri, [plan.spec.name for plan, _, _ in plans], known)
    return EX_TEMPFAIL if EX_TEMPFAIL in codes else max(codes)


def _code(summary: Summary, first: bool) -> int:
    if summary.stuck_s and first:  # it had all the time there is
        return 1
    if summary.interrupted:
        return EX_TEMPFAIL
    return 0 if summary.complete else 1


def restore(state: Path, output_dir: Path, uri: str) -> set[str]:
    """Bring the runs and searches of earlier pieces to this machine; what is here already stays. Returns the origins of the runs in the state.

    Of the runs as much as it takes to go on: whoever reads results reads the state's files.
    """
    searches = output_dir / SEARCHES
    if (state / SEARCHES).exists() and not searches.exists():
        _copy_database(state / SEARCHES, searches)
    origins: set[str] = set()
    for file in sorted(state.glob("runs-*.zip")):
        with Archive(file) as archive:
            import_runs(open_store(uri), uri, archive, sketch=True)
            origins |= archive.records.keys()
    return origins


def save(state: Path, output_dir: Path, uri: str, studies: Sequence[str], known: set[str]) -> None:
    """Write the searches, and the runs with a result that are not ``known`` to be in the state already."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    if (output_dir / SEARCHES).exists():
        _copy_database(output_dir / SEARCHES, state / SEARCHES)
    client = open_store(uri)
    found = [
        item
        for item in find(client, Selection(studies=studies))
        if outcome_of(item.run) in RESULTS
        and item.run.info.run_id not in known
        and item.run.data.tags.get(ORIGIN) not in known
    ]
    if found:
        number = 1 + max((int(file.stem.partition("-")[2]) for file in state.glob("runs-*.zip")), default=0)
        export_runs(client, found, state / f"runs-{number:04d}.zip", ARTIFACT_LIMIT, placeless=True)


def _same_plan(state: Path, plan: Plan) -> None:
    """Note what the sweep consists of, or refuse if it was another in an earlier piece. New cells and seeds are welcome."""
    file = state / f"{plan.spec.name}.plan.json"
    if file.exists():
        refused = refusal(plan.spec.name, compare(json.loads(file.read_text(encoding="utf-8")), plan.record()), True)
        if refused:
            raise ValueError(f"{file}: {refused}")
    staged = file.with_name(f".{file.name}.writing")
    staged.write_text(json.dumps(plan.record(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(staged, file)


def _copy_database(source: Path, target: Path) -> None:
    """A consistent copy of a SQLite database that may be in use, put in place in one step."""
    staged = target.with_name(f".{target.name}.writing")
    staged.unlink(missing_ok=True)
    with closing(sqlite3.connect(source)) as here, closing(sqlite3.connect(staged)) as there:
        here.backup(there)
    os.replace(staged, target)


def main(arguments: argparse.Namespace) -> int:
    """The command. Raises ValueError or OSError for what the user can put right."""
    from resbench.sweeps import pool
    from resbench.sweeps.options import ahead_of, machine_of, offer_of
    from resbench.sweeps.plan import make_plan
    from resbench.sweeps.spec import find_file, load_spec

    begun = time.monotonic()
    specs = [load_spec(name, []) for name in arguments.files]
    offers = [offer_of(spec, arguments) for spec in specs]
    pool.warm_up(min(offer.threads for offer in offers))  # read once, when the fork server starts
    plans = []
    for name, spec, offer in zip(arguments.files, specs, offers, strict=True):
        plan = make_plan(spec)
        file = find_file(name)
        plans.append((plan, file.read_text(encoding="utf-8"), machine_of(offer, plan, file)))
    output_dir = Path(arguments.output_dir).expanduser().resolve()
    left = arguments.time_limit - (time.monotonic() - begun)
    code = run_piece(plans, Path(arguments.state), output_dir, left, ahead=ahead_of(arguments))
    told = {
        0: "Everything is done.",
        EX_TEMPFAIL: "There is more to do: the same command goes on, here or on a fresh machine with",
    }
    print(
        told.get(code, "Something failed: see above. What has a result is kept in") + f" {arguments.state}", flush=True
    )
    return code
