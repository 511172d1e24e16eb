"""Checks that the tools training relies on work: torch.compile, activation checkpointing, checkpoints on disk."""

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from resbench.architectures.conformance.checking import Case, Failed, check
from resbench.architectures.conformance.subject import Stack, Subject, embeddings


def gradients_of(model: nn.Module, output: Tensor) -> dict[str, Tensor]:
    """Gradients of the output's mean square with respect to every parameter that has one."""
    names, parameters = zip(*model.named_parameters(), strict=True) if list(model.parameters()) else ((), ())
    found = torch.autograd.grad(output.square().mean(), parameters, allow_unused=True) if parameters else ()
    return {name: grad for name, grad in zip(names, found, strict=True) if grad is not None}


def compare(expected: Tensor, found: Tensor, before: dict[str, Tensor], after: dict[str, Tensor], how: str) -> str:
    """Raises Failed unless outputs and gradients agree to 1e-9 relative to the largest entry."""
    worst = relative(expected, found)
    if worst > 1e-9:
        raise Failed(f"{how}: the output differs by {worst:.2g}")
    for name in before:
        error = relative(before[name], after[name]) if name in after else float("inf")
        if error > 1e-9:
            raise Failed(f"{how}: the gradient of {name} differs by {error:.2g}")
        worst = max(worst, error)
    return f"outputs and gradients agree to {max(worst, 1e-17):.0g}"


def relative(expected: Tensor, found: Tensor) -> float:
    with torch.no_grad():
        return float((expected - found).abs().max() / expected.abs().max().clamp_min(1e-30))


@check("torch.compile", "one graph, the same outputs and gradients", [Case(1, 2, 2)])
def compiles(subject: Subject, case: Case) -> str:
    model = subject.stack(subject.perturbed(case.width, case.sublayers))
    x = embeddings(case.batch, case.length, case.width)
    expected = model(x)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    try:
        found = compiled(x)
    except torch._dynamo.exc.TorchDynamoException as error:
        raise Failed(f"torch.compile breaks the graph{place(error)}: {str(error).strip().splitlines()[0]}") from error
    finally:
        torch.compiler.reset()
    return compare(expected, found, gradients_of(model, expected), gradients_of(model, found), "compiled")


def place(error: Exception) -> str:
    """`` at FILE:LINE, `code` `` of the last frame that was being compiled, if the compiler says."""
    frames = list(getattr(error, "real_stack", None) or ())
    return f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}, `{frames[-1].line}`" if frames else ""


@check("checkpointing", "activation checkpointing of every sublayer changes nothing", [Case(1, 2, 2), Case(2, 3, 3)])
def checkpointing(subject: Subject, case: Case) -> str:
    model = subject.stack(subject.perturbed(case.width, case.sublayers))
    x = embeddings(case.batch, case.length, case.width)
    expected = model(x)
    before = gradients_of(model, expected)
    found = checkpointed(model, x)
    return compare(expected, found, before, gradients_of(model, found), "recomputed in the backward pass")


def checkpointed(model: Stack, x: Tensor) -> Tensor:
    """The stack with nothing kept inside a sublayer."""
    scheme = model.scheme

    def step(state: Any, ctx: Any, u: Tensor, i: int) -> Any:
        y = model.branches[i](u)
        return scheme.write(state, ctx, y, i) if i == scheme.n_sublayers - 1 else scheme.boundary(state, ctx, y, i)

    state = scheme.enter(x)
    u, ctx = scheme.read(state, 0)
    for i in range(scheme.n_sublayers - 1):
        state, u, ctx = checkpoint(step, state, ctx, u, i, use_reentrant=False)
    state = checkpoint(step, state, ctx, u, scheme.n_sublayers - 1, use_reentrant=False)
    return scheme.exit(state)


@check("state dict", "a saved and loaded scheme is the same scheme", [Case(1, 2, 2)])
def state_dict(subject: Subject, case: Case) -> str:
    scheme = subject.perturbed(case.width, case.sublayers)
    file = io.BytesIO()
    torch.save(scheme.state_dict(), file)
    file.seek(0)
    other = subject.build(case.width, case.sublayers).double()
    other.load_state_dict(torch.load(file, weights_only=True))
    x = embeddings(case.batch, case.length, case.width)
    with torch.no_grad():
        error = float((subject.stack(scheme)(x) - subject.stack(other)(x)).abs().max())
    if error > 1e-12:
        raise Failed(
            f"after loading the output differs by {error:.2g}: something that matters is not in the state dict"
        )
    return f"{len(scheme.state_dict())} tensors"
