"""The options by which a command is told where its runs are: an MLflow store, or files."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any


def add_source_options(add: Callable[..., Any]) -> None:
    """`--tracking-uri`, `--output-dir` and `--from`, the last as ``files``."""
    add(
        "--tracking-uri", metavar="URI", help="MLflow store; default: MLFLOW_TRACKING_URI, else the one in --output-dir"
    )
    add("--output-dir", metavar="DIR", default="runs", help="where runs were written (default: %(default)s)")
    add(
        "--from",
        dest="files",
        metavar="FILE",
        nargs="+",
        type=Path,
        default=[],
        help="read these files of `resbench runs export` (or submissions, .json) instead of a store",
    )


def where_of(arguments: argparse.Namespace) -> str | list[Path]:
    """What `open_source` takes."""
    from resbench.harness.store import default_tracking_uri

    return arguments.files or arguments.tracking_uri or default_tracking_uri(arguments.output_dir)
