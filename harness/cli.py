"""The `resbench` command: one line per subcommand, each imported only when it is asked for."""

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version

from resbench.harness.errors import one_screen
from resbench.harness.preload import operators_first
from resbench.harness.processes import end_quickly, importing

Command = Callable[[list[str]], int]

COMMANDS: dict[str, tuple[str, str]] = {
    "fit": ("resbench.harness.commands:fit", "train one model"),
    "list": (
        "resbench.harness.commands:list_plugins",
        "schemes, tasks, backbones and model sizes, and where each comes from",
    ),
    "ui": ("resbench.harness.commands:ui", "open MLflow's user interface on the runs"),
    "sweep": ("resbench.sweeps.cli:main", "plan FILE | run FILE: many runs from one file"),
    "runs": ("resbench.harness.runs.cli:main", "list | export | import | delete: move runs between stores as one file"),
    "leaderboard": (
        "resbench.results.cli:main",
        "build | submit | check | verify | publish: tables, figures and files to pass on",
    ),
    "scaling": ("resbench.results.scaling.cli:main", "laws of loss in size, data and cost, from the runs of a study"),
    "claims": ("resbench.results.claims.cli:main", "what papers claim of the schemes, beside what the runs say"),
    "new-scheme": (
        "resbench.harness.scaffold:new_scheme",
        "NAME DIR: write a package with a residual scheme of your own",
    ),
    "new-task": ("resbench.harness.scaffold:new_task", "NAME DIR: the same for a task"),
    "new-backbone": ("resbench.harness.scaffold:new_backbone", "NAME DIR: the same for a backbone"),
    "check-scheme": ("resbench.architectures.conformance.cli:main", "NAME: is a residual scheme what it says it is?"),
    "bench": ("resbench.harness.bench.cli:main", "run | start | loss | data: the speed of training and of its data"),
    "kernels": ("resbench.kernels.cli:main", "check | bench: the fused kernels"),
}
"""Subcommand -> (where it is, what it does). A command takes the arguments after its name and returns an exit code."""


def program() -> int:
    """The `resbench` program: `main` in a process of its own, which ends with it."""
    return end_quickly(main)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand. Returns its exit code: 0, or 2 for what the user can put right. Without ``argv`` it is the process's only task."""
    parser = _parser()
    arguments = list(sys.argv[1:] if argv is None else argv)
    chosen, rest = parser.parse_args(arguments[:1]), arguments[1:]
    if chosen.command is None:
        parser.print_help()
        return 0
    with one_screen(f"resbench {chosen.command}"):
        return _load(chosen.command, for_good=argv is None)(rest)


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="resbench",
        usage="resbench [-h] [--version] COMMAND ...",
        description="Compare residual connections: train the same model with different schemes, see which is better, stable and cheap.",
        epilog=f"commands:\n{lines}\n\n`resbench COMMAND --help` explains a command. RESBENCH_DEBUG=1 shows tracebacks.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"resbench {version('resbench')}")
    parser.add_argument("command", nargs="?", choices=list(COMMANDS), metavar="COMMAND", help="one of those below")
    return parser


def _load(command: str, *, for_good: bool) -> Command:
    module, _, attribute = COMMANDS[command][0].partition(":")
    with importing(for_good=for_good):
        if command == "fit":
            operators_first()
            import_module("resbench.harness.fit")
        found: Command = getattr(import_module(module), attribute)
    return found
