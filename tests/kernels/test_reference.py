"""The definition: properties the papers state, numbers derived by hand, and gradients against finite differences."""

import math

import pytest
import torch

from resbench.kernels import reference


def drawn(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def test_sinkhorn_rows_sum_to_one_and_columns_converge() -> None:
    logits = drawn(50, 4, 4)
    errors = [float((reference.sinkhorn(logits, t).sum(-2) - 1).abs().max()) for t in (1, 5, 20, 50)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-2
    assert torch.allclose(reference.sinkhorn(logits, 5).sum(-1), torch.ones(50, 4, dtype=torch.float64))


def test_sinkhorn_of_two_by_two_by_hand() -> None:
    # exp(logits) = [[1, 3], [1, 1]]: columns give [[1/2, 3/4], [1/2, 1/4]], rows then [[2/5, 3/5], [2/3, 1/3]]
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]], dtype=torch.float64)
    wanted = torch.tensor([[2 / 5, 3 / 5], [2 / 3, 1 / 3]], dtype=torch.float64)
    assert torch.allclose(reference.sinkhorn(logits, 1), wanted)


def test_no_iterations_is_the_shifted_exponential() -> None:
    logits = drawn(6, 3, 3)
    shifted = torch.exp(logits - logits.amax((-2, -1), keepdim=True))
    assert torch.equal(reference.sinkhorn(logits, 0), shifted)


@pytest.mark.parametrize("iterations", [0, 1, 20])
def test_huge_logits_stay_finite(iterations: int) -> None:
    logits = drawn(40, 4, 4, scale=1e3).float().requires_grad_()
    matrix = reference.sinkhorn(logits, iterations)
    matrix.square().sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(matrix).all()
    assert torch.isfinite(logits.grad).all()


def test_boundary_by_hand() -> None:
    # one token, two streams of width 1: x = (1, 2), y = 10, swap the streams, write 1 and 2 times y
    x, y = torch.tensor([[[1.0], [2.0]]]), torch.tensor([[10.0]])
    swap, post = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]), torch.tensor([[1.0, 2.0]])
    joined = reference.mhc_post(x, y, post, swap)
    assert joined.flatten().tolist() == [12.0, 21.0]
    assert reference.mhc_pre(joined, torch.tensor([[0.5, 2.0]])).item() == 0.5 * 12 + 2 * 21


def test_zero_phi_makes_coefficients_the_gates_of_the_bias() -> None:
    n, width = 3, 5
    bias = drawn(n * n + 2 * n)
    pre, post, res = reference.mhc_coefficients(
        drawn(2, n, width), torch.zeros(n * n + 2 * n, n * width, dtype=torch.float64), drawn(3), bias
    )
    assert res is not None
    assert torch.allclose(pre, torch.sigmoid(bias[:n]).expand(2, n))
    assert torch.allclose(post, 2 * torch.sigmoid(bias[n : 2 * n]).expand(2, n))
    assert torch.allclose(res, reference.sinkhorn(bias[2 * n :].view(n, n)).expand(2, n, n))


@pytest.mark.parametrize("iterations", [0, 1, 4])
def test_boundary_gradients_match_finite_differences(iterations: int) -> None:
    n, width, K = 2, 3, 8
    inputs = [drawn(2, n, width), drawn(2, width), drawn(2, n), drawn(2, n, n)]
    inputs += [drawn(K, n * width), drawn(3), drawn(K), drawn(width)]
    leaves = [t.requires_grad_() for t in inputs]
    assert torch.autograd.gradcheck(lambda *a: reference.mhc_boundary(*a, iterations=iterations), leaves)


def test_hc_gradients_match_finite_differences() -> None:
    n, width = 2, 3
    inputs = [drawn(2, n, width), drawn(width), drawn(n + 2, width), drawn(2), drawn(n, n + 2)]
    assert torch.autograd.gradcheck(reference.hc_coefficients, [t.requires_grad_() for t in inputs])
