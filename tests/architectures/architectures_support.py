"""Small stacks of every scheme."""

import functools
from collections.abc import Callable

import torch

from resbench.architectures import ResidualScheme
from resbench.architectures.registry import resolve

SCHEMES: dict[str, tuple[str, dict[str, object]]] = {
    "resnet": ("resnet", {}),
    "wide": ("wide", {}),
    "hc": ("hc", {"scale_output_init": False}),
    "hc linear": ("hc", {"scale_output_init": False, "tanh": False}),
    "hc static": ("hc", {"scale_output_init": False, "dynamic": False}),
    "hc n=1": ("hc", {"scale_output_init": False, "n_streams": 1}),
    "mhc": ("mhc", {"sinkhorn_iterations": 3}),
    "mhc n=1": ("mhc", {"n_streams": 1, "sinkhorn_iterations": 2}),
    "mhc n=3": ("mhc", {"n_streams": 3, "sinkhorn_iterations": 2, "exit": "mean"}),
    "mhc rows first": ("mhc", {"order": "rows-first", "sinkhorn_iterations": 2}),
    "identity-hc": ("identity-hc", {}),
    "identity-hc n=1": ("identity-hc", {"n_streams": 1, "exit": "first"}),
    "mhc-lite": ("mhc-lite", {"n_streams": 3}),
    "mhc-lite n=1": ("mhc-lite", {"n_streams": 1}),
    "kromhc": ("kromhc", {}),
    "kromhc n=6": ("kromhc", {"n_streams": 6}),
    "single-pass-mhc": ("single-pass-mhc", {"sinkhorn_iterations": 3}),
    "orthogonal-hc": ("orthogonal-hc", {}),
    "frac-connections": ("frac-connections", {"n_fractions": 2}),
    "frac-connections static": ("frac-connections", {"n_fractions": 2, "dynamic": False}),
    "attnres": ("attnres", {}),
    "attnres block": ("attnres", {"mode": "block", "n_blocks": 2}),
    "denseformer": ("denseformer", {}),
    "denseformer 2x2": ("denseformer", {"dilation": 2, "period": 2, "sublayers_per_block": 1}),
    "laurel": ("laurel", {"rank": 2}),
    "laurel rw": ("laurel", {"rank": 0}),
    "laurel pa": ("laurel", {"rank": 2, "previous": 3}),
}


def factory(label: str) -> Callable[[int, int], ResidualScheme]:
    name, arguments = SCHEMES[label]
    return functools.partial(resolve("scheme", name), **arguments)


def perturbed(scheme: ResidualScheme, seed: int = 0) -> ResidualScheme:
    """The scheme with every parameter moved off its start, so that no term is zero or one by construction."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in scheme.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(
                parameter.dtype
            )
    return scheme
