"""What a trial process calls: a function with the signature of `resbench.harness.fit.fit`, possibly wrapped in others of that signature."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from resbench.sweeps.grid import devices_of

if TYPE_CHECKING:
    from resbench.sweeps.plan import PlannedRun
    from resbench.sweeps.spec import SweepSpec


@dataclass(frozen=True)
class Target:
    """``function`` is ``module:function``. A wrapper gets its ``order``, JSON, as the first of its arguments."""

    function: str
    order: str = ""

    def arguments(self, argv: tuple[str, ...]) -> tuple[str, ...]:
        """The arguments it is called with for a run with ``argv``."""
        return (self.order, *argv) if self.order else argv


def load(target: Target) -> Callable[..., Any]:
    """The function, called as the target wants it: ``load(target)(["--config", file], ...)``."""
    module, _, function = target.function.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)

    def call(argv: list[str], **arguments: Any) -> Any:
        return found(list(target.arguments(tuple(argv))), **arguments)

    return call


def target_of(function: str, planned: "PlannedRun", spec: "SweepSpec") -> Target:
    """What runs ``planned``, where a training run with one seed on one device is ``function``."""
    target = Target(function)
    if (devices := devices_of(planned.cell)) > 1:
        from resbench.sweeps import torchrun

        target = torchrun.wrap(target, devices)
    if planned.phase == "search" and spec.search is not None and spec.search.seeds_per_trial > 1:
        from resbench.sweeps import over_seeds

        target = over_seeds.wrap(target, spec.search)
    return target
