"""Checks of what is stated against what is counted: parameters and arithmetic."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from resbench.architectures.conformance.checking import Case, Failed, NotApplicable, check
from resbench.architectures.conformance.subject import Subject, branch_norm_params, embeddings
from resbench.architectures.norm import RMSNorm

TOLERANCE = 0.05
"""Stated and counted FLOPs may differ by this: a few operations per coefficient are nobody's concern beside thousands per channel."""

# ruff: disable[SIM905]
PER_ELEMENT = frozenset(
    "add sub rsub mul div neg pow square sqrt rsqrt reciprocal exp exp2 log log2 log1p expm1 sigmoid tanh silu gelu relu softplus sin cos abs "
    "maximum minimum clamp clamp_min clamp_max addcmul addcdiv lerp add_ sub_ mul_ div_".split()
)
PER_INPUT = frozenset("sum mean prod amax amin max min var linalg_vector_norm norm cumsum".split())
# ruff: enable[SIM905]
SEVERAL_PER_INPUT = {"_softmax": 5, "_log_softmax": 5, "logsumexp": 4}
"""max, subtract, exp, sum, and a division in a softmax."""


class ArithmeticCounter(TorchDispatchMode):
    """Counts arithmetic as it is executed: a multiply-add as two, any other operation as one per element; moving and casting is free."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self.uncountable: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        if func._overloadpacket in flop_registry:
            self.total += int(flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out))
        elif name in PER_ELEMENT:
            self.total += out.numel() * (2 if name in ("addcmul", "addcdiv", "lerp") else 1)
        elif name in PER_INPUT:
            self.total += args[0].numel()
        elif name in SEVERAL_PER_INPUT:
            self.total += SEVERAL_PER_INPUT[name] * args[0].numel()
        elif name in ("linalg_solve_ex", "_linalg_solve_ex"):
            n = args[0].shape[-1]
            self.total += args[0].numel() * n * 2 // 3 + 2 * n * args[1].numel()
        elif not func._schema.name.startswith("aten::") and not func._schema.name.startswith("prim"):
            self.uncountable.add(func._schema.name)
        return out


@check(
    "parameters",
    "connection_params() is what the scheme adds to a model, norms in front of branches apart",
    [Case(1, 1, 1), Case(1, 1, 3)],
)
def parameters(subject: Subject, case: Case) -> str:
    scheme = subject.build(case.width, case.sublayers)
    model = subject.stack(scheme)
    counted = sum(p.numel() for p in model.parameters()) - branch_norm_params(scheme)
    stated = scheme.connection_params()
    if stated != counted:
        raise Failed(f"connection_params() states {stated:,}, the model has {counted:,} more than plain branches")
    return f"{stated:,} at C={case.width} and {case.sublayers} sublayers"


@check(
    "FLOPs",
    f"connection_flops() within {TOLERANCE:.0%} of the arithmetic counted in a forward pass",
    [Case(1, 1, 4, 384)],
)
def flops(subject: Subject, case: Case) -> str:
    scheme = subject.build(case.width, case.sublayers).requires_grad_(False)
    stated = scheme.connection_flops()
    if not isinstance(stated, int):
        raise Failed(f"connection_flops() returned {type(stated).__name__}, expected an int")
    x = embeddings(1, 1, case.width, dtype=torch.float32)
    with ArithmeticCounter() as counter:
        state = scheme.enter(x)
        for i in range(case.sublayers):
            _, ctx = scheme.read(state, i)
            state = scheme.write(state, ctx, x, i)
        scheme.exit(state)
    if counter.uncountable:
        raise NotApplicable(
            f"{', '.join(sorted(counter.uncountable))} has no formula: register one with torch.utils.flop_counter.register_flop_formula"
        )
    counted = counter.total - (case.sublayers * norm_cost(x) if subject.norms_in_read(scheme) else 0)
    off = abs(stated - counted) / max(counted, 1)
    if off > TOLERANCE:
        raise Failed(
            f"connection_flops() states {stated:,} per token, {counted:,} were counted ({stated / max(counted, 1):.3f}x)"
        )
    return f"{stated:,} stated, {counted:,} counted per token"


def norm_cost(x: Tensor) -> int:
    """What the RMSNorm in front of one branch costs."""
    with ArithmeticCounter() as counter:
        RMSNorm(x.shape[-1]).requires_grad_(False)(x)
    return counter.total
