"""Every built-in scheme conforms, in every form the tests know."""

import pytest
from architectures_support import SCHEMES

from resbench.architectures.conformance import CHECKS, Check, Subject
from resbench.architectures.registry import resolve


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_conforms(label: str, check: Check) -> None:
    name, arguments = SCHEMES[label]
    check(Subject(resolve("scheme", name), arguments))
