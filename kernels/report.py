"""What the check and the benchmark found: tables for the terminal, JSON, the roofline figure."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from resbench.kernels.check import Finding

if TYPE_CHECKING:
    from resbench.kernels.bench import Report


def print_findings(cases: Iterable[list[Finding]]) -> bool:
    """One line per case with the quantity nearest to its bar, as they come in. Returns whether all passed."""
    print(f"{'operation':<20}{'T, n, C':<16}{'dtype':<10}{'t_max':>5}  {'worst':<24}{'error':>9}{'bar':>9}")
    compared = failed = 0
    for group in cases:
        worst = max(group, key=lambda f: f.error / f.bar)
        verdict = "ok" if all(f.passed for f in group) else "FAILED"
        if not all(f.repeats for f in group):
            verdict += ": not the same bits twice"
        print(
            f"{worst.operation:<20}{', '.join(map(str, worst.shape)):<16}{worst.dtype:<10}{worst.iterations:>5}  "
            f"{worst.quantity:<24}{worst.error:>9.1e}{worst.bar:>9.0e}  {verdict}",
            flush=True,
        )
        compared += len(group)
        failed += sum(not f.passed for f in group)
    print(f"{compared} comparisons, {failed} failed")
    return failed == 0


def print_rows(report: "Report") -> None:
    """The table of the benchmark, fastest first within each operation and shape."""
    print(f"{report.environment}\ncopy bandwidth {report.copy_bytes_per_s / 1e9:.0f} GB/s\n")
    print(markdown(report))


def markdown(report: "Report") -> str:
    """The measurements as a Markdown table."""
    lines = [
        "| operation | T, n, C | t_max | implementation | forward ms | both ms | forward / floor | backward / floor "
        "| both / floor | kept / streams | launches |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    order = {
        (r.operation, r.tokens, r.streams, r.width, r.iterations): i for i, r in reversed(list(enumerate(report.rows)))
    }
    for r in sorted(
        report.rows, key=lambda r: (order[r.operation, r.tokens, r.streams, r.width, r.iterations], r.both_ms)
    ):
        shape = f"{r.tokens}, {r.streams}, {r.width}"
        times = (
            f"{r.forward_ms:.3f} | {r.both_ms:.3f} | {r.forward_over_floor:.2f} | {r.backward_over_floor:.2f} "
            f"| {r.both_over_floor:.2f} | {r.kept_over_streams:.2f} | {r.launches}"
            if math.isfinite(r.both_ms)
            else "failed | | | | | |"
        )
        lines.append(f"| {r.operation} | {shape} | {r.iterations} | {r.implementation} | {times} |")
    return "\n".join(lines)


def save(report: "Report", file: str) -> None:
    """The report as JSON; infinite times become null."""
    content = report.as_dict()
    for row in content["rows"]:
        for key, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                row[key] = None
    Path(file).write_text(json.dumps(content, indent=1) + "\n")


def draw(report: "Report", file: str) -> None:
    """Achieved bandwidth (floor bytes over time) of every implementation and shape, under the measured copy bandwidth."""
    import matplotlib

    from resbench.kernels.bench import floor_bytes

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [r for r in report.rows if r.operation == "sublayer" and r.iterations == 20 and math.isfinite(r.both_ms)]
    labels = list(dict.fromkeys(f"T={r.tokens}\nn={r.streams} C={r.width}" for r in rows))
    names = list(dict.fromkeys(r.implementation for r in rows))
    figure, axes = pyplot.subplots(figsize=(11, 4.5), layout="constrained")
    for offset, name in enumerate(names):
        mine = [r for r in rows if r.implementation == name]
        at = [labels.index(f"T={r.tokens}\nn={r.streams} C={r.width}") + 0.8 * offset / len(names) for r in mine]
        moved = [sum(floor_bytes(r.operation, r.tokens, r.streams, r.width)) / (r.both_ms * 1e-3) / 1e12 for r in mine]
        axes.bar(at, moved, width=0.8 / len(names), label=name, align="edge")
    axes.axhline(report.copy_bytes_per_s / 1e12, color="black", linewidth=1, linestyle="--", label="copy bandwidth")
    axes.set_xticks([i + 0.4 for i in range(len(labels))], labels, fontsize=8)
    axes.set_ylabel("bytes of the floor per time, TB/s")
    axes.set_title(f"One mHC sublayer, forward + backward, bf16, {report.environment['gpu']}")
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(file, dpi=150)
    pyplot.close(figure)
