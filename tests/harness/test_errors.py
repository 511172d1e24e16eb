"""One screen for what a user can put right; a traceback for what is ours, or on request."""

import pytest

from resbench.architectures.registry import BrokenPlugin
from resbench.harness.errors import one_screen


def attempt(error: BaseException) -> None:
    with one_screen("resbench fit"):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        ValueError("model.x=3: expected 4"),
        FileNotFoundError("no such thing: model.x=3"),
        BrokenPlugin("model.x=3 does not import"),
        PermissionError(13, "Permission denied", "model.x=3"),
    ],
)
def test_a_users_error_is_a_message_and_exit_code_2(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        attempt(error)
    assert exit_.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("resbench fit: error: ")
    assert "model.x=3" in printed.err
    assert "Traceback" not in printed.err


def test_a_long_message_is_cut_to_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        attempt(ValueError("\n".join(f"line {i} " + "x" * 100 for i in range(500))))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) <= 25
    assert "RESBENCH_DEBUG=1" in lines[-1]


def test_faults_of_ours_pass_through() -> None:
    with pytest.raises(AssertionError):
        attempt(AssertionError("bug"))


def test_debugging_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESBENCH_DEBUG", "1")
    with pytest.raises(ValueError, match="raw"):
        attempt(ValueError("raw"))
    monkeypatch.setenv("RESBENCH_DEBUG", "0")
    with pytest.raises(SystemExit):
        attempt(ValueError("raw"))


def test_ctrl_c_is_not_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        attempt(KeyboardInterrupt())
    assert exit_.value.code == 130
    assert "Traceback" not in capsys.readouterr().err
