"""The claims as a table for the terminal, Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.text import Text

from resbench.results.claims.evidence import Evidence
from resbench.results.columns import printable
from resbench.results.markdown import escape
from resbench.results.statistics import MARGIN, Estimate

SCHEMA = "resbench.claims/2"

HEADINGS = ("claim", "source", "theirs", "study", "ours", "pairs (groups)", "p (Holm)", "verdict")


def cells(row: Evidence) -> tuple[str, ...]:
    """One row of the table, as text."""
    ours = ", ".join(part for part in (_number(row), row.text) if part)
    pairs = f"{row.pairs} ({row.groups})" if row.pairs else str(row.groups or "")
    p = "" if row.p is None else f"{row.p:.3f}" if row.p >= 0.001 else "< 0.001"
    return (row.claim.statement, row.claim.source, row.claim.theirs, row.study, ours, pairs, p, row.verdict)


def _number(row: Evidence) -> str:
    found = row.estimate
    if found is None or found.mean is None or row.claim.kind == "diverges more":
        return ""
    if row.claim.kind == "gain above":
        return f"{found.mean:.3g} times" + _interval(found, ".3g")
    return f"{found.mean:+.4f}".replace("-", "−") + ("" if found.half_width is None else f" ± {found.half_width:.4f}")


def _interval(found: Estimate, form: str) -> str:
    return "" if found.low is None or found.high is None else f" [{found.low:{form}}, {found.high:{form}}]"


def to_markdown(rows: Sequence[Evidence], sources: str) -> str:
    """A document with the table and how to read it."""
    lines = [" | ".join(map(escape, cells(row))) for row in rows]
    rule = " | ".join("---" for _ in HEADINGS)
    return (
        f"# Claims and runs: {escape(sources)}\n\n"
        f"| {' | '.join(HEADINGS)} |\n| {rule} |\n" + "".join(f"| {line} |\n" for line in lines) + f"\n{READING}\n"
    )


READING = (
    "Losses in nats per token, differences paired by comparison group and seed; a group is a size, budget and setting. Three groups or more count "
    "alike, with 95 % t intervals over their means; of fewer, every pair does, with intervals over pairs. A difference is found at the 5 % level "
    "after Holm's correction over the whole table (`agrees`, or `disagrees` if it has the other sign). That there is none is shown by two one-sided "
    f"tests with a margin of {MARGIN} nats, corrected likewise; it disagrees if the interval leaves out zero. Anything else is `undecided`: too few "
    "or too noisy runs. Gains are the largest of a run's composite forward and backward gains at any measurement; their factor is a geometric mean. "
    "Diverged runs are counted in groups that have runs of both, and compared by Fisher's exact test."
)


def to_json(rows: Sequence[Evidence], sources: str) -> str:
    """Schema `SCHEMA`, every number finite or null."""
    records: list[dict[str, Any]] = []
    for row in rows:
        found = row.estimate
        records.append(
            {
                "statement": row.claim.statement,
                "kind": row.claim.kind,
                "source": row.claim.source,
                "theirs": row.claim.theirs,
                "study": row.study,
                "estimate": None if found is None else vars(found),
                "pairs": row.pairs,
                "groups": row.groups,
                "p_holm": row.p,
                "verdict": row.verdict,
                "text": row.text,
            }
        )
    content = {"schema": SCHEMA, "runs": sources, "claims": records}
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def print_claims(rows: Sequence[Evidence], console: Console) -> None:
    """A line for each claim with its source, and below it one for each study."""
    width = max((len(row.study) for row in rows), default=0)
    for claim, of_claim in groupby(rows, key=lambda row: row.claim):
        console.print(Text(f"{claim.statement}", style="bold"), Text(f"  {claim.source}: {claim.theirs}"), sep="")
        for row in of_claim:
            _, _, _, study, ours, _, p, verdict = cells(row)
            details = [
                ours,
                f"{row.pairs} pairs in {row.groups} groups" if row.pairs else "",
                f"p {p}" if p else "",
            ]
            line = f"  {study:<{width}}  {verdict:<10}  {'; '.join(part for part in details if part)}"
            console.print(Text(printable(line)), soft_wrap=True)
    console.print(READING, markup=False, highlight=False)
