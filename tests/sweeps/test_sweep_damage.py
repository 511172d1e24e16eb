"""What happens where many machines work together, done for real: workers killed, servers restarted, clocks that differ, a disk that is full.

Training is stood in for; processes, claims, heartbeats, PostgreSQL and MLflow are real. Every planned run ends exactly once, no two processes
ever train the same one, and the results are those of an undisturbed `sweep run`.
"""

import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sweep_stand_ins
from mlflow import MlflowClient
from mlflow_server import MlflowServer
from postgres_server import Postgres
from sweep_stand_ins import SWEEP, losses

from resbench.sweeps.database import open_shared, storage_url
from resbench.sweeps.queue import RunQueue

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

Work = Callable[..., "subprocess.Popen[bytes]"]
PATIENCE_S = 400.0  # where everything works it takes a tenth of this; a machine may have other things to do
HOUR = 3600
CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static long ahead(void) { return atol(getenv("AHEAD_S")); }
int clock_gettime(clockid_t clock, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += ahead();
    return failed;
}
int gettimeofday(struct timeval *now, void *zone) {
    int (*real)(struct timeval *, void *) = dlsym(RTLD_NEXT, "gettimeofday");
    int failed = real(now, zone);
    if (!failed) now->tv_sec += ahead();
    return failed;
}
time_t time(time_t *seconds) {
    time_t (*real)(time_t *) = dlsym(RTLD_NEXT, "time");
    time_t now = real(NULL) + ahead();
    if (seconds) *seconds = now;
    return now;
}
"""


@pytest.fixture
def work(output_dir: Path, database: Postgres) -> Iterator[Work]:
    """Start workers, each a process group of its own; whatever is left of them is killed in the end."""
    started: list[subprocess.Popen[bytes]] = []
    log = (output_dir / "workers.log").open("ab")

    def start(file: Path, *options: str, target: str = "train_briefly", **environment: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, sweep_stand_ins.__file__, str(file), str(output_dir), "--storage", database.url]
        command += ["--target", f"sweep_stand_ins:{target}", *options]
        into = {"stdout": log, "stderr": log, "cwd": output_dir, "env": {**os.environ, **environment}}
        started.append(subprocess.Popen(command, start_new_session=True, **into))  # type: ignore[call-overload]
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    log.close()


@pytest.fixture(scope="module")
def running_server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[MlflowServer]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_store, folder / "mlflow.db")
    found = MlflowServer(folder)
    found.start()
    yield found
    found.kill()


@pytest.fixture
def server(running_server: MlflowServer) -> MlflowServer:
    if not running_server.answers():
        running_server.kill()
        running_server.start()
        running_server.wait()
    return running_server


def sweep(folder: Path, name: str, *, seeds: int, trials: int = 0, stand_in: str = "{}") -> Path:
    """A file of 5 cells with so many seeds and search trials each."""
    search = f"""
search:
  trials: {trials}
  seed: 77
  space: {{model.learning_rate: {{low: 1e-4, high: 1.0, log: true}}}}
  sampler: random
"""
    text = SWEEP.format(more=search if trials else "", model=f", stand_in: {stand_in}")
    text = text.replace("name: stand-in", f"name: {name}").replace("seeds: [0, 1]", f"seeds: {list(range(seeds))}")
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


def runs(uri: str, study: str) -> list[Any]:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(study)
    if experiment is None:
        return []
    return [run for run in client.search_runs([experiment.experiment_id]) if "trial_key" in run.data.tags]


def until(condition: Callable[[], bool], log: Path, *alive: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        said = log.read_text()
        assert time.monotonic() < deadline, said
        assert all(process.poll() is None for process in alive), said
        time.sleep(0.1)


def ended(store: Path, study: str, number: int) -> Callable[[], bool]:
    """Whether so many runs are complete. Asked of the database itself: MLflow's answer takes longer to put together than a run."""
    count = (
        "select count(*) from experiments join runs using (experiment_id) join tags using (run_uuid)"
        " where experiments.name = ? and tags.key = 'outcome' and tags.value = 'complete'"
    )

    def enough() -> bool:
        with closing(sqlite3.connect(store, timeout=60)) as database:
            return int(database.execute(count, (study,)).fetchone()[0]) >= number

    return enough


@contextmanager
def clock(folder: Path, ahead_s: int) -> Iterator[dict[str, str]]:
    """The environment of a process whose clock is wrong by so many seconds."""
    library = folder / "clock.so"
    if not library.exists():
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            pytest.skip("there is no C compiler here")
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", library, "-ldl"], input=CLOCK, text=True, check=True
        )
    yield {"LD_PRELOAD": str(library), "AHEAD_S": str(ahead_s)}


def test_workers_are_killed_the_database_restarts_and_clocks_differ(
    database: Postgres, work: Work, output_dir: Path, tmp_path: Path, empty_store: Path
) -> None:
    """200 runs, 4 workers: two with clocks an hour off, three killed, and no database for longer than a lease lasts."""
    file = sweep(tmp_path, "damaged", seeds=20, trials=20, stand_in="{seconds: 0.1}")
    store, log = output_dir / "mlflow.db", output_dir / "workers.log"
    with clock(tmp_path, -HOUR) as behind, clock(tmp_path, HOUR) as ahead:
        workers = [work(file), work(file, **behind), work(file), work(file, **ahead)]
    survivor = workers[3]
    for number, blow in ((15, workers[0].kill), (45, database.stop), (90, workers[1].kill), (130, workers[2].kill)):
        until(ended(store, "damaged", number), log, survivor)
        blow()
        if blow == database.stop:
            time.sleep(7.0)  # workers here are dead after 5 silent seconds
            database.start()
    assert survivor.wait(timeout=PATIENCE_S) == 0, log.read_text()
    found = runs(f"sqlite:///{store}", "damaged")
    assert len(found) == 5 * (20 + 20)
    assert [path.parent.name for path in output_dir.glob("*/overlap")] == []
    begun = [run.info.start_time / 1000 for run in found]
    assert max(begun) - min(begun) > HOUR  # the clocks really differed

    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(empty_store, alone / "mlflow.db")
    sweep_stand_ins.run(file, alone, target="sweep_stand_ins:train_briefly")
    assert losses(found) == losses(runs(f"sqlite:///{alone / 'mlflow.db'}", "damaged"))


def test_the_mlflow_server_is_killed_under_two_sweeps_at_once(
    server: MlflowServer, work: Work, output_dir: Path, tmp_path: Path
) -> None:
    """Two sweeps on one database and one server: nothing lost, nothing doubled, nothing mixed."""
    files = [sweep(tmp_path, name, seeds=3, stand_in="{seconds: 0.1}") for name in ("left", "right")]
    workers = [work(file, "--tracking-uri", server.uri) for file in files]
    log = output_dir / "workers.log"
    for name in ("left", "right"):
        until(ended(server.database, name, 3), log, *workers)
    server.kill()
    time.sleep(2.0)
    assert all(worker.poll() is None for worker in workers)
    server.start()
    server.wait()
    assert [worker.wait(timeout=PATIENCE_S) for worker in workers] == [0, 0], log.read_text()
    client = MlflowClient(server.uri)
    by_study = {name: runs(server.uri, name) for name in ("left", "right")}
    for found in by_study.values():
        for run in found:
            points = client.get_metric_history(run.info.run_id, "val/loss")
            assert len({(point.step, point.value) for point in points}) == 1
    left, right = ({key.partition("/")[2]: loss for key, loss in losses(found).items()} for found in by_study.values())
    assert len(left) == 5 * 3
    assert left == right
    assert [path.parent.name for path in output_dir.glob("*/overlap")] == []


def test_a_worker_with_a_full_disk_gives_its_run_back_and_leaves(
    server: MlflowServer, database: Postgres, output_dir: Path, tmp_path: Path
) -> None:
    """The kernel refuses its trials any file beyond 16 KiB, as a full disk would; their weights take 64."""
    file = sweep(tmp_path, "full", seeds=1, stand_in="{weights: 65536}")
    command = [sys.executable, sweep_stand_ins.__file__, str(file), str(output_dir), "--storage", database.url]
    command += ["--tracking-uri", server.uri, "--target", "sweep_stand_ins:train_briefly"]
    limited = subprocess.run(
        command,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, 2**14)),
        capture_output=True,
        text=True,
        cwd=output_dir,
        timeout=PATIENCE_S,
    )
    assert limited.returncode == 2, limited.stderr
    assert "File too large" in limited.stdout
    assert "Nothing more is started here" in limited.stdout
    queue = RunQueue.existing(open_shared(storage_url(database.url)), "full")
    attempts = Counter((attempt.state.name, attempt.reason, attempt.deaths) for attempt in queue.latest().values())
    assert attempts == {("WAITING", "", 0): 4, ("FAIL", "", 0): 1}  # given back: neither failed nor a death
    target = "sweep_stand_ins:train_briefly"
    healthy = sweep_stand_ins.work(file, output_dir, database.url, tracking_uri=server.uri, target=target)
    assert healthy.outcomes == {"complete": 5}
    assert len(losses(runs(server.uri, "full"))) == 5
