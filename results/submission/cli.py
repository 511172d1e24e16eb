"""`resbench leaderboard submit`, `check` and `verify`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from resbench.results.submission import verify_cli


def add_commands(commands: Any) -> None:
    """Add them to the parser of `resbench leaderboard`."""
    submit = commands.add_parser(
        "submit",
        help="write a submission file from the runs of a study",
        description="Write the final runs of a study into one file that `resbench leaderboard check` accepts; nothing is sent anywhere.",
    )
    add = submit.add_argument
    add("--study", metavar="NAME", help="sweep (or experiment) to submit; default: the latest")
    add("--submitter", metavar="WHO", required=True, help="who ran it: letters, digits, spaces and _.@+-")
    add("--devices", metavar="N", type=int, default=1, help="accelerators that each run used (default: %(default)s)")
    add(
        "--tracking-uri", metavar="URI", help="MLflow store; default: MLFLOW_TRACKING_URI, else the one in --output-dir"
    )
    add("--output-dir", metavar="DIR", default="runs", help="where runs were written (default: %(default)s)")
    add("--out", metavar="FILE", help="file to write; default: OUTPUT_DIR/submissions/STUDY.json")
    submit.set_defaults(run=_submit)
    check = commands.add_parser(
        "check",
        help="check a submission file before it is believed",
        description="Check a submission as a stranger's: its form, its digest, and whether its numbers can be true. Exit status 1 if not.",
    )
    check.add_argument("file", metavar="FILE", type=Path)
    check.set_defaults(run=_check)
    verify_cli.add_command(commands)


def _submit(arguments: argparse.Namespace) -> int:
    from resbench.harness.store import default_tracking_uri
    from resbench.results.cli import choose_study, folder_name
    from resbench.results.runs import load_runs, ranked_runs
    from resbench.results.source import open_source
    from resbench.results.submission.configs import load_configs
    from resbench.results.submission.files import write_whole
    from resbench.results.submission.making import make_submission

    uri = arguments.tracking_uri or default_tracking_uri(arguments.output_dir)
    runs = load_runs(uri)
    study = choose_study(runs, arguments.study, uri)
    own = runs[runs["study"] == study]
    configs = load_configs(open_source(uri), ranked_runs(own))
    text = make_submission(own, study, arguments.submitter, arguments.devices, configs)
    file = Path(arguments.out or Path(arguments.output_dir) / "submissions" / f"{folder_name(study)}.json")
    write_whole(file, text)
    print(f"Wrote {file}. Check it as its reader will: resbench leaderboard check {file}")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from resbench.results.submission.plausible import implausible, weaknesses
    from resbench.results.submission.reading import Refused, read_submission
    from resbench.results.submission.refusal import print_refusal

    try:
        submission = read_submission(arguments.file)
        reasons = implausible(submission)
        if reasons:
            raise Refused(reasons)
    except Refused as refused:
        print_refusal(refused)
        return 1
    complete = sum(run.outcome == "complete" for run in submission.runs)
    counted = f"{complete} complete of {len(submission.runs)} runs"
    print(f"Accepted: {submission.study} by {submission.submitter}, {counted}, digest {submission.digest[:12]}.")
    for note in weaknesses(submission):
        print(f"  note: {note}")
    print(
        "Its form is right and nothing speaks against its numbers. That they are right, only rerunning them shows: resbench leaderboard verify."
    )
    return 0
