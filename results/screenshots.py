"""The README's pictures, taken anew: the leaderboard's index and a scheme's page, and, from a store, MLflow's comparison of one run per scheme.

python -m resbench.results.screenshots --from results/published/demo/runs.zip --study demo --out docs
python -m resbench.results.screenshots --tracking-uri sqlite:///runs/mlflow.db --study demo --out docs
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import quote

from resbench.harness import names
from resbench.harness.errors import one_screen
from resbench.results.browser import chromium, mlflow_server
from resbench.results.leaderboard import Leaderboard, make_leaderboard
from resbench.results.publish import PAGE, Rules, files_of, write_files
from resbench.results.ranking import REFERENCE
from resbench.results.runs import load_runs
from resbench.results.site.environment import scheme_link
from resbench.results.source import open_source
from resbench.results.tracks import load_tracks, place

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

WAIT_S = 60.0
MOST_RUNS = 6
"""Runs shown in the comparison: more lines cannot be told apart in a picture."""


def picture_leaderboard(page: Path, target: Path, *, width: int = 1440, height: int = 1280) -> None:
    """A PNG of the top of one of a leaderboard's pages, `width` x `height` CSS pixels."""
    with chromium(width, height) as driver:
        driver.get(page.resolve().as_uri())
        driver.save_screenshot(str(target))


def picture_comparison(
    tracking_uri: str, run_ids: Sequence[str], target: Path, *, width: int = 1500, height: int = 760
) -> None:
    """A PNG of MLflow's own page that compares the validation loss of the given runs of one experiment."""
    from resbench.harness.store import open_store

    experiment = open_store(tracking_uri, must_exist=True).get_run(run_ids[0]).info.experiment_id
    with mlflow_server(tracking_uri) as address, chromium(width, height) as driver:
        leave_panels_closed(driver, address)
        driver.get(address + metric_page(experiment, run_ids, [names.VAL_LOSS]))
        wait_for(
            driver, f"return document.querySelectorAll('.js-plotly-plot .scatterlayer .trace').length >= {len(run_ids)}"
        )
        driver.execute_script("document.querySelector('[aria-label=\"Toggle sidebar\"]')?.click()")
        time.sleep(1.5)  # plotly moves things once more after its first drawing
        driver.save_screenshot(str(target))


def metric_page(experiment: str, run_ids: Sequence[str], metrics: Sequence[str]) -> str:
    """The path, within MLflow's interface, of the page that draws metrics of several runs against the step."""
    query = {
        "runs": list(run_ids),
        "metric": metrics[0],
        "experiments": [experiment],
        "plot_metric_keys": list(metrics),
        "plot_layout": {"autosize": True},
        "deselected_curves": [],
        "last_linear_y_axis_range": [],
    }
    written = "&".join(f"{key}={quote(json.dumps(value))}" for key, value in query.items())
    return f"/#/metric?{written}&x_axis=step&y_axis_scale=linear&line_smoothness=0&show_point=false"


def compare_page(experiment: str, run_ids: Sequence[str]) -> str:
    """The path, within MLflow's interface, of the page that compares several runs."""
    return f"/#/compare-runs?runs={quote(json.dumps(list(run_ids)))}&experiments={quote(json.dumps([experiment]))}"


def leave_panels_closed(driver: Chrome, address: str) -> None:
    """Tell MLflow's interface, before it is first opened, not to open its assistant over a quarter of the window."""
    driver.get(f"{address}/health")
    for key, value in {"fab.autoOpenedOnFirstLoad_v1": "true", "panelOpen_v1": "false"}.items():
        driver.execute_script("localStorage.setItem(arguments[0], arguments[1])", f"mlflow.assistant.{key}", value)


def wait_for(driver: Chrome, script: str, seconds: float = WAIT_S) -> None:
    """Wait until a script returns something true. Raises TimeoutError, with the page's text, when it does not in time."""
    deadline = time.monotonic() + seconds
    while not driver.execute_script(script):
        if time.monotonic() > deadline:
            text = driver.execute_script("return document.body.innerText")
            raise TimeoutError(f"after {seconds:.0f} s still not: {script}\nThe page says: {str(text)[:1000]}")
        time.sleep(0.2)


def runs_to_compare(leaderboard: Leaderboard) -> list[str]:
    """Ids of one run per scheme, of the last comparison group (the largest size) and one seed that all of them completed."""
    _, cells = leaderboard.groups[-1]
    complete = [cell for cell in cells if cell.run_ids][:MOST_RUNS]
    if not complete:
        raise ValueError(
            f"study {leaderboard.study!r} has no complete run in its last comparison group: nothing to compare"
        )
    common = set.intersection(*(set(cell.run_ids) for cell in complete))
    return [cell.run_ids[min(common or cell.run_ids)] for cell in complete]


def main(argv: Sequence[str]) -> int:
    """Write `leaderboard.png` and `scheme.png`, and `mlflow-compare.png` if the runs are in a store; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m resbench.results.screenshots",
        description="Take the README's pictures from a store or an exported file.",
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--tracking-uri", metavar="URI")
    where.add_argument("--from", dest="file", type=Path, metavar="FILE", help="a file of `resbench runs export`")
    parser.add_argument("--study", required=True, metavar="NAME")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    source, tracks = open_source(arguments.file or arguments.tracking_uri), load_tracks()
    placed = place(load_runs(source, arguments.study), source, tracks)
    leaderboard = make_leaderboard(placed.runs, arguments.study)
    shown = next((cell.scheme for cell in leaderboard.cells if not cell.is_reference), REFERENCE)
    with TemporaryDirectory(prefix="resbench-pictures-") as folder:
        site = Path(folder)
        write_files(site, files_of(leaderboard, source, Rules(tracks, placed.reasons)))
        picture_leaderboard(site / PAGE, arguments.out / "leaderboard.png", height=1790)
        preferred = "mhc" if any(cell.scheme == "mhc" for cell in leaderboard.cells) else shown
        picture_leaderboard(
            site / scheme_link(preferred, "").href, arguments.out / "scheme.png", width=1200, height=1500
        )
    if arguments.tracking_uri:
        picture_comparison(arguments.tracking_uri, runs_to_compare(leaderboard), arguments.out / "mlflow-compare.png")
    return 0


if __name__ == "__main__":
    with one_screen():
        sys.exit(main(sys.argv[1:]))
