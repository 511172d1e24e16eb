"""Checks of what may depend on what: earlier tokens, other sequences, earlier calls."""

import torch
from torch import Tensor

from resbench.architectures.conformance.checking import Case, Failed, check
from resbench.architectures.conformance.subject import Subject, embeddings

CASES = (Case(2, 2, 1), Case(2, 4, 3))


def moved(subject: Subject, case: Case, sequence: int, token: int) -> Tensor:
    """Largest change of each output token [B, T] when one input token is moved."""
    model = subject.stack(subject.perturbed(case.width, case.sublayers))
    x = embeddings(case.batch, case.length, case.width)
    with torch.no_grad():
        before = model(x)
        x[sequence, token] += embeddings(1, 1, case.width, seed=7)[0, 0]
        return (model(x) - before).abs().amax(-1)


@check("causality", "no token sees a later one", CASES)
def causality(subject: Subject, case: Case) -> str:
    last = case.length - 1
    change = moved(subject, case, 0, last)[0]
    if (worst := float(change[:last].max())) > 1e-12:
        token = int(change[:last].argmax())
        raise Failed(f"moving token {last} changes the output of token {token} by {worst:.2g}")
    if float(change[last]) == 0:
        raise Failed(f"moving token {last} changes nothing, not even its own output")
    return "earlier outputs do not move"


@check("batch independence", "no sequence sees another", CASES)
def batch_independence(subject: Subject, case: Case) -> str:
    change = moved(subject, case, 0, 0)
    if (worst := float(change[1:].max())) > 1e-12:
        raise Failed(f"moving a token of sequence 0 changes sequence 1 by {worst:.2g}")
    return "other sequences do not move"


@check("determinism", "the same input gives the same output, whatever ran before", CASES)
def determinism(subject: Subject, case: Case) -> str:
    model = subject.stack(subject.perturbed(case.width, case.sublayers))
    x, other = (embeddings(case.batch, case.length, case.width, seed=seed) for seed in (0, 1))
    with torch.no_grad():
        first = model(x)
        if not torch.equal(again := model(x), first):
            raise Failed(f"two calls with one input differ by {float((again - first).abs().max()):.2g}")
        model(other[:, :1])
        if not torch.equal(later := model(x), first):
            raise Failed(
                f"a call with another input in between changes the output by {float((later - first).abs().max()):.2g}"
            )
    here, there = (subject.build(case.width, case.sublayers).state_dict() for _ in range(2))
    for name, value in here.items():
        if not torch.equal(value, there[name]):
            raise Failed(f"the seed does not fix the initial {name}")
    return "bit for bit"
