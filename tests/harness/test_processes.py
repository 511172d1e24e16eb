"""Processes that start and end without doing what nobody needs."""

import gc
import subprocess
import sys
import types

import pytest

from resbench.harness.processes import _unless_asked_for, importing


def python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)


END = """
import atexit, sys, threading, time
from resbench.harness.processes import end_quickly

class Slow:
    def __del__(self):
        print("taken down")

def program():
    atexit.register(print, "handled")
    threading.Thread(target=lambda: (time.sleep(0.2), print("thread done"))).start()
    sys.kept = Slow()
    print("written")
    {how}

sys.exit(end_quickly(program))
"""


@pytest.mark.parametrize(("how", "code"), [("return 0", 0), ("return 3", 3), ("sys.exit(75)", 75), ("sys.exit()", 0)])
def test_a_program_ends_with_its_code_after_its_threads_and_exit_handlers(how: str, code: int) -> None:
    ended = python(END.format(how=how))
    assert ended.returncode == code
    assert ended.stdout.split("\n") == ["written", "thread done", "handled", ""]


@pytest.mark.parametrize(("how", "said"), [("1 / 0", "ZeroDivisionError"), ("sys.exit('so there')", "so there")])
def test_a_program_that_fails_ends_as_ever(how: str, said: str) -> None:
    ended = python(END.format(how=how))
    assert ended.returncode == 1
    assert said in ended.stderr
    assert "handled" in ended.stdout


def test_output_that_nobody_reads_is_no_crash() -> None:
    program = END.format(how="return 0").replace('"written"', '"x" * 200_000')
    quoted = program.replace("'", "'\\''")
    piped = subprocess.run(
        ["bash", "-c", f"'{sys.executable}' -c '{quoted}' | head -c 1"], capture_output=True, text=True, timeout=60
    )
    assert piped.stdout == "x"


def test_a_module_is_imported_when_something_in_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with _unless_asked_for("colorsys", has=("hamming",)):
        import colorsys

        assert hasattr(colorsys, "hamming")
        assert not hasattr(colorsys, "__path__")
        early = colorsys
        assert not isinstance(getattr(early, "__file__", None), str)
    assert "colorsys" not in sys.modules  # nobody wanted it, and later it is there for who does
    assert early.rgb_to_hsv(1, 1, 1) == (0.0, 0.0, 1)
    assert isinstance(sys.modules["colorsys"], types.ModuleType)
    assert not hasattr(sys.modules["colorsys"], "hamming")
    with _unless_asked_for("colorsys", has=("hamming",)):
        assert not hasattr(sys.modules["colorsys"], "hamming")  # it is there: no stand-in


def test_what_fit_imports_and_in_which_order() -> None:
    program = """
import gc, sys
from resbench.harness.cli import _load
_load("fit", for_good=True)
assert gc.isenabled() and gc.get_freeze_count() > 100_000
assert "resbench.harness.fit" in sys.modules
assert not {"scipy.signal", "torch.distributed.checkpoint"} & sys.modules.keys()
order = list(sys.modules)
assert max(map(order.index, ["resbench.kernels.ops.boundary", "torch._dynamo"])) < order.index("lightning")
import scipy.signal
print(scipy.signal.windows.hamming(1))
"""
    done = python(program)
    assert done.stdout == "[1.]\n", done.stderr


def test_the_collector_is_as_it_was() -> None:
    frozen = gc.get_freeze_count()
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with importing():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
    assert gc.get_freeze_count() == frozen
