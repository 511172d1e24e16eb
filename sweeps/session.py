"""One invocation of `sweep run`: the store, the books, the check that this is still the same sweep, the runs, and what to do next."""

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from resbench.harness.invocation import command, store_options
from resbench.harness.store import default_tracking_uri, experiment_id, open_store, sqlite_path
from resbench.sweeps.agenda import Agenda
from resbench.sweeps.ahead import Ahead
from resbench.sweeps.changes import compare, refusal
from resbench.sweeps.deadline import Deadline
from resbench.sweeps.estimate import throughput
from resbench.sweeps.keeper import Keeper, mark, marked, shut_out
from resbench.sweeps.keeper import refusal as keeper_refusal
from resbench.sweeps.ledger import Ledger
from resbench.sweeps.machine import Machine
from resbench.sweeps.patience import Patience
from resbench.sweeps.patient_ledger import PatientLedger
from resbench.sweeps.plan import Plan
from resbench.sweeps.progress import duration
from resbench.sweeps.run import FIT, Runner, Summary
from resbench.sweeps.search_figures import log_search_figures
from resbench.sweeps.table import totals


def run_plan(
    plan: Plan,
    *,
    file_text: str,
    folder: Path,
    output_dir: Path,
    tracking_uri: str | None,
    machine: Machine,
    extend: bool = False,
    take_over: bool = False,
    brought: Path | None = None,
    console: Console | None = None,
    target: str = FIT,
    time_limit_s: float | None = None,
    daring: bool = True,
    ahead: Ahead | None = None,
) -> Summary:
    """Run what is left of a sweep. The caller holds its lock (`resbench.sweeps.lock`) and has warmed up the fork server.

    folder: the sweep's own, for logs and configurations. ``target`` names the function that trains, ``module:function`` with the signature of
    `resbench.harness.fit.fit`; it is imported in every trial process. ``time_limit_s``: start no run that would not end within so many
    seconds; ``daring``: but for the first one, if its like has never been measured.
    ahead: compiles what the runs need before the first one starts, in the same time.

    take_over: go on with what somebody else kept, see `resbench.sweeps.keeper`. brought: the folder that its runs and searches were brought
    from, by whoever kept them.

    Raises ValueError if the sweep was started with other settings, or its databases do not belong together.
    """
    console = console or Console()
    spec = plan.spec
    uri = tracking_uri or default_tracking_uri(output_dir)
    ledger = open_ledger(uri, spec.name)
    keeper = Keeper.here("run", str(output_dir))
    if brought is None:
        _same_keeper(ledger, keeper, folder, bool(spec.search), take_over)
    started = ledger.started_with()
    if started is not None:
        changes = compare(started, plan.record())
        refused = refusal(spec.name, changes, extend)
        if refused:
            raise ValueError(refused)
        if changes.additions:
            console.print(f"Extending {spec.name}: " + "; ".join(changes.additions), highlight=False)
    mark(folder, ledger.begin(output_dir, file_text, plan, keeper))
    agenda = Agenda(plan, ledger, f"sqlite:///{output_dir / 'optuna.db'}")
    measured = ledger.measured()
    expected = throughput(plan, measured, machine.threads, machine.gpus)
    done = len(ledger.results(plan))
    for line in totals(plan, expected, machine.workers):
        console.print(line, highlight=False, soft_wrap=True)
    if started is not None:
        console.print(f"Going on: {done} of {plan.runs} runs have their result.", highlight=False)
    runner = Runner(
        plan,
        ledger,
        agenda,
        folder=folder,
        output_dir=output_dir,
        tracking_uri=uri,
        machine=machine,
        throughput=expected,
        console=console,
        target=target,
        deadline=None if time_limit_s is None else Deadline(time_limit_s, expected, plan.cells, daring=daring),
        ahead=ahead,
    )
    with _closing(ledger):
        summary = runner.run()
        log_search_figures(ledger, agenda.searches, console)
        status = "KILLED" if summary.interrupted or summary.unfit else "FINISHED" if summary.complete else "FAILED"
        ledger.finish(status, summary.outcomes)
    _print_summary(console, plan, summary, uri, brought)
    return summary


def open_ledger(uri: str, study: str) -> Ledger:
    """The books of a study, read; its MLflow experiment is created if there is none."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    client = open_store(uri)
    ledger = PatientLedger(client, experiment_id(client, uri, study), study, Patience())
    ledger.load()
    return ledger


def measured_before(uri: str, study: str) -> list[tuple[str, float, float]]:
    """What earlier runs of a study measured (see `Ledger.measured`), without creating a store or an experiment."""
    database = sqlite_path(uri)
    if database is not None and not database.exists():
        return []
    if open_store(uri).get_experiment_by_name(study) is None:
        return []
    return open_ledger(uri, study).measured()


def _same_keeper(ledger: Ledger, newcomer: Keeper, folder: Path, searches: bool, take_over: bool) -> None:
    """Raises ValueError if the sweep is kept by workers, or by a `sweep run` in another folder or on another machine."""
    keeper = ledger.keeper()
    if keeper is None:
        return
    if keeper.by == "run":
        noted = marked(folder)
        if noted == ledger.parent_id or (noted is None and keeper.same_as(newcomer)):
            return
    if refused := keeper_refusal(ledger.study, keeper, newcomer, searches=searches, take_over=take_over):
        raise ValueError(refused)
    shut_out(ledger.study, keeper)


@contextmanager
def _closing(ledger: Ledger) -> Iterator[None]:
    """A sweep that ends through an error must not look as if it were still running."""
    try:
        yield
    except BaseException:
        ledger.finish("KILLED", {})
        raise


def _print_summary(console: Console, plan: Plan, summary: Summary, uri: str, brought: Path | None) -> None:
    def say(text: str = "", style: str | None = None) -> None:
        console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)

    ended = ", ".join(f"{number} {outcome}" for outcome, number in sorted(summary.outcomes.items())) or "none"
    say()
    say(
        f"{sum(summary.outcomes.values())} of {plan.runs} runs have a result ({ended}) after {duration(summary.seconds)}.",
        "bold",
    )
    for cell, values in summary.winners.items():
        say(f"best of {cell}: " + ", ".join(f"{key} {_short(value)}" for key, value in values.items()))
    if summary.unfit:
        say(f"This machine cannot go on: {summary.unfit}", "red")
    if summary.out_of_time:
        if summary.stuck_s:
            say(
                f"No run ended in time, one is expected to take {duration(summary.stuck_s)}: give a longer --time-limit or smaller runs. If that "
                "expectation is wrong, state `flops_per_s` in the sweep file.",
                "red",
            )
            return
        say("Out of time, with more to do: run the same command again to go on.", "yellow")
        return
    if summary.interrupted or summary.unfit:
        say(
            "Stopped. Run the same command again to go on; unfinished runs continue from their last checkpoint.",
            "yellow",
        )
        return
    if summary.failures:
        say(f"{len(summary.failures)} failed:", "red")
        for title, reason in summary.failures.items():
            say(f"  {title}: {reason}")
        say("The same command tries the failed runs again and leaves the others alone.", "yellow")
    say("Next:")
    if brought is not None:  # this machine's store has the rest of them as sketches
        say(
            f"  {command('leaderboard', 'build', '--study', plan.spec.name)} --from {shlex.quote(str(brought))}/runs-*.zip"
        )
        return
    say(f"  {command('leaderboard', 'build', '--study', plan.spec.name, *store_options(uri))}")
    say(f"  {command('ui', *store_options(uri))}")


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
