"""Compile every kernel that some operations launch for a GPU, on a machine without one; a line of JSON for each kernel.

A process of its own: what is imported here is patched. Launches compile instead of running, and CPU tensors pass for a GPU's.
Arguments: the compute capability (90 for Hopper), then OPERATION:STREAMS for all its kernels, OPERATION:STREAMS:gluon for those in Gluon.
"""

import json
import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.experimental.gluon._runtime import GluonASTSource, GluonJITFunction
from triton.runtime.jit import JITFunction

from resbench.kernels import functional
from resbench.kernels.cases import make
from resbench.kernels.check import run
from resbench.kernels.launches import fused

CAPABILITY = int(sys.argv[1])
POINTERS = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}
OPTIONS = ("num_warps", "num_stages", "maxnreg")


def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **named: Any) -> None:
    """In the place of `JITFunction.run`."""
    values = dict(zip((p.name for p in self.params), args, strict=False)) | named
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    aligned: dict[tuple[int, ...], Any] = {}
    for position, parameter in enumerate(self.params):
        value = values[parameter.name]
        if parameter.is_constexpr or value is None:
            signature[parameter.name] = "constexpr"
            constants[position,] = value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = POINTERS[value.dtype]
            aligned[position,] = [["tt.divisibility", 16]]
        else:
            signature[parameter.name] = "i32" if isinstance(value, int) else "fp32"
    in_gluon = isinstance(self, GluonJITFunction)
    launch = self.__name__, str(signature), str(constants)
    if launch in done or (only_gluon and not in_gluon):
        return
    done.add(launch)
    source = (GluonASTSource if in_gluon else ASTSource)(self, signature, constants, aligned)
    options = {name: named[name] for name in OPTIONS if name in named}
    compiled = triton.compile(source, target=GPUTarget("cuda", CAPABILITY, 32), options=options)
    print(json.dumps({"of": wanted, "kernel": self.__name__, "shared": compiled.metadata.shared}), flush=True)


JITFunction.run = compile_only
fused.suits = lambda x, *_: CAPABILITY == 90 and x.dtype == torch.bfloat16 and x.shape[2] % 8 == 0
functional.INTERPRETED = True
done: set[tuple[str, str, str]] = set()
for wanted in sys.argv[2:]:
    operation, n, *rest = wanted.split(":")
    only_gluon = rest == ["gluon"]
    case = make(operation, 72, int(n), 256, torch.bfloat16, "cpu")
    run(case.call, case.inputs, case.outputs, seed=1)
