"""Every built-in scheme conforms in every form the tests know, and schemes that are wrong in one way fail there."""

import broken_schemes as broken
import pytest
from architectures_support import SCHEMES

from resbench.architectures import ResidualScheme
from resbench.architectures.conformance import CHECKS, Case, Check, Failed, Subject, numerics, run_checks
from resbench.architectures.registry import resolve

THOROUGH = {name for name, _ in SCHEMES.values()} | {"hc static", "attnres block", "denseformer 2x2", "laurel pa"}
"""Labels on which every check runs; the others differ in an argument, and compiling 64 sublayers of each again would take minutes."""
PAIRS = [
    (label, check)
    for label in SCHEMES
    for check in CHECKS
    if label in THOROUGH or check.name not in ("torch.compile", "depth")
]


@pytest.mark.parametrize(("label", "check"), PAIRS, ids=[f"{label}-{check}" for label, check in PAIRS])
def test_conforms(label: str, check: Check) -> None:
    name, arguments = SCHEMES[label]
    check(Subject(resolve("scheme", name), arguments))


def test_every_check_runs_on_every_built_in_scheme() -> None:
    assert {(SCHEMES[label][0], check) for label, check in PAIRS} == {
        (name, check) for name, _ in SCHEMES.values() for check in CHECKS
    }


WRONG: dict[type[ResidualScheme], tuple[str, str]] = {
    broken.LeaksTheFuture: ("causality", "moving token 1 changes the output of token 0"),
    broken.MixesTheBatch: ("batch independence", "moving a token of sequence 0 changes sequence 1"),
    broken.CollapsesStreams: ("streams apart", "streams collapse before sublayer 1"),
    broken.StaysSymmetric: ("streams apart", "they started equal and stay so"),
    broken.WrongMixing: ("mixing", "off the Jacobian of write"),
    broken.TransposedMixing: ("mixing", "its transpose is right: index it [out, in]"),
    broken.WrongClaim: ("mixing claims", "claims column sums, but H_res is off by"),
    broken.WrongWriteWeights: ("read and write", "adds the branch's output with other weights"),
    broken.WrongReadWeights: ("read and write", "sums the streams with other weights"),
    broken.WrongParameterCount: ("parameters", "states 6, the model has 8 more"),
    broken.WrongFlopCount: ("FLOPs", "(0.500x)"),
    broken.NaNAtDepth: ("depth", "after 64 sublayers"),
    broken.ForgetsTheDtype: ("shapes and dtypes", "torch.float32 [1, 1, 1], expected torch.bfloat16"),
    broken.WrongGradient: ("gradients", "is not that of finite differences"),
    broken.NoisyForward: ("determinism", "two calls with one input differ"),
    broken.BreaksTheGraph: ("torch.compile", "breaks the graph at broken_schemes.py:"),
    broken.WrongBoundary: ("boundary", "differs from write(0) then read(1)"),
    broken.ForgetsAnInitialValue: ("state dict", "something that matters is not in the state dict"),
    broken.UntypedConstructor: ("constructor", "argument 'gain' has no type hint"),
}


FORWARD_DIFFERS = {broken.LeaksTheFuture, broken.CollapsesStreams, broken.NaNAtDepth, broken.BreaksTheGraph}


def test_the_sound_scheme_the_broken_ones_come_from_conforms() -> None:
    assert {result.outcome for result in run_checks(Subject(broken.Sound))} <= {"passed", "not applicable"}


@pytest.mark.parametrize("scheme", WRONG, ids=lambda scheme: scheme.__name__)
def test_a_broken_scheme_fails_at_the_right_check_and_no_other(scheme: type[ResidualScheme]) -> None:
    check, says = WRONG[scheme]
    # Compiling takes as long as all other checks together: only where the forward pass itself is another.
    checks = [c for c in CHECKS if scheme in FORWARD_DIFFERS or c.name != "torch.compile"]
    failures = {
        result.check.name: result.found for result in run_checks(Subject(scheme), checks) if result.outcome == "failed"
    }
    assert list(failures) == [check], failures
    assert says in failures[check]


def test_a_scheme_that_counts_its_calls_cannot_be_checkpointed() -> None:
    # Its write and its boundary are different functions too, so it fails there as well.
    results = {result.check.name: result for result in run_checks(Subject(broken.CountsItsCalls))}
    assert results["checkpointing"].outcome == "failed"
    assert "recomputed in the backward pass" in results["checkpointing"].found


def test_a_failure_is_reported_on_the_smallest_case() -> None:
    results = {result.check.name: result for result in run_checks(Subject(broken.LeaksTheFuture))}
    assert results["causality"].case == Case(batch=2, length=2, sublayers=1, width=4)
    results = {result.check.name: result for result in run_checks(Subject(broken.StateIsAList))}
    assert results["shapes and dtypes"].found.startswith("the state is list, expected a tensor or a tuple of tensors")
    assert results["shapes and dtypes"].case == Case(1, 1, 1, 1)


def test_a_kernel_that_is_not_its_definition_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "INTERPRETED", True)
    assert "off on" in numerics.triton(broken.Sound)
    with pytest.raises(Failed, match=r"the output is \d\.\d% off plain torch \[B=1 T=3 C=64, 1 sublayer\]"):
        numerics.triton(broken.WrongKernel)


def test_widths_a_scheme_refuses_are_reported_and_not_held_against_it() -> None:
    by_name = {check.name: check for check in CHECKS}
    found = by_name["shapes and dtypes"](Subject(resolve("scheme", "frac-connections"), {"n_fractions": 4}))
    assert found.endswith("; refuses C = 1, 3, 5")
    assert "refuses" not in by_name["shapes and dtypes"](Subject(resolve("scheme", "mhc")))
