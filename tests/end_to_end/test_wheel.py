"""The wheel holds what a run needs, from any directory, and shares site-packages with Hugging Face's `kernels`."""

import importlib.metadata
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the tracked files alone: what is only lying about must not be needed."""
    work = tmp_path_factory.mktemp("wheel")
    archive = work / "tree.tar"
    subprocess.run(["git", "archive", "--format=tar", "-o", str(archive), "HEAD"], cwd=ROOT, check=True)
    source = work / "source"
    source.mkdir()
    subprocess.run(["tar", "-xf", str(archive), "-C", str(source)], check=True)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(work), str(source)]
    subprocess.run(build, check=True, capture_output=True, timeout=240)
    return next(work.glob("*.whl"))


def test_the_wheel_holds_the_package_and_its_data(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"resbench"}
    folders = {name.split("/")[1] for name in names if name.startswith("resbench/")}
    assert folders == {"architectures", "harness", "kernels", "results", "sweeps", "tasks"}
    assert {"resbench/sweeps/demo.yaml", "resbench/results/tracks.yaml"} <= set(names)
    assert any(name.startswith("resbench/results/templates/") for name in names)
    assert "resbench/harness/templates/scheme/module.py.template" in names
    assert not any("published" in name for name in names)


@pytest.mark.slow
def test_it_works_elsewhere_beside_hugging_face_kernels(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(site),
        str(wheel),
    ]
    subprocess.run(pip, check=True, timeout=240)
    theirs = importlib.metadata.distribution("kernels")
    code = (
        "import kernels, resbench.kernels.functional as ours, resbench.architectures.registry as registry\n"
        f"assert ours.__file__.startswith({str(site)!r}), ours.__file__\n"
        f"assert str(kernels.__file__).startswith({str(theirs.locate_file('kernels'))!r}), kernels.__file__\n"
        "assert registry.resolve('scheme', 'mhc').__name__ == 'ManifoldHyperConnections'\n"
        "from resbench.harness.cli import main\n"
        "raise SystemExit(main(['list']))\n"
    )
    listed = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert listed.returncode == 0, listed.stderr
    assert "mhc" in listed.stdout
