"""The result of a run of the suite: one screen for people, JSON for a badge."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from resbench.architectures.conformance.checking import Case
from resbench.architectures.conformance.cost import Cost
from resbench.architectures.conformance.suite import Result

MARKS = {"passed": "[green]pass[/]", "failed": "[bold red]FAIL[/]", "not applicable": "[dim]n/a[/]"}


@dataclass(frozen=True)
class Report:
    """What was checked, of which scheme, and how it ended."""

    scheme: str
    arguments: Mapping[str, Any]
    origin: str
    results: Sequence[Result]
    cost: Cost | None

    @property
    def failures(self) -> list[Result]:
        return [result for result in self.results if result.outcome == "failed"]

    def reproduction(self, result: Result) -> str:
        """The command that runs this check on its smallest failing case alone."""
        words = [
            "resbench",
            "check-scheme",
            self.scheme,
            *(f"{name}={value}" for name, value in self.arguments.items()),
        ]
        words += ["--only", result.check.name]
        if result.case is not None:
            words += ["--case", case_text(result.case)]
        return shlex.join(words)

    @property
    def badge(self) -> str:
        """``passed/judged``: checks that do not apply are not judged."""
        judged = [result for result in self.results if result.outcome != "not applicable"]
        return f"{len(judged) - len(self.failures)}/{len(judged)}"

    def line(self) -> str:
        """The result in one line, for a table of many schemes."""
        told = ", ".join(result.check.name for result in self.failures)
        verdict = f"[bold red]{self.badge}[/] fails: {escape(told)}" if told else f"[green]{self.badge}[/]"
        cost = f"  {escape(str(self.cost))}" if self.cost else ""
        return f"{self.scheme:<18}{verdict}{cost}"

    def print(self, console: Console) -> None:
        """A line for each check, then each failure with the command that reproduces it."""
        table = Table(
            box=None, pad_edge=False, title=f"{self.scheme} ({self.origin})", title_justify="left", title_style="bold"
        )
        names = max(len(result.check.name) for result in self.results)
        room = console.width - names - len("pass") - 3  # a space after every column
        for heading in ("check", "", "found"):
            table.add_column(heading, no_wrap=True)
        for result in self.results:
            table.add_row(result.check.name, MARKS[result.outcome], escape(cut(result.found, room)))
        if self.cost is not None:
            table.add_row("cost", "", escape(cut(str(self.cost), room)))
        console.print(table)
        for result in self.failures:
            console.print(f"\n[bold red]{result.check.name}[/]: {escape(result.check.property)}")
            console.print(
                f"  found: {escape(result.found)}{escape(f' [{result.case}]') if result.case else ''}", soft_wrap=True
            )
            console.print(f"  again: {escape(self.reproduction(result))}", soft_wrap=True)
        passed = sum(result.outcome == "passed" for result in self.results)
        skipped = sum(result.outcome == "not applicable" for result in self.results)
        colour = "red" if self.failures else "green"
        console.print(
            f"\n[bold {colour}]{passed} passed, {len(self.failures)} failed[/], {skipped} not applicable, "
            f"{sum(result.seconds for result in self.results):.1f} s"
        )

    def as_dict(self) -> dict[str, Any]:
        """Everything, with a badge in the schema of shields.io endpoints under ``badge``."""
        return {
            "scheme": self.scheme,
            "arguments": dict(self.arguments),
            "origin": self.origin,
            "torch": torch.__version__,
            "conforms": not self.failures,
            "badge": {
                "schemaVersion": 1,
                "label": "resbench conformance",
                "message": self.badge,
                "color": "red" if self.failures else "brightgreen",
            },
            "checks": [
                {
                    "name": result.check.name,
                    "property": result.check.property,
                    "outcome": result.outcome,
                    "found": result.found,
                    "reproduction": self.reproduction(result) if result.outcome == "failed" else None,
                    "seconds": round(result.seconds, 3),
                }
                for result in self.results
            ],
            "cost": self.cost.as_dict() if self.cost else None,
        }


def cut(text: str, room: int) -> str:
    """The text on one line of at most ``room`` characters; rich would take the space from the other columns."""
    line = " ".join(text.split())
    return line if len(line) <= room else f"{line[: max(room - 1, 0)]}…"


def case_text(case: Case) -> str:
    """``B,T,C,sublayers``, as `--case` takes it."""
    return f"{case.batch},{case.length},{case.width},{case.sublayers}"
