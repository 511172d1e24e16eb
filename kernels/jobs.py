"""What the benchmark times: every implementation of every operation at every shape, in order, with its inputs. And compiling all of it beforehand.

Compiling takes most of a benchmark's time, from a second for a Triton kernel to a minute for torch.compile. `compile_ahead` runs every job once, in
processes beside each other; what they leave in the compilers' caches on disk is there when the job is timed, alone.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from resbench.kernels import functional, peers, reference
from resbench.kernels.cases import make

SHAPES = (
    (16384, 4, 2560),
    (16384, 4, 4096),
    (16384, 4, 7168),
    (32768, 4, 512),
    (32768, 4, 768),
    (32768, 4, 1024),
    (32768, 4, 1280),
    (32768, 4, 2048),
    (16384, 2, 1024),
    (16384, 2, 2560),
    (16384, 8, 1024),
    (16384, 8, 2560),
)
"""(tokens, streams, width), bfloat16."""

QUICK = (SHAPES[1], SHAPES[5])

COMPILED = ((16384, 4, 4096), (32768, 4, 1024))
"""Where torch.compile takes part too: it spends up to a minute on each shape."""

BASELINE_SHAPES = ((16384, 4096), (32768, 1024))

Step = Callable[[dict[str, Tensor]], Any]


@dataclass(frozen=True)
class Job:
    """One implementation of one operation at one shape; ``streams`` is 1 for the baseline's."""

    operation: str
    implementation: str
    tokens: int
    streams: int
    width: int
    iterations: int = 0


def jobs(with_peers: bool, quick: bool = False) -> list[Job]:
    """All that is timed, ours first, so that a benchmark that is cut short has it; what the installed peers can do among it."""
    shapes = QUICK if quick else SHAPES
    found = [Job("sublayer", "resbench", *shape, iterations=20) for shape in shapes]
    found += [Job("sublayer", "resbench", *SHAPES[0], iterations=iterations) for iterations in (1, 50)]
    for tokens, width in BASELINE_SHAPES:
        found += [Job("add_rms_norm", name, tokens, 1, width) for name in baselines(with_peers)]
    others = [
        Job("sublayer", name, *shape, iterations=20)
        for shape in shapes
        for name in sublayers(shape[1], 20, with_peers, shape in COMPILED)
        if name != "resbench"
    ]
    return found + sorted(others, key=lambda job: job.implementation.startswith("torch"))


def prepare(job: Job) -> tuple[Step, dict[str, Tensor]]:
    """The call and its inputs on the GPU. What cannot be built raises as the implementation does."""
    if job.operation == "add_rms_norm":
        return baselines(True)[job.implementation], baseline_tensors(job.tokens, job.width)
    peer = sublayers(job.streams, job.iterations, True, True)[job.implementation]
    return peer.step, leaves(peer.arrange(sublayer_tensors(job.tokens, job.streams, job.width)))


def compile_ahead(wanted: Sequence[Job], processes: int) -> None:
    """Run every job that compiles something once, forward and backward, in so many processes. One that fails is left to the timing to report."""
    wanted = [job for job in wanted if job.implementation != "torch"]
    with (
        Progress(
            TextColumn("compiling"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), transient=True
        ) as progress,
        ProcessPoolExecutor(processes, get_context("spawn"), _alone) as pool,
    ):
        bar = progress.add_task("", total=len(wanted))
        # torch.compile, which takes longest, first
        for done in as_completed([pool.submit(_once, job) for job in reversed(wanted)]):
            if done.exception() is None and (said := done.result()):
                progress.console.print(said)
            progress.advance(bar)


def _alone() -> None:
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # there are processes enough


def _once(job: Job) -> str | None:
    try:
        step, tensors = prepare(job)
        outputs = [t for t in step(tensors) if t is not None]
        torch.autograd.backward(outputs, [torch.ones_like(t) for t in outputs])
        torch.cuda.synchronize()
    except Exception as error:
        return f"{job.implementation} at {job.tokens} x {job.streams} x {job.width}: {str(error)[:200]}"
    finally:
        torch.cuda.empty_cache()
    return None


def sublayers(n: int, iterations: int, with_peers: bool, compiled: bool) -> dict[str, "peers.Peer"]:
    """Implementations of one sublayer, by name."""

    def ours(t: dict[str, Tensor]) -> Any:
        return functional.mhc_boundary(
            t["x"], t["y"], t["post"], t["res"], t["phi"], t["alpha"], t["bias"], t["weight"], iterations
        )

    def eager(t: dict[str, Tensor]) -> Any:
        return reference.mhc_boundary(
            t["x"], t["y"], t["post"], t["res"], t["phi"], t["alpha"], t["bias"], t["weight"], iterations
        )

    steps: dict[str, peers.Step] = {"resbench": ours}
    if n == 4:
        steps["torch"] = eager
    if compiled:
        steps["torch.compile"] = torch.compile(eager, dynamic=False)
    found = {name: peers.Peer(step, lambda tensors: tensors) for name, step in steps.items()}
    return found | (peers.sublayers(n, iterations) if with_peers else {})


def sublayer_tensors(tokens: int, n: int, width: int) -> dict[str, Tensor]:
    """The boundary's tensors by name; ``weight`` is that of the next branch's norm."""
    case = make("mhc_boundary", tokens, n, width, torch.bfloat16, "cuda", backend="auto")
    tensors = {k: v for k, v in case.inputs.items() if v is not None}
    tensors["weight"] = tensors.pop("norm_weight")
    return tensors


def leaves(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies that take gradients."""
    return {
        name: tensor.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
        for name, tensor in tensors.items()
    }


def baselines(with_peers: bool) -> dict[str, Step]:
    """Implementations of the resnet boundary, by name."""

    def wrap(call: Callable[..., Any]) -> Step:
        return lambda t: call(t["x"], t["y"], t["weight"])

    found = {
        "resbench": wrap(functional.add_rms_norm),
        "torch": wrap(reference.add_rms_norm),
        "torch.compile": torch.compile(wrap(reference.add_rms_norm), dynamic=False),
    }
    liger = peers.liger_add_rms_norm() if with_peers else None
    return found | ({} if liger is None else {"liger-kernel": wrap(liger)})


def baseline_tensors(tokens: int, width: int) -> dict[str, Tensor]:
    case = make("add_rms_norm", tokens, 1, width, torch.bfloat16, "cuda", backend="auto")
    return leaves({k: v for k, v in case.inputs.items() if v is not None})
