"""Checks of what the stability metrics stand on: mixing, its claimed properties, read and write weights, and streams that stay apart."""

import inspect
import itertools
from typing import Any

import torch
from torch import Tensor

from resbench.architectures.conformance.checking import Case, Failed, NotApplicable, check
from resbench.architectures.conformance.subject import Subject, embeddings, like, tensors
from resbench.architectures.norm import RMSNorm
from resbench.architectures.scheme import MixingClaim, ResidualScheme
from resbench.architectures.stack import run_stack

CASES = (Case(1, 1, 1), Case(1, 2, 3))
EXACT = 1e-9
BUDGETS = (1, 5, 20, 100, 500)
LIMIT = 1e-2
APART = 1e-3
"""Smallest relative spread of streams with random parameters that counts as apart."""
EQUAL = 1e-6
"""Relative spread after training below which streams are equal: a symmetric start keeps them so to rounding."""


def before(
    subject: Subject, case: Case, i: int, scale: float = 0.3, **arguments: Any
) -> tuple[ResidualScheme, Any, Any]:
    """A perturbed scheme with the state before sublayer i, moved off what `enter` gives, and what `read` returned for it."""
    scheme = subject.perturbed(case.width, case.sublayers, scale, **arguments)
    state = scheme.enter(embeddings(case.batch, case.length, case.width))
    for j in range(i):
        _, ctx = scheme.read(state, j)
        state = scheme.write(state, ctx, embeddings(case.batch, case.length, case.width, seed=j + 1), j)
    noise = torch.Generator().manual_seed(2)
    state = like(state, [t + 0.3 * torch.randn(t.shape, generator=noise, dtype=torch.float64) for t in tensors(state)])
    _, ctx = scheme.read(state, i)
    return scheme, state, ctx


def streams_of(scheme: ResidualScheme, state: Any, because: str) -> Tensor:
    """The streams of a state. Raises Failed when there are none, although ``because``."""
    streams = scheme.streams(state)
    if streams is None:
        raise Failed(f"{because}, but streams() is None")
    return streams


@check("mixing", "mixing(i) is the Jacobian of write(i) with respect to the streams", CASES)
def mixing(subject: Subject, case: Case) -> str:
    i = case.sublayers - 1
    with torch.no_grad():
        scheme, state, ctx = before(subject, case, i)
        claimed = scheme.mixing(state, ctx, i)
        if claimed is None:
            raise NotApplicable("mixing() is None: not a linear mix of streams")
        why = "mixing() returns a matrix"
        streams = streams_of(scheme, state, why)
        n = streams.shape[-2]
        if claimed.shape != (case.batch, case.length, n, n):
            raise Failed(
                f"mixing() is {list(claimed.shape)}, expected [B, T, n, n] = {[case.batch, case.length, n, n]}"
            )
        claimed = claimed.double()
        y = embeddings(case.batch, case.length, case.width, seed=5)
        worst, transposed = 0.0, 0.0
        start = streams_of(scheme, scheme.write(state, ctx, y, i), why)
        for seed in range(2 * n):
            # write is affine in the state when it is a mix, so a difference over any step is the Jacobian times that step
            noise = torch.Generator().manual_seed(10 + seed)
            steps = [torch.randn(t.shape, generator=noise, dtype=torch.float64) for t in tensors(state)]
            there = like(state, [t + step for t, step in zip(tensors(state), steps, strict=True)])
            into = streams_of(scheme, there, why) - streams
            out = streams_of(scheme, scheme.write(there, ctx, y, i), why) - start
            worst = max(worst, float((claimed @ into - out).abs().max()))
            transposed = max(transposed, float((claimed.mT @ into - out).abs().max()))
    if worst > EXACT:
        hint = "; its transpose is right: index it [out, in]" if transposed <= EXACT else ""
        raise Failed(f"mixing({i}) is off the Jacobian of write({i}) by {worst:.2g}{hint}")
    return f"n={n}, to {max(worst, 1e-17):.0g}"


@check("mixing claims", "what mixing_claims() says of H_res holds, at every Sinkhorn budget", [Case(2, 16, 1)])
def claims(subject: Subject, case: Case) -> str:
    with torch.no_grad():
        scheme, state, ctx = before(subject, case, 0, scale=0.5)
        claimed = scheme.mixing_claims()
        if not claimed:
            raise NotApplicable("mixing_claims() is empty")
        found = scheme.mixing(state, ctx, 0)
        if found is None:
            raise Failed("mixing_claims() says something of a matrix that mixing() does not return")
        said = []
        for claim in claimed:
            if claim.budget is None:
                error = violation(claim, found.double())
                if error > EXACT:
                    raise Failed(f"claims {claim.holds}, but H_res is off by {error:.2g}")
                said.append(f"{claim.holds} to {max(error, 1e-17):.0g}")
            else:
                said.append(in_the_limit(subject, case, claim))
    return "; ".join(said)


def in_the_limit(subject: Subject, case: Case, claim: MixingClaim) -> str:
    """The error at rising budgets: never rising, and small at the largest."""
    assert claim.budget is not None
    if claim.budget not in inspect.signature(subject.scheme).parameters:
        raise Failed(f"claims {claim.holds} in the limit of {claim.budget}, which is no argument of the constructor")
    errors = []
    for budget in BUDGETS:
        scheme, state, ctx = before(subject, case, 0, scale=0.5, **{claim.budget: budget})
        found = scheme.mixing(state, ctx, 0)
        assert found is not None
        errors.append(violation(claim, found.double()))
    said = ", ".join(f"{budget}: {error:.1g}" for budget, error in zip(BUDGETS, errors, strict=True))
    rises = any(later > earlier + EXACT for earlier, later in itertools.pairwise(errors))
    if rises or errors[-1] > LIMIT:
        raise Failed(f"claims {claim.holds} in the limit of {claim.budget}, but the error goes {said}")
    return f"{claim.holds} by {claim.budget} {said}"


def violation(claim: MixingClaim, H: Tensor) -> float:
    """How far H [..., n, n] is from having the property, largest over tokens."""
    identity = torch.eye(H.shape[-1], dtype=H.dtype)
    match claim.holds:
        case "identity":
            off = H - identity
        case "row sums":
            off = H.sum(-1) - 1
        case "column sums":
            off = H.sum(-2) - 1
        case "non-negative":
            off = H.clamp_max(0.0)
        case "orthogonal":
            off = H.mT @ H - identity
    return float(off.abs().max())


@check("read and write", "read_write(i) is what read(i) sums and write(i) adds", CASES)
def read_write(subject: Subject, case: Case) -> str:
    i = case.sublayers - 1
    with torch.no_grad():
        scheme, state, ctx = before(subject, case, i)
        weights = scheme.read_write(state, ctx, i)
        if weights is None:
            raise NotApplicable("read_write() is None")
        post = weights[1].double()
        why = "read_write() returns weights"
        streams = streams_of(scheme, state, why)
        y, step = (embeddings(case.batch, case.length, case.width, seed=seed) for seed in (5, 6))
        with_step = streams_of(scheme, scheme.write(state, ctx, y + step, i), why)
        added = with_step - streams_of(scheme, scheme.write(state, ctx, y, i), why)
        off_write = float((added - post.unsqueeze(-1) * step.unsqueeze(-2)).abs().max())
        if off_write > EXACT:
            raise Failed(
                f"write({i}) adds the branch's output with other weights than read_write({i}) says: off by {off_write:.2g}"
            )
        # A norm inside read leaves only the direction, and its weight must not turn it.
        for module in scheme.modules():
            if isinstance(module, RMSNorm):
                module.weight.fill_(1.0)
        u, ctx = scheme.read(state, i)
        weights = scheme.read_write(state, ctx, i)
        assert weights is not None
        summed = (weights[0].double().unsqueeze(-1) * streams).sum(-2)
        if subject.norms_in_read(scheme):
            u, summed = (v / v.square().mean(-1, keepdim=True).sqrt() for v in (u, summed))
        off_read = float((u - summed).abs().max())
        if off_read > 1e-4:  # the eps of the norm
            raise Failed(
                f"read({i}) sums the streams with other weights than read_write({i}) says: off by {off_read:.2g}"
            )
    return f"n={streams.shape[-2]}"


@check(
    "streams apart",
    "streams do not collapse into one between sublayers, nor stay equal for ever",
    [Case(2, 4, 2), Case(2, 4, 6)],
)
def streams_apart(subject: Subject, case: Case) -> str:
    scheme = subject.build(case.width, case.sublayers).double()
    first = scheme.streams(scheme.enter(embeddings(1, 1, case.width)))
    if first is None:
        raise NotApplicable("streams() is None")
    if first.shape[-2] == 1:
        raise NotApplicable("one stream")
    perturbed = spreads(subject, subject.perturbed(case.width, case.sublayers), case)
    if (least := min(perturbed[1:])) < APART:
        where = 1 + perturbed[1:].index(least)
        raise Failed(
            f"streams collapse before sublayer {where}: with random parameters they differ by {least:.1g} of their norm"
        )
    # From the scheme's own start a few steps of training must pull the streams apart: a symmetric start never would.
    model = subject.stack(scheme)
    optimizer = torch.optim.AdamW(scheme.parameters(), lr=0.05)
    x, target = (embeddings(case.batch, case.length, case.width, seed=seed) for seed in (1, 2))
    for _ in range(4):
        optimizer.zero_grad()
        (model(x) - target).square().mean().backward()
        optimizer.step()
    trained = spreads(subject, scheme, case)
    if trained[-1] < EQUAL:
        raise Failed(
            f"after 4 steps of training the streams differ by {trained[-1]:.1g} of their norm: they started equal and stay so"
        )
    return f"spread {least:.2g} with random parameters, {trained[-1]:.2g} after 4 steps"


def spreads(subject: Subject, scheme: ResidualScheme, case: Case) -> list[float]:
    """Relative distance of the streams to their mean before every sublayer and after the last."""
    found: list[float] = []

    def measure(state: Any) -> None:
        streams = scheme.streams(state)
        assert streams is not None
        found.append(float((streams - streams.mean(-2, keepdim=True)).norm() / streams.norm()))

    with torch.no_grad():
        x = embeddings(case.batch, case.length, case.width, seed=3)
        branches = subject.stack(scheme).branches
        run_stack(scheme, branches, x, observe=lambda i, state, ctx, u, y: measure(state))
        last = case.sublayers - 1
        state = scheme.enter(x)
        for i, branch in enumerate(branches):
            u, ctx = scheme.read(state, i)
            state = scheme.write(state, ctx, branch(u), i)
            if i == last:
                measure(state)
    return found
