"""`resbench leaderboard publish`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_command(commands: Any) -> None:
    """Add it to the parser of `resbench leaderboard`."""
    parser = commands.add_parser(
        "publish",
        help="write a folder ready for any static host",
        description="Write a built site, submissions and verification records into one folder for any static host, with a workflow for GitHub Pages. "
        "An existing folder is replaced only if it is an earlier output of this command, unchanged (a .git in it stays).",
    )
    add = parser.add_argument
    add("folder", metavar="DIR", type=Path)
    add("--site", metavar="DIR", type=Path, required=True, help="what `resbench leaderboard build` wrote")
    add(
        "--submission",
        metavar="FILE",
        type=Path,
        nargs="+",
        default=[],
        help="submissions to publish; each is checked first",
    )
    add(
        "--verification",
        metavar="FILE",
        type=Path,
        nargs="+",
        default=[],
        help="records of `resbench leaderboard verify` about them",
    )
    parser.set_defaults(run=_publish)


def _publish(arguments: argparse.Namespace) -> int:
    from resbench.results.publication import WORKFLOW, publish

    files = publish(arguments.folder, arguments.site, arguments.submission, arguments.verification)
    size = sum(map(len, files.values()))
    print(
        f"Wrote {arguments.folder}: {len(files)} files, {size / 2**20:.1f} MiB. Look at it: python -m http.server --directory {arguments.folder}"
    )
    print(f"For GitHub Pages, push it as a repository's main branch ({WORKFLOW} does the rest).")
    return 0
