"""Driving a headless Chromium and an MLflow server on this machine, for the README's pictures and for tests."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
)
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
SERVER_START_S = 90.0


def missing() -> str | None:
    """What keeps a browser from being driven here, in a sentence; None if nothing does."""
    if not any(shutil.which(name) for name in CHROMIUM_NAMES):
        return "no Chromium on PATH: install chromium (Debian: apt-get install chromium)"
    if not shutil.which("chromedriver"):
        return "no chromedriver on PATH: install it (Debian: apt-get install chromium-driver)"
    if importlib.util.find_spec("selenium") is None:
        return "selenium is not installed: pip install 'resbench[dev]'"
    return None


@contextmanager
def chromium(width: int = 1440, height: int = 1000, *, dark: bool = False) -> Iterator[Chrome]:
    """A headless Chromium with a fresh profile, its window `width` x `height` CSS pixels; closed on leaving.

    Console messages are kept (`driver.get_log("browser")`) and so are network events (`driver.get_log("performance")`).
    Raises ImportError or FileNotFoundError, saying what to install, when something is missing.
    """
    reason = missing()
    if reason:
        raise (ImportError if "selenium" in reason else FileNotFoundError)(reason)
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    with TemporaryDirectory(prefix="resbench-chromium-", ignore_cleanup_errors=True) as profile:
        options = Options()
        options.binary_location = next(path for name in CHROMIUM_NAMES if (path := shutil.which(name)))
        for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            # A window cannot be made as narrow as a phone; emulation sets the viewport itself.
            metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
            yield driver
        finally:
            driver.quit()


@contextmanager
def mlflow_server(tracking_uri: str) -> Iterator[str]:
    """MLflow's web interface for a store, on a free loopback port; yields its address and stops it on leaving.

    Raises TimeoutError, with the end of the server's output, if it does not answer in time.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        tracking_uri,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with TemporaryDirectory(prefix="resbench-mlflow-", ignore_cleanup_errors=True) as folder:
        log = Path(folder) / "server.log"
        environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with log.open("wb") as output:
            server = subprocess.Popen(
                [*command, "--workers", "1"],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=environment,
                start_new_session=True,
            )
        try:
            _wait_until_healthy(server, address, log)
            yield address
        finally:
            _stop(server)


def _wait_until_healthy(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + SERVER_START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise TimeoutError(f"the MLflow server at {address} did not start: {log.read_text(errors='replace')[-2000:]}")


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the server with the workers it started, which share its process group."""
    for ending in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, ending)
            server.wait(timeout=10)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
