"""`resbench check-scheme NAME`: run the conformance suite on a scheme, built in, from a plugin, or by import path."""

import argparse
import inspect
import json
import sys
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from resbench.architectures.conformance.checking import Case
from resbench.architectures.conformance.cost import measure_cost
from resbench.architectures.conformance.report import Report
from resbench.architectures.conformance.subject import Subject
from resbench.architectures.conformance.suite import CHECKS, run_checks, select
from resbench.architectures.registry import available, resolve

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
    if options.scheme is None:
        parser.error("give the name of a scheme (see `resbench list`), or --list")
    scheme = resolve("scheme", options.scheme)
    arguments = _arguments(scheme, options.arguments)
    subject = Subject(scheme, arguments)
    subject.width  # noqa: B018  # a scheme that cannot be built at all is an error, not a failed check
    chosen = select(options.only) if options.only else CHECKS
    case = _case(options.case) if options.case else None
    if options.json and not Path(options.json).absolute().parent.is_dir():
        raise FileNotFoundError(f"--json {options.json}: there is no folder {Path(options.json).absolute().parent}")
    results = list(run_checks(subject, chosen, case))
    failed = any(result.outcome == "failed" for result in results)
    cost = None if options.only or options.no_cost or failed else measure_cost(subject)
    report = Report(options.scheme, arguments, _origin(options.scheme, scheme), results, cost)
    report.print(Console(width=None if sys.stdout.isatty() else 150))
    if options.json:
        Path(options.json).write_text(json.dumps(report.as_dict(), indent=2) + "\n", encoding="utf-8")
    return NONCONFORMING if report.failures else 0


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
