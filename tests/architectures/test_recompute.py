"""Recomputing blocks of sublayers: the same numbers from less memory, by the amounts the formula says."""

import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from resbench.architectures.backbones.transformer import Transformer
from resbench.architectures.recompute import best_block_length
from resbench.architectures.registry import resolve

DEPTH, WIDTH, TOKENS = 8, 32, 16


def model(scheme: str, recompute: Any = 0, depth: int = DEPTH, **own: Any) -> Transformer:
    torch.manual_seed(0)
    factory = partial(resolve("scheme", scheme), **own)
    return Transformer(factory, 64, TOKENS, None, depth, WIDTH, 2, recompute=recompute)


def batch() -> torch.Tensor:
    return torch.randint(64, (2, TOKENS), generator=torch.Generator().manual_seed(1))


class Live(TorchDispatchMode):
    """Bytes of storages that operations made and that still exist."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple | list) else (found,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self.sizes:
                    self.sizes[key] = storage.nbytes()
                    weakref.finalize(storage, self.sizes.pop, key, None)
        return found

    @property
    def bytes(self) -> int:
        return sum(self.sizes.values())


@contextmanager
def live() -> Iterator[Live]:
    with Live() as mode:
        yield mode


@pytest.mark.parametrize("scheme", ["resnet", "mhc", "hc", "identity-hc", "attnres"])
@pytest.mark.parametrize("recompute", [1, 3, "auto"])
def test_recomputing_changes_no_number(scheme: str, recompute: Any) -> None:
    plain, again = model(scheme), model(scheme, recompute)
    for network in (plain, again):
        network(batch(), targets=batch()).backward()
    for (name, a), b in zip(plain.named_parameters(), again.parameters(), strict=True):
        assert a.grad is not None, name
        assert b.grad is not None, name
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-5, atol=1e-7, msg=name)


def test_blocks_compile_into_one_graph() -> None:
    plain, again = model("mhc", depth=2), model("mhc", 2, depth=2)
    compiled = torch.compile(again, fullgraph=True, backend="aot_eager")
    wanted, found = plain(batch(), targets=batch()), compiled(batch(), targets=batch())
    torch.testing.assert_close(found, wanted)
    wanted.backward()
    found.backward()
    torch.testing.assert_close(again.embedding.weight.grad, plain.embedding.weight.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("n", [1, 2, 4, 8])
@pytest.mark.parametrize("sublayers", [2, 16, 60, 128])
def test_best_length_is_the_papers_argmin(n: int, sublayers: int) -> None:
    def cost(length: int) -> int:
        return n * math.ceil(sublayers / length) + (n + 2) * length

    best = best_block_length(n, sublayers)
    assert cost(best) == min(map(cost, range(1, sublayers + 1)))
    # near the continuous optimum, up to the ceiling's steps
    assert cost(best) <= 1.25 * 2 * math.sqrt(n * (n + 2) * sublayers) + n + 2


def test_states_kept_after_the_forward_are_one_per_block() -> None:
    """mhc with n = 4: every block that is longer by a factor keeps as many fewer streams [B, T, n, C] in float32."""
    state = 2 * TOKENS * 4 * WIDTH * 4
    kept = {}
    for length in (1, 2, 4, 8):
        network = model("mhc", length)
        with live() as memory:
            before = memory.bytes
            loss = network(batch(), targets=batch())
            kept[length] = memory.bytes - before
        del loss
    blocks = {length: 2 * DEPTH // length for length in kept}
    for length in (2, 4, 8):
        fewer = blocks[1] - blocks[length]
        saved = kept[1] - kept[length]
        # a block also keeps its branch input (C) and the coefficients of its first read
        assert fewer * state <= saved <= fewer * state * 1.5, (length, saved / state)


def test_recomputing_keeps_less_than_not() -> None:
    sizes = {}
    for recompute in (0, "auto"):
        network = model("mhc", recompute)
        with live() as memory:
            loss = network(batch(), targets=batch())
            sizes[recompute] = memory.bytes
        del loss
    assert sizes["auto"] < 0.5 * sizes[0]


def test_negative_length_is_refused() -> None:
    with pytest.raises(ValueError, match="recompute=-1: expected at least 0, or auto"):
        model("resnet", -1)
