"""What a scheme costs beside resnet: time of forward and backward, and memory kept for the backward pass, per sublayer. Measured, not judged."""

import statistics
import time
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from resbench.architectures.conformance.subject import Stack, Subject
from resbench.architectures.schemes.resnet import ResNet

SUBLAYERS = 8
ROUNDS = 5


@dataclass(frozen=True)
class Cost:
    """Per sublayer: microseconds of forward and backward, bytes per token kept between them, and each over resnet's."""

    device: str
    dtype: str
    tokens: int
    width: int
    time_us: float
    bytes_per_token: float
    time_ratio: float
    memory_ratio: float

    def as_dict(self) -> dict[str, object]:
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"per sublayer {self.time_us:,.0f} us ({self.time_ratio:.1f}x resnet), {self.bytes_per_token:,.0f} B/token "
            f"({self.memory_ratio:.1f}x resnet); {self.tokens} tokens, C={self.width}, {self.dtype}, {self.device}"
        )


class Halve(nn.Module):
    """A branch that costs next to nothing and keeps nothing."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, u: Tensor) -> Tensor:
        return self.norm(u) * 0.5


class LiveStorages(TorchDispatchMode):
    """Bytes of all tensors made inside that are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                reference = StorageWeakRef(storage)
                self._seen.setdefault(reference.cdata, (reference, storage.nbytes()))
        return out

    def alive(self) -> int:
        return sum(size for reference, size in self._seen.values() if not reference.expired())


def measure_cost(subject: Subject) -> Cost:
    """On the GPU when there is one (bfloat16), else on the CPU (float32)."""
    on_gpu = torch.cuda.is_available()
    device, dtype = (torch.device("cuda"), torch.bfloat16) if on_gpu else (torch.device("cpu"), torch.float32)
    width, tokens = (2048, 8192) if on_gpu else (256, 256)
    mine, base = (_stack(each, width, device) for each in (subject, Subject(ResNet)))
    x = torch.randn(1, tokens, width, device=device, dtype=dtype, requires_grad=True)
    times: dict[bool, list[float]] = {True: [], False: []}
    for round_ in range(ROUNDS + 1):
        for is_mine in (True, False):  # in turn, so that a busy machine is busy for both
            took = _time(mine if is_mine else base, x)
            if round_:
                times[is_mine].append(took)
    seconds = {key: statistics.median(values) / SUBLAYERS for key, values in times.items()}
    kept = {True: _kept(mine, x) / SUBLAYERS / tokens, False: _kept(base, x) / SUBLAYERS / tokens}
    return Cost(
        torch.cuda.get_device_name() if on_gpu else "CPU",
        str(dtype).removeprefix("torch."),
        tokens,
        width,
        seconds[True] * 1e6,
        kept[True],
        seconds[True] / seconds[False],
        kept[True] / kept[False],
    )


def _stack(subject: Subject, width: int, device: torch.device) -> Stack:
    scheme = subject.build(width, SUBLAYERS)
    return Stack(scheme, [Halve(scheme.branch_norm(i)) for i in range(SUBLAYERS)]).to(device)


def _time(model: Stack, x: Tensor) -> float:
    x.grad = None
    if x.is_cuda:
        torch.cuda.synchronize()
    began = time.perf_counter()
    model(x).sum().backward()
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _kept(model: Stack, x: Tensor) -> int:
    """Bytes alive between forward and backward."""
    if x.is_cuda:
        torch.cuda.synchronize()
        start = torch.cuda.memory_allocated()
        output = model(x)
        kept = torch.cuda.memory_allocated() - start
        del output
        return kept
    with LiveStorages() as live:
        output = model(x)
    kept = live.alive()
    del output
    return kept
