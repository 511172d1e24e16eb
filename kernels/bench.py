"""Timings on one GPU: copy bandwidth first, then the sublayer and the baseline's, forward and backward, against the byte floor and other
implementations. Nothing is timed that does not pass the check.

A sublayer is timed with an identity branch: its boundary takes streams x and the branch's output y and returns x', the next branch's input and
the next coefficients, with random cotangents for all of them. The floor is that of two kernels (write, then read) that move every stream once:
3S + 2c forward and 5S + 3c backward, S = n c, c = one vector of C in the streams' dtype. Times are medians of CUDA graph replays where the
implementation can be captured, else of launches from Python.
"""

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import triton
from torch import Tensor

from resbench.kernels.cases import make
from resbench.kernels.check import check
from resbench.kernels.jobs import Job, compile_ahead, jobs, prepare


@dataclass(frozen=True)
class Row:
    """One implementation of one operation at one shape. Times in ms; ``over_floor`` is time / (bytes of the floor / copy bandwidth)."""

    operation: str
    implementation: str
    tokens: int
    streams: int
    width: int
    iterations: int
    forward_ms: float
    both_ms: float
    forward_over_floor: float
    backward_over_floor: float
    both_over_floor: float
    kept_over_streams: float
    launches: int
    captured: bool


@dataclass
class Report:
    """Where the measurements were made, the copy bandwidth of the same run, and the rows."""

    environment: dict[str, Any]
    copy_bytes_per_s: float
    rows: list[Row] = field(default_factory=list)
    keep: "Callable[[Report], None]" = lambda report: None

    def add(self, row: Row) -> None:
        """Add a row, say so, and hand the report so far to ``keep``."""
        self.rows.append(row)
        print(
            f"{row.operation} T={row.tokens} n={row.streams} C={row.width} t_max={row.iterations} {row.implementation}: "
            f"{row.forward_ms:.3f} + {row.both_ms - row.forward_ms:.3f} ms, {row.forward_over_floor:.2f} {row.backward_over_floor:.2f} "
            f"{row.both_over_floor:.2f} x floor, kept {row.kept_over_streams:.2f}, {row.launches} launches",
            flush=True,
        )
        self.keep(self)

    def as_dict(self) -> dict[str, Any]:
        return {
            "environment": self.environment,
            "copy_bytes_per_s": self.copy_bytes_per_s,
            "rows": [asdict(row) for row in self.rows],
        }


def run(
    with_peers: bool,
    quick: bool = False,
    processes: int = 0,
    keep: Callable[[Report], None] = lambda report: None,
) -> Report | None:
    """Measure; None if an operation fails the check. ``processes`` compile everything beforehand (0: each when it is timed); ``keep`` is called with
    the report after every row.
    """
    if not passes():
        return None
    wanted = jobs(with_peers, quick)
    if processes:
        compile_ahead(wanted, processes)
    report = Report(environment(), copy_bandwidth(), keep=keep)
    for job in wanted:
        measure(report, job)
        torch.cuda.empty_cache()
    return report


def passes() -> bool:
    """The sublayer and the baseline pass the check on this GPU."""
    shapes = {
        "mhc_boundary": ((130, 4, 200), (1024, 4, 2560), (77, 2, 192), (33, 8, 96)),
        "add_rms_norm": ((130, 4, 200), (1024, 4, 2560)),
    }
    for name in shapes:
        for shape in shapes[name]:
            findings = check(make(name, *shape, torch.bfloat16, "cuda"), shape, torch.bfloat16, 20)
            failed = [f"{f.quantity} {f.error:.1e} (bar {f.bar:.0e})" for f in findings if not f.passed]
            print(f"{name} {shape}: {'ok' if not failed else 'FAILED ' + ', '.join(failed)}", flush=True)
            if failed:
                return False
    return True


def environment() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": properties.L2_cache_size,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
        "dtype": "bfloat16",
    }


def copy_bandwidth() -> float:
    """Bytes per second, read plus written, of a 2 GiB device-to-device copy."""
    source = torch.empty(2**31, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    return 2 * source.numel() / (median_ms(lambda: target.copy_(source)) * 1e-3)


def floor_bytes(operation: str, tokens: int, n: int, width: int) -> tuple[int, int]:
    """(forward, backward) bytes: two streams in and two out for the baseline; 3S + 2c and 5S + 3c for the sublayer."""
    c = 2 * width * tokens
    if operation == "add_rms_norm":
        return 4 * c, 4 * c
    return (3 * n + 2) * c, (5 * n + 3) * c


def measure(report: Report, job: Job) -> None:
    """Add a row; an implementation that fails is added with infinite times and its error printed, never left out."""
    tokens, n, width = job.tokens, job.streams, job.width
    try:
        step, tensors = prepare(job)
        with torch.no_grad():
            cotangents = [torch.randn_like(t) for t in step(tensors) if t is not None]

        def both() -> None:
            for tensor in tensors.values():
                tensor.grad = None
            outputs = [t for t in step(tensors) if t is not None]
            torch.autograd.backward(outputs, cotangents)

        def forward() -> None:
            with torch.no_grad():
                step(tensors)

        forward_ms, captured = time(forward)
        both_ms, both_captured = time(both)
        kept, launches = kept_bytes(lambda: step(tensors), tensors), count_launches(both)
    except (RuntimeError, AssertionError, ValueError, TypeError, AttributeError) as error:
        print(f"{job.implementation} failed at {tokens} x {n} x {width}: {str(error)[:300]}")
        forward_ms = both_ms = float("inf")
        kept, launches, captured, both_captured = 0, 0, False, False
    floors = [b / report.copy_bytes_per_s * 1e3 for b in floor_bytes(job.operation, tokens, n, width)]
    report.add(
        Row(
            job.operation,
            job.implementation,
            tokens,
            n,
            width,
            job.iterations,
            forward_ms,
            both_ms,
            forward_ms / floors[0],
            (both_ms - forward_ms) / floors[1],
            both_ms / sum(floors),
            kept / (2 * n * width * tokens),
            launches,
            captured and both_captured,
        )
    )


def time(call: Callable[[], Any]) -> tuple[float, bool]:
    """(median ms, whether it was a CUDA graph that was replayed)."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            call()
    except RuntimeError:
        torch.cuda.synchronize()
        return median_ms(call), False
    return median_ms(graph.replay), True


def median_ms(call: Callable[[], Any], repeats: int = 20) -> float:
    """Median over runs between CUDA events, after three warm-up runs."""
    for _ in range(3):
        call()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for start, end in events:
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in events)


def kept_bytes(call: Callable[[], Any], tensors: dict[str, Tensor]) -> int:
    """Bytes autograd keeps for the backward pass, each storage once; parameters and the incoming streams do not count."""
    given = {t.untyped_storage().data_ptr() for name, t in tensors.items() if name != "y"}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in given:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = call()
    del outputs
    return sum(seen.values())


def count_launches(call: Callable[[], Any]) -> int:
    """Kernels and copies on the device in one call."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call()
        torch.cuda.synchronize()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events())
