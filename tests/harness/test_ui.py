"""`resbench ui` opens MLflow on loopback on the right store, and Ctrl-C ends it and all its processes."""

import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from resbench.harness.fit import fit

Argv = Callable[..., list[str]]


@pytest.mark.slow
def test_it_serves_the_runs_and_ends_cleanly(argv: Argv, output_dir: Path) -> None:
    result = fit(argv("--budget.tokens=256"))
    command = [str(Path(sys.executable).parent / "resbench"), "ui", f"--output-dir={output_dir}", "--port=0"]
    ui = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert ui.stdout is not None
        line = next(line for line in ui.stdout if "http://" in line)
        url = next(word for word in line.split() if word.startswith("http://"))
        assert url.startswith("http://127.0.0.1:")
        page = fetch(f"{url}/api/2.0/mlflow/runs/get?run_id={result.run_id}", patience_s=90)
        assert '"complete"' in page
        assert "<html" in fetch(url, patience_s=5).lower()
        family = psutil.Process(ui.pid).children(recursive=True)
        assert family
        processes = [psutil.Process(ui.pid), *family]
        sockets = [c for process in processes for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
        assert {c.laddr.ip for c in sockets} == {"127.0.0.1"}
        ui.send_signal(signal.SIGINT)
        assert ui.wait(20) == 0
        assert "Traceback" not in ui.stdout.read()
        _, alive = psutil.wait_procs(family, timeout=10)
        assert alive == []
    finally:
        ui.kill()


def fetch(url: str, patience_s: float) -> str:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return str(answer.read().decode())
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)
