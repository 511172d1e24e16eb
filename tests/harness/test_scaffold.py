"""`resbench new-scheme`, `new-task`, `new-backbone`: packages that work as written, and names that are refused before anything is."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from resbench.architectures.registry import Kind
from resbench.harness.cli import main
from resbench.harness.scaffold import write_package

KINDS: tuple[Kind, ...] = ("scheme", "task", "backbone")


def python(*arguments: str, path: list[Path], **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python that imports from the given folders."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), **environment},
        timeout=280,
    )


@pytest.mark.slow
def test_what_is_written_passes_its_own_tests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in KINDS:
        assert main([f"new-{kind}", f"my-{kind}", str(tmp_path / kind)]) == 0
        assert f"pip install -e {tmp_path / kind}" in capsys.readouterr().out
    tests = [str(tmp_path / kind / "tests") for kind in KINDS]
    ran = python(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, path=[tmp_path / kind / "src" for kind in KINDS]
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"^2\d passed, [23] skipped", ran.stdout, re.M), ran.stdout


@pytest.mark.slow
def test_the_kernel_in_the_readme_is_an_operation_in_every_respect(tmp_path: Path) -> None:
    write_package("scheme", "mine", tmp_path / "mine")
    code = re.findall(r"```python\n(.*?)```", (tmp_path / "mine" / "README.md").read_text(), re.S)
    use = """
from torch.utils.flop_counter import FlopCounterMode

x, y, g = (torch.randn(shape, requires_grad=True) for shape in ((3, 700), (3, 700), ()))
calls = []
if triton.knobs.runtime.interpret:
    inner, kernel = kernel, {}
    class Counted(dict):
        def __missing__(self, grid):
            calls.append(grid)
            return inner[grid]
    kernel = Counted()
torch.testing.assert_close(scaled_add(x, y, g), x + g * y)
assert calls == [(3,)], calls  # 2100 elements in blocks of 1024, by Triton
torch.autograd.gradcheck(scaled_add, [t.detach().double().requires_grad_() for t in (x, y, g)], fast_mode=True)
compiled = torch.compile(lambda *a: 2 * scaled_add(*a), backend="aot_eager", fullgraph=True)
torch.testing.assert_close(compiled(x, y, g), 2 * (x + g * y))
with FlopCounterMode(display=False) as counter:
    scaled_add(x, y, g)
assert counter.get_total_flops() == 2 * 2100
"""
    (tmp_path / "kernel.py").write_text("\n".join(code) + use)
    ran = python(str(tmp_path / "kernel.py"), path=[], TRITON_INTERPRET="1")
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_the_readme_speaks_of_the_package_it_is_in(kind: Kind, tmp_path: Path) -> None:
    files = write_package(kind, "deep-thing", tmp_path / "new")
    for path in files:
        assert "$" not in path.read_text(), path
    assert (tmp_path / "new" / "src" / "resbench_deep_thing" / "__init__.py").read_text().count("class DeepThing(") == 1
    declared = (tmp_path / "new" / "pyproject.toml").read_text()
    assert f'[project.entry-points."resbench.{kind}s"]\ndeep-thing = "resbench_deep_thing:DeepThing"' in declared


def test_the_scheme_is_about_sixty_lines(tmp_path: Path) -> None:
    write_package("scheme", "mine", tmp_path)
    assert len((tmp_path / "src" / "resbench_mine" / "__init__.py").read_text().splitlines()) <= 65


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("My_Scheme", "expected a name of lower-case words joined by hyphens"),
        ("9lives", "expected a name of lower-case words"),
        ("mhc", "there is a scheme 'mhc' already, from resbench"),
        ("none", "a class called None, which is a word of Python"),
    ],
)
def test_a_name_that_cannot_be_is_refused_and_nothing_written(
    name: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["new-scheme", name, str(tmp_path / "new")])
    assert ended.value.code == 2
    assert says in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "new").exists()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit):
        main(["new-scheme", "mine", str(tmp_path)])
    assert "is not an empty directory" in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
