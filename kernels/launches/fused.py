"""Launches of the Gluon kernels: the write with the projection, and the whole backward pass between two branches.

They take bf16 streams, n in {2, 4} and widths that are multiples of 8 (16-byte rows), which is how models train on a GPU; everything else goes to
the Triton kernels of `forward.py` and `backward.py`, which also run in the interpreter.
"""

import functools
import re
import warnings
from typing import Any

import torch
import triton
from torch import Tensor

from resbench.kernels import tiles
from resbench.kernels.launches.coefficients import gate
from resbench.kernels.launches.plan import Boundary, Coefficients, cdiv
from resbench.kernels.triton import pack

STREAMS = (2, 4)

KNOWN = (3, 6), (3, 9)
"""Oldest and newest Triton with which every kernel in Gluon was compiled (`tests/kernels/test_compiles.py`)."""


@functools.cache
def available() -> bool:
    """Whether this Triton is one whose Gluon, an experimental interface, the kernels are known to compile with. Says so once where it is not."""
    version = tuple(map(int, re.findall(r"\d+", triton.__version__)[:2]))
    if KNOWN[0] <= version <= KNOWN[1]:
        return True
    oldest, newest = (".".join(map(str, known)) for known in KNOWN)
    warnings.warn(
        f"Triton {triton.__version__}: the fastest kernels are known to compile with Triton {oldest} to {newest} only, so slower ones are used. "
        "To have them, install a PyTorch that comes with one of these",
        stacklevel=2,
    )
    return False


def takes(x: Tensor, *others: Tensor | None) -> bool:
    """Whether the kernels can work on streams x [M, n, C] and these other tensors of the streams' dtype."""
    return x.shape[1] in STREAMS and suits(x, *others) and available()


def suits(x: Tensor, *others: Tensor | None) -> bool:
    """Whether these are bf16 tensors on a Hopper GPU, with rows of whole 16 bytes."""
    if not x.is_cuda or x.dtype != torch.bfloat16 or x.shape[2] % 8:
        return False
    if torch.cuda.get_device_capability(x.device)[0] != 9:
        return False
    return all(t is None or (t.dtype == x.dtype and t.data_ptr() % 16 == 0) for t in (x, *others))


def packed(phi: Tensor, n: int, C: int, KP: int, terms: int) -> Tensor:
    """phi [K, n C] in the order of the kernels: [tiles, n, room, KP, 32] (parts that add up) or, without terms, [tiles, KP, n, 32]."""
    blocks = cdiv(C, 32)
    room = terms if terms < 3 else 4
    shape = (blocks, n, room, KP, 32) if terms else (blocks, KP, n, 32)
    found = torch.empty(shape, device=phi.device, dtype=torch.bfloat16)
    pack.pack_kernel[(blocks, n)](phi, found, C, n=n, K=phi.shape[0], KP=KP, TERMS=terms, num_warps=4)
    return found


def write_project(
    plan: Boundary,
    x: Tensor,
    y: Tensor,
    post: Tensor,
    res: Tensor | None,
    phi: Tensor,
    scale: Tensor,
    bias: Tensor,
    joined: Tensor,
    found: Coefficients,
) -> None:
    """Fill ``joined`` [M, n, C] and ``found``."""
    from resbench.kernels.gluon import write

    M, n, C = x.shape
    K, KP = phi.shape[0], tiles.coefficient_tile(phi.shape[0])
    squares = n if plan.streamwise else 1
    parts, blocks = tiles.write_parts(C), cdiv(M, write.TOKENS)
    wide: dict[str, Any] = {"device": x.device, "dtype": torch.float32}
    projected, sums = torch.empty(parts, M, KP, **wide), torch.empty(parts, squares, M, **wide)
    write.write_project_kernel[(parts, blocks)](
        x,
        y,
        post,
        res,
        packed(phi, n, C, KP, plan.terms),
        joined,
        projected,
        sums,
        M,
        n=n,
        C=C,
        K=K,
        KP=KP,
        TERMS=plan.terms,
        MIXES=plan.mixes,
        SQUARES=squares,
        PARTS=parts,
        STAGES=3 if n * plan.terms <= 8 else 2,
        num_warps=4,
    )
    gate(plan, x, projected, sums, parts, scale, bias, found)


def gradient(
    plan: Boundary,
    x: Tensor,
    y: Tensor,
    post: Tensor,
    res: Tensor | None,
    dout: Tensor | None,
    du: Tensor | None,
    pre: Tensor | None,
    weight: Tensor | None,
    norm: Tensor | None,
    g: Tensor | None,
    q: Tensor | None,
    phi: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x and y, and partial sums [parts, M, n + n n] (without mixing [.., n]) of those of post and res."""
    from resbench.kernels.gluon import gradient as kernel

    M, n, C = x.shape
    wide: dict[str, Any] = {"device": x.device, "dtype": torch.float32}
    parts, blocks = tiles.gradient_parts(C), cdiv(M, kernel.TOKENS)
    KP = 16 if g is None else g.shape[0]
    size = n + (n * n if plan.mixes else 0)
    weighs = du is not None and plan.norms and weight is not None
    dx, dy = torch.empty_like(x), torch.empty_like(y)
    sums = torch.empty(parts, M, size, **wide)
    kernel.gradient_kernel[(parts, blocks)](
        x,
        y,
        post,
        res,
        dout,
        du,
        pre,
        weight,
        norm,
        g,
        q,
        packed(phi, n, C, KP, 0) if phi is not None else None,
        dx,
        dy,
        sums,
        M,
        n=n,
        C=C,
        KP=KP,
        MIXES=plan.mixes,
        PROJECTS=phi is not None,
        SQUARES=1 if q is None else q.shape[0],
        READS=du is not None,
        NORMS=plan.norms,
        WEIGHS=weighs,
        OUT=dout is not None,
        PARTS=parts,
        STAGES=2,
        num_warps=4,
        maxnreg=168,
    )
    return dx, dy, sums
