"""The kernels against the definition, on the GPU if there is one, else in the interpreter at tiny shapes."""

import pytest
import torch

from resbench.kernels import functional, reference
from resbench.kernels.cases import OPERATIONS, make
from resbench.kernels.check import check, run


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    ("tokens", "n", "width"), [(19, 4, 40), (5, 1, 48), (9, 3, 20), (17, 2, 24), (6, 8, 16), (0, 4, 32)]
)
def test_operations_are_their_definition_in_float32(
    operation: str, tokens: int, n: int, width: int, device: str
) -> None:
    shape = (tokens, n, width)
    # one stream: the norm undoes the read's weight, so that weight's gradient is a difference of equals
    slack = 10.0 if n == 1 else 1.0
    findings = check(make(operation, *shape, torch.float32, device), shape, torch.float32, 20, slack)
    assert [f for f in findings if not f.passed] == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("operation", "shape"),
    [
        ("mhc_boundary", (19, 4, 40)),
        ("hc_boundary", (19, 4, 40)),
        ("add_rms_norm", (19, 4, 40)),
        ("mhc_read", (19, 4, 40)),
        ("mhc_read", (6, 8, 16)),  # two nodes of autograd, with nothing rounded between them
    ],
)
def test_narrow_streams_lose_only_their_rounding(
    operation: str, shape: tuple[int, int, int], dtype: torch.dtype, device: str
) -> None:
    findings = check(make(operation, *shape, dtype, device), shape, dtype, 20)
    assert [f for f in findings if not f.passed] == []


@pytest.mark.parametrize("iterations", [0, 1, 5, 50])
def test_sinkhorn_is_differentiated_exactly_at_every_depth(iterations: int, device: str) -> None:
    shape = (13, 4, 4)
    case = make("sinkhorn", *shape, torch.float32, device, iterations)
    assert [f for f in check(case, shape, torch.float32, iterations) if not f.passed] == []


def test_huge_logits_stay_finite(device: str) -> None:
    case = make("mhc_boundary", 13, 4, 32, torch.float32, device, logit_scale=1e3)
    assert all(torch.isfinite(value).all() for value in run(case.call, case.inputs, case.outputs, 0).values())


def test_inputs_need_not_be_contiguous(device: str) -> None:
    x = torch.randn(4, 32, 6, device=device).permute(2, 0, 1)
    pre = torch.rand(4, 6, device=device).T
    assert not x.is_contiguous()
    found = functional.mhc_pre(x, pre, backend="triton")
    assert torch.allclose(found, reference.mhc_pre(x, pre), atol=1e-6)


def test_leading_axes_are_kept(device: str) -> None:
    x, y = torch.randn(2, 3, 4, 16, device=device), torch.randn(2, 3, 16, device=device)
    post, res = torch.rand(2, 3, 4, device=device), torch.rand(2, 3, 4, 4, device=device)
    found = functional.mhc_post(x, y, post, res, backend="triton")
    assert found.shape == x.shape
    assert torch.allclose(found, reference.mhc_post(x, y, post, res), atol=1e-5)


def test_torch_operation_is_registered_completely(device: str) -> None:
    case = make("mhc_boundary", 3, 2, 16, torch.float32, device)
    x, y, post, res, phi, alpha, bias, weight = (v.requires_grad_() for v in case.inputs.values() if v is not None)
    inputs = (x, y, post, res, None, phi, alpha, bias, weight, "mhc", True, True, 2, 1e-6, 1e-6)
    results = torch.library.opcheck(torch.ops.resbench.boundary.default, inputs)
    assert set(results.values()) == {"SUCCESS"}


def test_checkpointing_gives_the_same_gradients(device: str) -> None:
    case = make("mhc_boundary", 5, 2, 16, torch.float32, device)

    def checkpointed(*inputs: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        return torch.utils.checkpoint.checkpoint(case.call, *inputs, use_reentrant=False)

    plain, again = (run(call, case.inputs, case.outputs, 0) for call in (case.call, checkpointed))
    assert all(torch.equal(plain[name], again[name]) for name in plain)


@pytest.mark.parametrize("operation", ["mhc_boundary", "identity_boundary", "hc_boundary", "static_hc_boundary"])
def test_boundaries_compile_into_one_graph(operation: str, device: str) -> None:
    case = make(operation, 5, 2, 16, torch.float32, device)
    compiled = torch.compile(case.call, fullgraph=True, backend="aot_eager")
    eager, traced = (run(call, case.inputs, case.outputs, 0) for call in (case.call, compiled))
    assert all(torch.equal(eager[name], traced[name]) for name in eager)
