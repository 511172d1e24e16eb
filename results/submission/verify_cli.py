"""`resbench leaderboard verify`."""

from __future__ import annotations

import argparse
import math
import os
import secrets
from pathlib import Path
from typing import Any


def add_command(commands: Any) -> None:
    """Add it to the parser of `resbench leaderboard`."""
    parser = commands.add_parser(
        "verify",
        help="run a sample of a submission's runs again, here, and compare",
        description="Run a random sample of a submission's runs again on this machine, from the configurations in the file, and compare the losses. "
        "Writes a record that `leaderboard build --verification` and `publish` show. Exit status 0 only if the submission is verified.",
        epilog="A configuration is a stranger's: it may only name installed schemes, backbones and tasks and known options, and no place on this "
        "machine. A rerun is stopped after --timeout seconds and refused beyond --max-flops.",
    )
    add = parser.add_argument
    add("file", metavar="FILE", type=Path)
    add("--verifier", metavar="WHO", required=True, help="who signs the record: letters, digits, spaces and _.@+-")
    add("--sample", metavar="K", type=_count, default=3, help="runs to draw (default: %(default)s)")
    add("--device", choices=("auto", "cpu", "gpu"), default="auto", help="where to run (default: %(default)s)")
    add(
        "--data",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="an argument of the task: your copy of data in files, such as root=DIR",
    )
    add(
        "--max-flops",
        metavar="N",
        type=_positive,
        default=1e16,
        help="training FLOPs one rerun may take (default: %(default).0e)",
    )
    add(
        "--timeout",
        metavar="S",
        type=_positive,
        default=3600.0,
        help="seconds one rerun may take (default: %(default).0f)",
    )
    add(
        "--threads", metavar="N", type=_count, default=os.cpu_count() or 1, help="CPU threads of a rerun (default: all)"
    )
    add(
        "--seed",
        metavar="N",
        type=int,
        help="draw the sample with this seed instead of a random one, to repeat a verification",
    )
    add(
        "--out",
        metavar="FILE",
        type=Path,
        help="record to write; default: FILE with .verification.json in place of its suffix",
    )
    parser.set_defaults(run=_verify)


def _verify(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from resbench.results.submission.files import write_whole
    from resbench.results.submission.plausible import implausible
    from resbench.results.submission.reading import Refused, read_submission
    from resbench.results.submission.refusal import print_refusal
    from resbench.results.submission.rerun import in_a_process, machine
    from resbench.results.submission.verification import RerunRecord
    from resbench.results.submission.verifying import Terms, verify

    try:
        submission = read_submission(arguments.file)
        if reasons := implausible(submission):
            raise Refused(reasons)
    except Refused as refused:
        print_refusal(refused)
        return 1
    console = Console(highlight=False, markup=False, soft_wrap=True)
    seed = secrets.randbits(32) if arguments.seed is None else arguments.seed
    terms = Terms(
        verifier=arguments.verifier,
        sample=arguments.sample,
        seed=seed,
        device=arguments.device,
        max_flops=arguments.max_flops,
        timeout_s=arguments.timeout,
        threads=arguments.threads,
        data=_data(arguments.data),
    )

    def tell(rerun: RerunRecord) -> None:
        found = "" if rerun.rerun is None else f"{rerun.submitted:.4f} submitted, {rerun.rerun:.4f} here, "
        reason = f" ({rerun.reason})" if rerun.reason else ""
        console.print(f"{rerun.cell}, seed {rerun.seed}: {found}{rerun.verdict}{reason}; {rerun.seconds:.0f} s")

    record = verify(submission, terms, machine(arguments.device), in_a_process, tell)
    out = arguments.out or arguments.file.with_suffix(".verification.json")
    write_whole(out, record.text())
    for reason, count in record.left_out.items():
        console.print(f"not in the draw: {count} runs, {reason}")
    spread = "unknown" if record.seed_sd is None else f"{record.seed_sd:.4f}"
    console.print(
        f"Agreement: {record.tolerance_run:.4f} nats/token for a run (seeds spread by {spread}), {record.tolerance_mean:.4f} for the mean's interval."
    )
    if record.mean_difference is not None:
        ends = "" if record.mean_low is None else f" [{record.mean_low:+.4f}, {record.mean_high:+.4f}]"
        console.print(f"Mean difference {record.mean_difference:+.4f}{ends}.")
    console.print(f"{record.verdict}: {submission.study} by {submission.submitter}. Wrote {out}.", style="bold")
    return 0 if record.verdict == "verified" else 1


def _data(assignments: list[str]) -> dict[str, Any]:
    import yaml

    found = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not (equals and name.isidentifier()):
            raise ValueError(f"--data {assignment!r}: expected NAME=VALUE, such as root=/data/python")
        found[name] = yaml.safe_load(value)
    return found


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 5000:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a whole number from 1 to 5000")
    return int(text)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: expected a positive number")
    return value
