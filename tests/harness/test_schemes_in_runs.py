"""What kind of scheme it is shows in a run's metrics, and a scheme that is none is refused in words."""

from pathlib import Path
from typing import Any

import pytest
from harness_support import Argv, run_of
from torch import Tensor

from resbench.architectures.schemes.resnet import ResNet
from resbench.harness.fit import fit

GAINS = ("stability/gain_forward", "stability/gain_backward", "stability/spectral_norm", "stability/row_error")


def metrics_of(argv: Argv, output_dir: Path, *scheme: str) -> dict[str, float]:
    result = fit(argv(*scheme, "--budget.tokens=512", "--every.checkpoint=0"))
    assert result.outcome == "complete"
    metrics: dict[str, float] = run_of(output_dir, result.run_id or "").data.metrics
    return metrics


@pytest.mark.parametrize("name", ["attnres", "denseformer", "laurel"])
def test_a_scheme_that_is_no_mix_of_streams_has_no_gains(name: str, argv: Argv, output_dir: Path) -> None:
    assert not set(GAINS) & set(metrics_of(argv, output_dir, f"--model.scheme={name}"))


@pytest.mark.parametrize("name", ["mhc-lite", "kromhc"])
def test_exactly_doubly_stochastic_schemes_have_gains_of_one(name: str, argv: Argv, output_dir: Path) -> None:
    metrics = metrics_of(argv, output_dir, f"--model.scheme={name}", "--model.scheme.res_off_identity=-1")
    for gain in GAINS[:3]:
        assert metrics[gain] == pytest.approx(1.0, abs=1e-5)
    assert metrics["stability/row_error"] < 1e-5
    assert metrics["stability/column_error"] < 1e-5


def test_an_orthogonal_scheme_keeps_norms_and_not_sums(argv: Argv, output_dir: Path) -> None:
    metrics = metrics_of(argv, output_dir, "--model.scheme=orthogonal-hc", "--model.learning_rate=0.05")
    assert metrics["stability/spectral_norm"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["stability/row_error"] > 1e-3


def test_single_pass_mhc_and_frac_connections_are_measured_through_their_own_states(
    argv: Argv, output_dir: Path
) -> None:
    for name in ("single-pass-mhc", "frac-connections"):
        assert set(GAINS) <= set(metrics_of(argv, output_dir, f"--model.scheme={name}"))


class ListState(ResNet):
    """Its state is a list."""

    def enter(self, x: Tensor) -> Any:
        return [x]


def test_a_state_that_is_no_tensor_or_tuple_of_tensors_is_said_to_be_so(argv: Argv) -> None:
    with pytest.raises(
        ValueError, match=r"ListState\.enter: the state is list, expected a tensor or a tuple of tensors"
    ):
        fit(argv(f"--model.scheme={__name__}.ListState"))
