"""Checks of the numbers: exact gradients, low precision, and depth."""

import copy

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError
from torch.func import functional_call

from resbench.architectures.conformance.checking import Case, Failed, NotApplicable, check
from resbench.architectures.conformance.subject import Stack, Subject, embeddings
from resbench.kernels.functional import INTERPRETED

BF16_BOUND = 0.1
"""Largest relative difference to float32; bfloat16 itself rounds to 2^-9, and errors of a few sublayers add up."""


GPU_BOUND = 1e-2
"""Largest relative difference of kernels to plain torch: tensor cores round the operands of coefficients to ten bits."""


@check("gradients", "gradcheck in float64, of the input and every parameter", [Case(1, 1, 1), Case(1, 2, 2)])
def gradients(subject: Subject, case: Case) -> str:
    model = subject.stack(subject.perturbed(case.width, case.sublayers))
    names = [name for name, _ in model.named_parameters()]
    parameters = [p.detach().clone().requires_grad_() for p in model.parameters()]
    x = embeddings(case.batch, case.length, case.width).requires_grad_()

    def run(x: Tensor, *values: Tensor) -> Tensor:
        output: Tensor = functional_call(model, dict(zip(names, values, strict=True)), (x,))
        return output

    try:
        torch.autograd.gradcheck(run, (x, *parameters), fast_mode=True)
    except GradcheckError as error:
        for name, parameter in zip(["the input", *names], [x, *parameters], strict=True):
            others = [p.detach() if p is not parameter else p for p in (x, *parameters)]
            if not torch.autograd.gradcheck(run, tuple(others), fast_mode=True, raise_exception=False):
                raise Failed(f"the gradient of {name} is not that of finite differences") from error
        raise Failed(f"gradcheck: {str(error).splitlines()[0]}") from error
    return f"{len(names)} parameters"


@check("bfloat16", f"bfloat16 within {BF16_BOUND:.0%} of float32", [Case(2, 4, 1), Case(2, 4, 4)])
def bfloat16(subject: Subject, case: Case) -> str:
    model = subject.stack(subject.build(case.width, case.sublayers).float())
    x = embeddings(case.batch, case.length, case.width, dtype=torch.float32)
    with torch.no_grad():
        full = model(x.bfloat16().float())
        half = model(x.bfloat16()).float()
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(x.bfloat16()).float()
    errors = [float((low - full).norm() / full.norm()) for low in (half, mixed)]
    for error, how in zip(errors, ("", " under autocast"), strict=True):
        if not error <= BF16_BOUND:
            raise Failed(f"bfloat16{how} is {error:.1%} off float32")
    return f"{max(errors):.2%} off"


@check(
    "depth",
    "64 sublayers at the start: finite loss and gradients",
    [Case(1, 2, depth) for depth in (1, 8, 64)],
)
def depth(subject: Subject, case: Case) -> str:
    norms = []
    for dtype in (torch.float32, torch.bfloat16):
        scheme = subject.build(case.width, case.sublayers).float()
        model = subject.stack(scheme, scale=scheme.output_init_scale / case.sublayers**0.5)
        x = embeddings(case.batch, case.length, case.width, dtype=dtype).requires_grad_()
        loss = model(x).float().logsumexp(-1).mean()
        if not torch.isfinite(loss):
            raise Failed(f"the loss is {float(loss)} in {dtype} after {case.sublayers} sublayers")
        loss.backward()
        assert x.grad is not None
        for name, grad in (("the input", x.grad), *((name, p.grad) for name, p in model.named_parameters())):
            if grad is not None and not torch.isfinite(grad).all():
                raise Failed(f"the gradient of {name} is not finite in {dtype} after {case.sublayers} sublayers")
        norms.append(float(x.grad.float().norm()))
    return f"gradient of the input: norm {norms[0]:.3g}"


@check(
    "Triton",
    f"on a GPU, or under TRITON_INTERPRET=1: float32 outputs and gradients within {GPU_BOUND:.0%} of plain torch in float64",
    [Case(1, 3, 1, 64), Case(2, 9, 3, 64)],
)
def triton(subject: Subject, case: Case) -> str:
    on_gpu = torch.cuda.is_available()
    if not (on_gpu or INTERPRETED):
        raise NotApplicable("no GPU here, and TRITON_INTERPRET=1 is not set")
    device = torch.device("cuda" if on_gpu else "cpu")
    scheme = subject.perturbed(case.width, case.sublayers)
    x = embeddings(case.batch, case.length, case.width)
    there = subject.stack(copy.deepcopy(scheme).float()).to(device)
    expected = outputs_and_gradients(subject.stack(scheme), x)
    found = outputs_and_gradients(there, x.float().to(device))
    worst, negligible = 0.0, 1e-3 * max(float(value.norm()) for value in expected.values())
    for name, value in expected.items():
        error = float((found[name].cpu().double() - value).norm()) / max(float(value.norm()), negligible)
        worst = max(worst, error)
        if not error <= GPU_BOUND:
            raise Failed(f"{name} is {error:.1%} off plain torch")
    return f"{worst:.1g} off on {torch.cuda.get_device_name() if on_gpu else 'the interpreter'}"


def outputs_and_gradients(model: Stack, x: Tensor) -> dict[str, Tensor]:
    """The output, and the gradients of its mean square with respect to the input and every parameter that has one."""
    x = x.detach().requires_grad_()
    output = model(x)
    output.square().mean().backward()
    assert x.grad is not None
    found = {"the output": output.detach(), "the gradient of the input": x.grad}
    return found | {f"the gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
