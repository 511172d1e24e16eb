"""Residual schemes, backbones and the registry that finds them. Importing this package imports nothing heavy until a name is used."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resbench.architectures.norm import RMSNorm
    from resbench.architectures.scheme import MixingClaim, ResidualScheme, SchemeFactory
    from resbench.architectures.stack import run_stack
    from resbench.architectures.streams import Coefficients, StreamScheme

_HOMES = {
    "MixingClaim": "scheme",
    "ResidualScheme": "scheme",
    "SchemeFactory": "scheme",
    "StreamScheme": "streams",
    "Coefficients": "streams",
    "RMSNorm": "norm",
    "run_stack": "stack",
}
__all__ = ["Coefficients", "MixingClaim", "RMSNorm", "ResidualScheme", "SchemeFactory", "StreamScheme", "run_stack"]


def __getattr__(name: str) -> Any:
    # torch takes over a second to import; `resbench --help` and the registry must not pay for it.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"resbench.architectures.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'resbench.architectures' has no attribute {name!r}")
