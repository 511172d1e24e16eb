"""What a check is: a property, the cases it is tried on, and how it says yes, no or not applicable."""

import unittest
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from resbench.architectures.conformance.subject import Subject
from resbench.architectures.scheme import ResidualScheme


@dataclass(frozen=True)
class Case:
    """Batch B, length T and number of sublayers, and the width C; ``width=0`` stands for the smallest the scheme accepts from 4 on."""

    batch: int = 1
    length: int = 2
    sublayers: int = 2
    width: int = 0

    def __str__(self) -> str:
        sublayers = f"{self.sublayers} sublayer{'s' * (self.sublayers > 1)}"
        return f"B={self.batch} T={self.length} C={self.width or 'any'}, {sublayers}"


SMALL_TO_LARGE = (Case(1, 2, 1), Case(1, 2, 2), Case(2, 3, 3))


class Failed(AssertionError):
    """The scheme does not have the property; says on which case and what was found instead."""

    def __init__(self, message: str, case: Case | None = None) -> None:
        super().__init__(f"{message} [{case}]" if case else message)
        self.message, self.case = message, case


class NotApplicable(unittest.SkipTest):
    """The property says nothing about this scheme."""


@dataclass(frozen=True)
class Check:
    """One property of a scheme: its name, the property in words, and the cases it is tried on, from small to large."""

    name: str
    property: str
    test: Callable[[Subject, Case], str]
    cases: Sequence[Case]

    def __str__(self) -> str:
        return self.name

    def __call__(self, scheme: Subject | type[ResidualScheme], **arguments: Any) -> str:
        """Try every case; returns what the last one found. Raises Failed at the first that fails, NotApplicable."""
        subject = scheme if isinstance(scheme, Subject) else Subject(scheme, arguments)
        found = ""
        for case in self.cases:
            case = Case(case.batch, case.length, case.sublayers, case.width or subject.width)
            found = self.on(subject, case)
        return found

    def on(self, subject: Subject, case: Case) -> str:
        """Try one case. Whatever the scheme raises on it is a failure too."""
        try:
            return self.test(subject, case)
        except NotApplicable:
            raise
        except Failed as failure:
            raise Failed(failure.message, case) from failure.__cause__
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            raise Failed(f"{type(error).__name__}: {lines[0]}", case) from error


def check(
    name: str, property: str, cases: Sequence[Case] = SMALL_TO_LARGE
) -> Callable[[Callable[[Subject, Case], str]], Check]:
    """Make a check of a function ``(subject, case) -> what was found``."""
    return lambda test: Check(name, property, test, tuple(cases))
