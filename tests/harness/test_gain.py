"""Gains against values worked out by hand."""

import json
import math

import pytest
import torch

from resbench.harness.gain import measure, profile


def test_of_one_matrix_per_token() -> None:
    # Rows sum to 3 and -1, columns to -2 and 4: H[out, in].
    mix = torch.tensor([[1.0, 2.0], [-3.0, 2.0]])
    found = measure(mix)
    assert found.forward == 3.0
    assert found.forward_min == 1.0
    assert found.backward == 4.0
    assert found.backward_min == 2.0
    assert found.log_column_sum == pytest.approx(math.log(4.0))
    assert found.row_error == 2.0  # |3 - 1| and |-1 - 1|
    assert found.column_error == 3.0  # |-2 - 1| and |4 - 1|
    # H^T H = [[10, -4], [-4, 8]] has the eigenvalues 9 +- sqrt(1 + 16).
    assert found.spectral_norm == pytest.approx(math.sqrt(9 + math.sqrt(17)))


def test_maxima_are_taken_per_token_then_averaged() -> None:
    mixes = torch.stack([torch.diag(torch.tensor([1.0, 3.0])), torch.diag(torch.tensor([5.0, 1.0]))])
    found = measure(mixes.view(1, 2, 2, 2))
    assert found.forward == 4.0
    assert found.forward_min == 1.0
    assert found.spectral_norm == 4.0


def test_the_composite_applies_sublayer_zero_first() -> None:
    # x -> H1 (H0 x) with H0 sending stream 0 to stream 1 doubled and H1 keeping stream 1 only:
    # H1 H0 = [[0, 0], [2, 0]], whereas H0 H1 = 0.
    first = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    second = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    found = profile([first, second])
    assert [mix.forward for mix in found.sublayers] == [2.0, 1.0]
    assert [mix.forward for mix in found.composites] == [2.0, 2.0]
    assert found.composite.backward == 2.0
    assert profile([second, first]).composite.forward == 0.0


def test_doubly_stochastic_matrices_neither_amplify_nor_attenuate() -> None:
    generator = torch.Generator().manual_seed(0)
    permutations = torch.stack([torch.eye(4)[torch.randperm(4, generator=generator)] for _ in range(6)])
    weights = torch.rand(50, 6, generator=generator)
    mixes = [torch.einsum("tk,kij->tij", torch.softmax(weights + layer, -1), permutations) for layer in range(64)]
    found = profile(mixes)
    for value in (
        found.composite.forward,
        found.composite.backward,
        found.composite.forward_min,
        found.composite.spectral_norm,
    ):
        assert value == pytest.approx(1.0, abs=1e-5)
    assert found.row_error == pytest.approx(0.0, abs=1e-6)


def test_deep_products_keep_their_digits_in_low_precision() -> None:
    # 1.01 is 1.0078125 in bfloat16; the product over 100 sublayers must be that number's 100th power, not a bfloat16 product.
    mixes = [torch.full((3, 1, 1), 1.01, dtype=torch.bfloat16)] * 100
    assert profile(mixes).composite.forward == pytest.approx(1.0078125**100, rel=1e-12)


def test_a_profile_is_plain_json_by_sublayer() -> None:
    written = json.loads(json.dumps(profile([torch.eye(2)] * 3).as_dict()))
    assert written["sublayer"] == [0, 1, 2]
    assert written["composite_backward"] == [1.0, 1.0, 1.0]
    assert {len(values) for values in written.values()} == {3}


def test_a_matrix_that_overflowed_has_no_spectral_norm_and_raises_nothing() -> None:
    found = profile([torch.full((1, 2, 2), math.inf)])
    assert math.isnan(found.composite.spectral_norm)
    assert found.composite.forward == math.inf
