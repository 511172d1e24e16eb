"""The chunked loss is the plain one: same value, same gradients, less memory."""

import math

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from resbench.architectures.linear_cross_entropy import even_chunk, linear_cross_entropy

TOKENS, WIDTH, VOCABULARY = 37, 8, 50


@pytest.fixture
def operands() -> tuple[Tensor, Tensor, Tensor]:
    """hidden [T, C] and weight [V, C] in float64 with gradients, and targets of which three are not scored."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, generator=generator, dtype=torch.float64)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, VOCABULARY, (TOKENS,), generator=generator)
    targets[[0, 5, 36]] = -100
    return hidden.requires_grad_(), weight.requires_grad_(), targets


def gradients(loss: Tensor, *leaves: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, leaves))


@pytest.mark.parametrize("chunk", [1, 10, 37, 1000])
def test_equals_the_plain_loss_in_float64(operands: tuple[Tensor, Tensor, Tensor], chunk: int) -> None:
    hidden, weight, targets = operands
    plain = linear_cross_entropy(hidden, weight, targets, "plain")
    chunked = linear_cross_entropy(hidden, weight, targets, "chunked", chunk)
    assert chunked.item() == pytest.approx(plain.item(), rel=1e-13)
    for ours, torchs in zip(gradients(3 * chunked, hidden, weight), gradients(3 * plain, hidden, weight), strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-12, atol=1e-14)
    with torch.no_grad():
        alone = linear_cross_entropy(hidden, weight, targets, "chunked", chunk)
    assert alone.item() == chunked.item()


def test_by_hand() -> None:
    # Logits (0, ln 3): probabilities 1/4 and 3/4. The second token is not scored, so the mean is the first's.
    hidden = torch.tensor([[1.0], [5.0]], requires_grad=True)
    weight = torch.tensor([[0.0], [math.log(3.0)]], requires_grad=True)
    loss = linear_cross_entropy(hidden, weight, torch.tensor([1, -100]), "chunked", 1)
    assert loss.item() == pytest.approx(math.log(4 / 3))
    d_hidden, d_weight = gradients(loss, hidden, weight)
    # dL/dlogits = (1/4, 3/4 - 1), dL/dh = sum of that times the weight, dL/dW = that times h = 1.
    assert d_hidden.flatten().tolist() == pytest.approx([-0.25 * math.log(3.0), 0.0])
    assert d_weight.flatten().tolist() == pytest.approx([0.25, -0.25])


def test_compiles_to_one_graph(operands: tuple[Tensor, Tensor, Tensor]) -> None:
    hidden, weight, targets = operands
    compiled = torch.compile(linear_cross_entropy, fullgraph=True, dynamic=False, backend="aot_eager")
    chunked = compiled(hidden, weight, targets, "chunked", 19)
    plain = linear_cross_entropy(hidden, weight, targets, "plain")
    assert chunked.item() == pytest.approx(plain.item(), rel=1e-13)
    for ours, torchs in zip(gradients(chunked, hidden, weight), gradients(plain, hidden, weight), strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", ["plain", "chunked"])
def test_autocast_multiplies_in_bfloat16_and_keeps_the_rest_in_float32(kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(64, 32, generator=generator).requires_grad_()
    weight = torch.randn(200, 32, generator=generator).requires_grad_()
    targets = torch.randint(0, 200, (64,), generator=generator)
    exact = linear_cross_entropy(hidden.double(), weight.double(), targets, "plain")
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, targets, kind, 16)  # type: ignore[arg-type]
    assert loss.dtype == torch.float32
    # Logits of size 6 are rounded to 2^-8 of themselves; a mean over 64 tokens is better than one of them.
    assert loss.item() == pytest.approx(exact.item(), abs=6 * 2**-8)
    for ours, reference in zip(gradients(loss, hidden, weight), gradients(exact, hidden, weight), strict=True):
        assert ours.dtype == torch.float32
        assert (ours - reference).norm() / reference.norm() < 2**-6


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize(("kind", "rows"), [("chunked", 8), ("plain", 256)])
def test_never_holds_all_logits(kind: str, rows: int) -> None:
    hidden, weight = torch.randn(256, 4, requires_grad=True), torch.randn(1000, 4, requires_grad=True)
    with Largest() as largest:
        linear_cross_entropy(hidden, weight, torch.zeros(256, dtype=torch.int64), kind, 8).backward()  # type: ignore[arg-type]
    assert largest.elements == rows * 1000


def test_all_scored_or_none() -> None:
    hidden, weight = torch.randn(4, 3), torch.randn(5, 3)
    nothing = torch.full((4,), -100)
    assert linear_cross_entropy(hidden, weight, nothing, "chunked").isnan()
    assert linear_cross_entropy(hidden, weight, nothing, "plain").isnan()
    with pytest.raises(ValueError, match=r"loss='fast': expected one of auto, chunked, plain"):
        linear_cross_entropy(hidden, weight, nothing, "fast")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tokens", "vocabulary", "expected"),
    [
        (65536, 50304, 4096),  # 12.3 parts of 2^28 logits; the next number of equal parts is 16
        (16384, 257, 16384),  # 4.2 million logits: one part
        (7919, 50304, 3960),  # a prime: two parts, nearly equal
    ],
)
def test_chunks_are_equal_where_they_can_be(tokens: int, vocabulary: int, expected: int) -> None:
    assert even_chunk(tokens, vocabulary, "cuda") == expected
