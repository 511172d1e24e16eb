"""`resbench check-scheme NAME`: run the conformance suite on a scheme, built in, from a plugin, or by import path."""

import argparse
import inspect
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from resbench.architectures.conformance.checking import Case, Check
from resbench.architectures.conformance.cost import measure_cost
from resbench.architectures.conformance.report import Report
from resbench.architectures.conformance.subject import Subject
from resbench.architectures.conformance.suite import CHECKS, run_checks, select
from resbench.architectures.registry import BrokenPlugin, available, resolve

NONCONFORMING = 1


def main(argv: list[str]) -> int:
    """Returns 0 when every check passes, 1 when one fails. Raises ValueError, BrokenPlugin for what cannot be checked at all."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.list:
        width = max(len(check.name) for check in CHECKS)
        for check in CHECKS:
            print(f"{check.name:<{width}}  {check.property}")
        return 0
    if (options.scheme is None) == (not options.all):
        parser.error("give the name of a scheme (see `resbench list`), or --all, or --list")
    chosen = select(options.only) if options.only else CHECKS
    case = _case(options.case) if options.case else None
    if options.json and not Path(options.json).absolute().parent.is_dir():
        raise FileNotFoundError(f"--json {options.json}: there is no folder {Path(options.json).absolute().parent}")
    with_cost = not (options.only or options.no_cost)
    console = Console(width=None if sys.stdout.isatty() else 150)
    reports, broken = [], False
    if options.all:
        for name in available("scheme"):
            try:
                reports.append(check_scheme(name, [], chosen, case, with_cost))
            except (BrokenPlugin, ValueError) as error:  # one that cannot be built takes no other down
                broken = True
                console.print(f"{name:<18}BROKEN: {error}", markup=False, highlight=False, soft_wrap=True)
            else:
                console.print(reports[-1].line(), highlight=False, soft_wrap=True)
        content: Any = [report.as_dict() for report in reports]
    else:
        reports = [check_scheme(options.scheme, options.arguments, chosen, case, with_cost)]
        reports[0].print(console)
        content = reports[0].as_dict()
    if options.json:
        Path(options.json).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return NONCONFORMING if broken or any(report.failures for report in reports) else 0


def check_scheme(
    name: str, given: list[str], checks: Sequence[Check] = CHECKS, case: Case | None = None, with_cost: bool = True
) -> Report:
    """Run the checks on a scheme by name; its cost is measured when all of them pass."""
    scheme = resolve("scheme", name)
    arguments = _arguments(scheme, given)
    subject = Subject(scheme, arguments)
    subject.width  # noqa: B018  # a scheme that cannot be built at all is an error, not a failed check
    results = list(run_checks(subject, checks, case))
    failed = any(result.outcome == "failed" for result in results)
    cost = measure_cost(subject) if with_cost and not failed else None
    return Report(name, arguments, _origin(name, scheme), results, cost)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="resbench check-scheme",
        description="Check that a residual scheme is what it says it is: gradients, causality, compilation, mixing, counts and the rest.",
    )
    parser.add_argument(
        "scheme", nargs="?", help="a name from `resbench list`, or an import path such as package.module.Class"
    )
    parser.add_argument(
        "arguments", nargs="*", metavar="KEY=VALUE", help="arguments of the scheme, such as n_streams=8"
    )
    parser.add_argument("--all", action="store_true", help="every installed scheme, a line each")
    parser.add_argument("--only", action="append", metavar="CHECK", help="run this check only (may be repeated)")
    parser.add_argument(
        "--case", metavar="B,T,C,SUBLAYERS", help="run on this one case, as a failure's report gives it"
    )
    parser.add_argument("--no-cost", action="store_true", help="do not measure time and memory")
    parser.add_argument("--json", metavar="FILE", help="also write the result there, with a badge for shields.io")
    parser.add_argument("--list", action="store_true", help="show the checks and what each is about")
    return parser


def _arguments(scheme: type, given: list[str]) -> dict[str, Any]:
    known = list(inspect.signature(scheme).parameters)[2:]
    found = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals:
            raise ValueError(
                f"{item!r}: expected KEY=VALUE, with KEY one of {', '.join(known) or 'nothing: it takes no arguments'}"
            )
        if name not in known:
            raise ValueError(
                f"{scheme.__name__} has no argument {name!r}: expected one of {', '.join(known) or 'none'}"
            )
        found[name] = yaml.safe_load(value)
    return found


def _case(text: str) -> Case:
    try:
        batch, length, width, sublayers = map(int, text.split(","))
    except ValueError:
        raise ValueError(f"--case {text}: expected four numbers B,T,C,SUBLAYERS, such as 1,2,4,1") from None
    if min(batch, length, width, sublayers) < 1:
        raise ValueError(f"--case {text}: expected numbers of at least 1")
    return Case(batch, length, sublayers, width)


def _origin(name: str, scheme: type) -> str:
    plugin = available("scheme").get(name)
    where = f"{scheme.__module__}.{scheme.__qualname__}"
    return f"{plugin.distribution} {plugin.version}, {where}" if plugin else where
