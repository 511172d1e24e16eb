"""Initial weights that depend on the seed and the parameter's name only.

Two models that share a parameter's name and shape then start from the same values whatever their residual scheme adds beside it: runs with
the same seed are paired in earnest.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor


class Linear(nn.Linear):
    """Without biases, and its memory holds anything until `initialise` draws the weights: torch's own draw would take as long again."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def reset_parameters(self) -> None:
        pass


class Embedding(nn.Embedding):
    """The same of an embedding."""

    def reset_parameters(self) -> None:
        pass


def initialise(model: nn.Module, output_scale: float) -> None:
    """Draw embeddings and linear weights anew from ``torch.initial_seed()``.

    Linear weights have standard deviation fan_in^-1/2, convolutions (2 / fan_in)^1/2 for the ReLU before them (He et al. 2015); those of output
    projections (modules called ``out``) are further scaled by ``output_scale``. Biases keep what their module gave them. Embeddings have unit
    variance, so that they are not drowned by the first branches; a tied one counts as linear.
    """
    seed = torch.initial_seed()
    drawn: set[int] = set()
    draws: list[tuple[torch.Tensor, int, float]] = []
    for name, module in reversed(list(model.named_modules())):
        if (
            not isinstance(module, nn.Linear | nn.Embedding | nn.Conv2d)
            or module.weight.is_meta
            or isinstance(module.weight, FakeTensor)  # which must not be drawn in threads, and holds no data
            or id(module.weight) in drawn
        ):
            continue
        drawn.add(id(module.weight))
        std = 1.0
        if isinstance(module, nn.Linear):
            std = module.in_features**-0.5
        elif isinstance(module, nn.Conv2d):
            std = (module.weight[0].numel() / 2) ** -0.5
        if name.endswith(".out"):
            std *= output_scale
        draws.append((module.weight, parameter_seed(seed, name), std))
    # A generator works on one core, and each parameter has its own.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(_draw, *zip(*draws, strict=True)))


@torch.no_grad()
def _draw(weight: torch.Tensor, seed: int, std: float) -> None:
    weight.normal_(generator=torch.Generator().manual_seed(seed)).mul_(std)


def parameter_seed(seed: int, name: str) -> int:
    """A 63-bit seed for one parameter."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "little") >> 1
