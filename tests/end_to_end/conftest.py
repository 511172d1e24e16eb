"""Whole commands in processes of their own, as a user types them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from resbench.harness.scaffold import write_package

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def plugin_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip installed what `resbench new-scheme damped` wrote, as it would into site-packages."""
    work = tmp_path_factory.mktemp("plugin")
    write_package("scheme", "damped", work / "package")
    pip_install(work / "site", str(work / "package"))
    return work / "site"


def pip_install(site: Path, what: str) -> None:
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*install, "--target", str(site), what], check=True, timeout=240)


@pytest.fixture(scope="session")
def resbench() -> Command:
    """Run ``resbench ARGS`` in a process; ``site`` puts folders on the import path."""

    def run(
        *arguments: str, site: Path | None = None, cwd: Path | None = None, timeout: float = 280
    ) -> subprocess.CompletedProcess[str]:
        environment = dict(os.environ)
        if site is not None:
            environment["PYTHONPATH"] = str(site)
        command = [str(Path(sys.executable).parent / "resbench"), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=cwd, timeout=timeout, stdin=subprocess.DEVNULL
        )

    return run
