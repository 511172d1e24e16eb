"""Checks of the interface: the constructor, the state, shapes, dtypes, and that a fused boundary is its definition."""

import inspect

import torch
from torch import Tensor

from resbench.architectures.conformance.checking import SMALL_TO_LARGE, Case, Failed, check
from resbench.architectures.conformance.subject import Subject, embeddings, tensors
from resbench.architectures.registry import constructor_problem
from resbench.architectures.scheme import ResidualScheme
from resbench.architectures.stack import state_problem

SHAPES = tuple(
    Case(b, t, layers, c) for b, t, layers, c in ((1, 1, 1, 1), (1, 1, 2, 0), (3, 1, 1, 3), (2, 7, 2, 5), (1, 4, 3, 8))
)


@check("constructor", "(width, n_sublayers, **typed arguments with defaults)", [Case()])
def constructor(subject: Subject, case: Case) -> str:
    if not issubclass(subject.scheme, ResidualScheme):
        raise Failed(f"{subject.scheme.__name__} is not a subclass of resbench.architectures.ResidualScheme")
    if problem := constructor_problem("scheme", subject.scheme):
        raise Failed(problem)
    own = list(inspect.signature(subject.scheme).parameters)[2:]
    scheme = subject.build(case.width, case.sublayers)
    unknown = scheme.no_weight_decay() - {name for name, _ in scheme.named_parameters()}
    if unknown:
        raise Failed(f"no_weight_decay() names {sorted(unknown)}, which are no parameters of the scheme")
    return f"{len(own)} argument{'s' * (len(own) != 1)}: {', '.join(own) or 'none'}"


@check(
    "shapes and dtypes",
    "[B, T, C] in, [B, T, C] out in the same dtype; the state is a tensor or a tuple of tensors",
    SHAPES,
)
def shapes(subject: Subject, case: Case) -> str:
    refused = [str(width) for width in sorted({c.width for c in SHAPES} - {0}) if not subject.accepts(width)]
    told = "float32, float64, bfloat16; B, T, C of 1 and odd"
    if refused:
        told += f"; refuses C = {', '.join(refused)}"
    if str(case.width) in refused:
        return told
    scheme = subject.build(case.width, case.sublayers)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        model = subject.stack(scheme.to(torch.float64 if dtype == torch.float64 else torch.float32))
        x = embeddings(case.batch, case.length, case.width, dtype=dtype)
        state = scheme.enter(x)
        for i, branch in enumerate(model.branches):
            if problem := state_problem(state):
                raise Failed(f"{problem} before sublayer {i}")
            got = scheme.read(state, i)
            if not (isinstance(got, tuple) and len(got) == 2):
                raise Failed(
                    f"read(state, {i}) returned {type(got).__name__}, expected the pair (branch input, context)"
                )
            u, ctx = got
            expect(u, x, f"the input of branch {i}")
            state = scheme.write(state, ctx, branch(u).to(dtype), i)
        if problem := state_problem(state):
            raise Failed(f"{problem} after the last sublayer")
        expect(scheme.exit(state), x, "exit(state)")
    return told


def expect(found: object, x: Tensor, what: str) -> None:
    """Raises Failed unless ``found`` is a tensor of x's shape and dtype."""
    if not isinstance(found, Tensor):
        raise Failed(f"{what} is {type(found).__name__}, expected a tensor")
    if found.shape != x.shape or found.dtype != x.dtype:
        raise Failed(f"{what} is {found.dtype} {list(found.shape)}, expected {x.dtype} {list(x.shape)}")


@check("boundary", "boundary(i) is write(i) then read(i + 1)", SMALL_TO_LARGE[1:])
def boundary(subject: Subject, case: Case) -> str:
    scheme = subject.perturbed(case.width, case.sublayers).requires_grad_(False)
    state = scheme.enter(embeddings(case.batch, case.length, case.width))
    _, ctx = scheme.read(state, 0)
    worst = 0.0
    for i in range(case.sublayers - 1):
        y = embeddings(case.batch, case.length, case.width, seed=i + 1)
        fused_state, fused_u, next_ctx = scheme.boundary(state, ctx, y, i)
        plain_state = scheme.write(state, ctx, y, i)
        plain_u, _ = scheme.read(plain_state, i + 1)
        pairs = [*zip(tensors(fused_state), tensors(plain_state), strict=True), (fused_u, plain_u)]
        error = max(float((fused - plain).abs().max()) for fused, plain in pairs)
        worst = max(worst, error)
        if error > 1e-9:
            raise Failed(f"boundary({i}) differs from write({i}) then read({i + 1}) by {error:.2g}")
        state, ctx = fused_state, next_ctx
    return f"largest difference {worst:.1g}"
