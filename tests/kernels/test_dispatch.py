"""Which implementation takes a call."""

import warnings
from collections.abc import Callable

import pytest
import torch
from triton import OutOfResources

from resbench.kernels import functional, reference


def test_cpu_tensors_use_torch() -> None:
    x, pre = torch.randn(3, 2, 8), torch.rand(3, 2)
    assert torch.equal(functional.mhc_pre(x, pre), reference.mhc_pre(x, pre))


def test_unknown_backend_is_named() -> None:
    with pytest.raises(ValueError, match=r"backend='cuda'.*auto, triton, torch"):
        functional.mhc_pre(torch.randn(3, 2, 8), torch.rand(3, 2), backend="cuda")  # type: ignore[arg-type]


def test_triton_without_a_gpu_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional, "INTERPRETED", False)
    with pytest.raises(ValueError, match="TRITON_INTERPRET=1"):
        functional.mhc_pre(torch.randn(3, 2, 8), torch.rand(3, 2), backend="triton")


def test_unsupported_streams_warn_once_and_use_torch(device: str) -> None:
    functional.warn_unsupported.cache_clear()
    x, pre = torch.randn(3, 5, 8, device=device), torch.rand(3, 5, device=device)
    with pytest.warns(UserWarning, match="no Triton kernels for 5 streams"):
        found = functional.mhc_pre(x, pre)
    assert torch.equal(found, reference.mhc_pre(x, pre))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        functional.mhc_pre(x, pre)


def test_other_sinkhorns_go_to_torch(device: str) -> None:
    logits = torch.randn(3, 4, 4, device=device)
    for options in ({"order": "rows-first"}, {"start": "softmax", "eps": 1e-6}):
        assert torch.equal(functional.sinkhorn(logits, 3, **options), reference.sinkhorn(logits, 3, **options))


def test_float64_is_left_to_the_definition(device: str) -> None:
    x, pre = torch.randn(3, 2, 8, dtype=torch.float64, device=device), torch.rand(3, 2, device=device)
    assert torch.equal(functional.mhc_pre(x, pre), reference.mhc_pre(x, pre))


def test_bench_says_a_gpu_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    from resbench.kernels.cli import main

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main(["bench"]) == 2
    assert "needs a CUDA GPU" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("version", "known"), [("3.5.1", False), ("3.6.0", True), ("3.9.0+git1", True), ("3.10.0rc1", False)]
)
def test_kernels_in_gluon_are_left_out_with_a_triton_they_were_not_compiled_with(
    version: str, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resbench.kernels.launches import fused

    monkeypatch.setattr("triton.__version__", version)
    fused.available.cache_clear()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert [fused.available(), fused.available()] == [known, known]
    fused.available.cache_clear()
    assert len(said) == (not known), "said once"
    assert known or f"Triton {version}: the fastest kernels are known to compile with Triton 3.6 to 3.9 only" in str(
        said[0].message
    )


def test_streams_too_many_and_too_wide_for_a_gpu_are_told_with_what_to_do(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block of the largest kernel takes 144 KiB with eight float32 streams, a GPU of capability 8.6 has 99."""

    class Small:
        def __getitem__(self, grid: object) -> Callable[..., None]:
            def launch(*_: object, **__: object) -> None:
                raise OutOfResources(147456, 101376, "shared memory")

            return launch

    monkeypatch.setattr("resbench.kernels.triton.gather.gather_kernel", Small())
    x = torch.randn(3, 8, 16, device=device, requires_grad=True)
    read = functional.mhc_pre(x, torch.rand(3, 8, device=device), backend="triton")
    with pytest.raises(
        RuntimeError,
        match="8 streams in float32: .* 147456 bytes of shared memory .* has 101376. Use streams of 16 bits",
    ):
        read.sum().backward()
