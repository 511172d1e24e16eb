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
    "mhc": ("mhc", {}),
    "mhc n=1": ("mhc", {"n_streams": 1}),
    "mhc n=3": ("mhc", {"n_streams": 3, "sinkhorn_iterations": 5, "exit": "mean"}),
    "mhc rows first": ("mhc", {"order": "rows-first"}),
    "identity-hc": ("identity-hc", {}),
    "identity-hc n=1": ("identity-hc", {"n_streams": 1, "exit": "first"}),
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
