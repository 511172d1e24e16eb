"""The conformance suite: what any residual scheme must do, checked from small cases to large so that a failure is its own smallest reproduction.

`resbench check-scheme NAME` runs it and prints one screen. A plugin runs the same checks in its own tests::

    import pytest
    from resbench.architectures.conformance import CHECKS
    from my_package import MyScheme

    @pytest.mark.parametrize("check", CHECKS, ids=str)
    def test_conformance(check):
        check(MyScheme)              # or check(MyScheme, n_streams=8)

A check raises `Failed` (an AssertionError), or `NotApplicable` (which pytest counts as skipped), or returns a line that says what was found.
"""

from resbench.architectures.conformance.checking import Case, Check, Failed, NotApplicable
from resbench.architectures.conformance.subject import Subject
from resbench.architectures.conformance.suite import CHECKS, Result, run_checks

__all__ = ["CHECKS", "Case", "Check", "Failed", "NotApplicable", "Result", "Subject", "run_checks"]
