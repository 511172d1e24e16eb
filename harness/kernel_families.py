"""Time by kind of work, from a profiler's events: which family a kernel or operation belongs to, and what each family took."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

FAMILIES: tuple[tuple[str, str], ...] = (
    ("communication", r"nccl|all_?reduce|all_?gather|reduce_scatter|c10d"),
    ("attention", r"flash|fmha|sdpa|scaled_dot_product|mha"),
    (
        "connections",
        r"resbench::(?!rotary)|^(wide_)?(mhc_gates|hc_gates|sinkhorn|mixing|add_norm|read|read_sums|scatter|gather|gradient|learn|total|finish|pack|split"
        r"|write|project|write_project)(_backward)?_kernel",
    ),
    ("matrix products", r"gemm|cutlass|cublas|nvjet|xmma|wgmma|splitk|\bmm\b|addmm|bmm|matmul|aten::linear|mkl"),
    ("loss", r"softmax|nll_loss|cross_entropy"),
    ("optimizer", r"adam|multi_tensor_apply|foreach|clip_grad|lpnorm"),
    ("embedding", r"embedding|index_put|index_select"),
    (
        "copies",
        r"memcpy|memset|aten::copy_|aten::clone|aten::contiguous|aten::cat\b|aten::fill_|aten::zero_|_to_copy\b",
    ),
    (
        "elementwise (norms, activations, ...)",
        r"rotary|triton_|elementwise|reduce_kernel|vectorized|aten::|cpp_fused|graph_\d",
    ),
)
"""(family, pattern searched in a name); the first that matches counts."""

OTHER = "other"

PATTERNS = tuple((family, re.compile(pattern, re.IGNORECASE)) for family, pattern in FAMILIES)


@dataclass
class FamilyTime:
    """What a family took per step: milliseconds, launches, and its longest kernel or operation by name and milliseconds."""

    family: str
    ms: float = 0.0
    calls: float = 0.0
    longest: str = ""
    longest_ms: float = 0.0
    share: float = 0.0


def family_of(name: str) -> str:
    """The family of a kernel or operation."""
    return next((family for family, pattern in PATTERNS if pattern.search(name)), OTHER)


def by_family(timed: Iterable[tuple[str, float, int]], steps: int) -> list[FamilyTime]:
    """(name, microseconds, calls) of kernels over ``steps`` steps -> families, the longest first."""
    found: dict[str, FamilyTime] = {}
    for name, microseconds, calls in timed:
        family = family_of(name)
        row = found.setdefault(family, FamilyTime(family))
        ms = microseconds / 1e3 / steps
        row.ms += ms
        row.calls += calls / steps
        if ms > row.longest_ms:
            row.longest, row.longest_ms = name, ms
    total = sum(row.ms for row in found.values())
    for row in found.values():
        row.share = row.ms / total if total else 0.0
    return sorted(found.values(), key=lambda row: -row.ms)


def table(rows: list[FamilyTime], where: str) -> str:
    """As Markdown; ``where`` heads it."""
    lines = [
        f"{where}\n",
        "| family | ms per step | share | calls per step | longest |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        name = row.longest.replace("|", "/")
        name = name if len(name) <= 60 else name[:59] + "…"
        lines.append(
            f"| {row.family} | {row.ms:.3f} | {row.share:.1%} | {row.calls:.0f} | `{name}` {row.longest_ms:.3f} ms |"
        )
    lines.append(f"| all | {sum(row.ms for row in rows):.3f} | 100.0% | {sum(row.calls for row in rows):.0f} | |")
    return "\n".join(lines)
