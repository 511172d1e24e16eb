"""The operations schemes are written with. Each takes ``backend="auto" | "torch"`` and means what `resbench.kernels.reference` says."""

import functools
from collections.abc import Callable
from typing import Literal, ParamSpec, TypeVar, get_args

from resbench.kernels import reference

Backend = Literal["auto", "torch"]

P = ParamSpec("P")
R = TypeVar("R")


def _dispatched(operation: Callable[P, R]) -> Callable[..., R]:
    """Add the ``backend`` argument to a reference operation."""

    @functools.wraps(operation)
    def call(*args: P.args, backend: str = "auto", **kwargs: P.kwargs) -> R:
        if backend not in get_args(Backend):
            raise ValueError(f"backend={backend!r}: expected one of {', '.join(get_args(Backend))}")
        return operation(*args, **kwargs)

    return call


rms_norm = _dispatched(reference.rms_norm)
add_rms_norm = _dispatched(reference.add_rms_norm)
sinkhorn = _dispatched(reference.sinkhorn)
mhc_coefficients = _dispatched(reference.mhc_coefficients)
hc_coefficients = _dispatched(reference.hc_coefficients)
mhc_pre = _dispatched(reference.mhc_pre)
mhc_post = _dispatched(reference.mhc_post)
mhc_boundary = _dispatched(reference.mhc_boundary)
hc_boundary = _dispatched(reference.hc_boundary)
