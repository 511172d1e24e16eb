"""The checks in the order in which they are reported, and running them."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from resbench.architectures.conformance import counts, interface, isolation, mixing, numerics, tooling
from resbench.architectures.conformance.checking import Case, Check, Failed, NotApplicable
from resbench.architectures.conformance.subject import Subject

CHECKS: tuple[Check, ...] = (
    interface.constructor,
    interface.shapes,
    interface.boundary,
    numerics.gradients,
    numerics.bfloat16,
    numerics.depth,
    numerics.triton,
    isolation.causality,
    isolation.batch_independence,
    isolation.determinism,
    tooling.compiles,
    tooling.checkpointing,
    tooling.state_dict,
    mixing.mixing,
    mixing.claims,
    mixing.read_write,
    mixing.streams_apart,
    counts.parameters,
    counts.flops,
)


@dataclass(frozen=True)
class Result:
    """How one check ended: what was found, or what failed and on which case, the smallest tried."""

    check: Check
    outcome: Literal["passed", "failed", "not applicable"]
    found: str
    case: Case | None
    seconds: float


def run_checks(subject: Subject, checks: Sequence[Check] = CHECKS, case: Case | None = None) -> Iterator[Result]:
    """Run each check, on one case if given; one failure stops none of the others."""
    for check in checks:
        began = time.perf_counter()
        try:
            found = check.on(subject, case) if case else check(subject)
            outcome, where = "passed", None
        except Failed as failure:
            outcome, found, where = "failed", failure.message, failure.case
        except NotApplicable as reason:
            outcome, found, where = "not applicable", str(reason), None
        yield Result(check, outcome, found, where, time.perf_counter() - began)  # type: ignore[arg-type]


def select(names: Iterable[str]) -> tuple[Check, ...]:
    """Checks by name. Raises ValueError that lists them for an unknown one."""
    known = {check.name: check for check in CHECKS}
    chosen = []
    for name in names:
        if name not in known:
            raise ValueError(f"no check is called {name!r}: expected one of {', '.join(known)}")
        chosen.append(known[name])
    return tuple(chosen)
