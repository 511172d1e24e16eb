"""Building a leaderboard's files from a store, and putting them in place so that an interrupted build leaves no half-written one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp

from resbench.results.curves import load_curves, load_profiles
from resbench.results.difficulty import load_accuracies
from resbench.results.figures.drawing import Drawing
from resbench.results.figures.numbers import METRICS
from resbench.results.figures.study import NAMES, SOMETIMES, draw_study
from resbench.results.leaderboard import Leaderboard, to_csv, to_json
from resbench.results.markdown import to_markdown
from resbench.results.page import to_html
from resbench.results.source import Where, open_source

PAGE = "index.html"


def files_of(leaderboard: Leaderboard, where: Where) -> dict[str, str | bytes]:
    """The content of every file by its path below the leaderboard's folder; the page comes last.

    Reads the histories and profiles of the leaderboard's runs from the store or exported file they are in.
    """
    source = open_source(where)
    run_ids = [str(run_id) for run_id in leaderboard.runs["run_id"]]
    drawings = draw_study(
        leaderboard,
        load_curves(source, run_ids, METRICS),
        load_profiles(source, run_ids),
        load_accuracies(source, run_ids),
    )
    files: dict[str, str | bytes] = {}
    for drawing in drawings:
        files |= figure_files(drawing)
    return files | {
        "leaderboard.csv": to_csv(leaderboard),
        "leaderboard.json": to_json(leaderboard),
        "leaderboard.md": to_markdown(leaderboard, drawings),
        PAGE: to_html(leaderboard, drawings),
    }


def write_files(folder: Path, files: Mapping[str, str | bytes], figures: Sequence[str] = (*NAMES, *SOMETIMES)) -> None:
    """Write all files beside the folder first, then move each into place in one step, in the order given.

    Whatever stops this, every file in the folder is whole, old or new. Files that the mapping does not name are left
    alone, but for those of `figures` that are no longer drawn. Raises OSError when the folder cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)
    # Inside the folder, so that moving never crosses file systems.
    staging = Path(mkdtemp(prefix=".build-", dir=folder))
    try:
        for name, content in files.items():
            staged = staging / name
            staged.parent.mkdir(parents=True, exist_ok=True)
            staged.write_bytes(content.encode() if isinstance(content, str) else content)
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(staging / name, folder / name)
        for name in {f"figures/{name}.{kind}" for name in figures for kind in ("svg", "png", "csv")} - set(files):
            (folder / name).unlink(missing_ok=True)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def figure_files(drawing: Drawing) -> dict[str, str | bytes]:
    """The files of one figure by path; none if it was not drawn."""
    name = f"figures/{drawing.name}"
    if not drawing.svg:
        return {}
    return {f"{name}.svg": drawing.svg, f"{name}.png": drawing.png, f"{name}.csv": drawing.csv()}
