"""Building a leaderboard's files from its runs, and putting them in place so that an interrupted build leaves no half-written one."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp

from resbench.results.curves import load_curves, load_profiles
from resbench.results.difficulty import load_accuracies
from resbench.results.figures.drawing import Drawing
from resbench.results.figures.numbers import METRICS
from resbench.results.figures.study import draw_study
from resbench.results.leaderboard import Leaderboard, to_csv, to_json
from resbench.results.markdown import to_markdown
from resbench.results.site.build import METHOD, PAGE, Rules, build_site
from resbench.results.site.scaling import laws_of
from resbench.results.source import Where, open_source
from resbench.results.tracks import load_tracks

SUMS = "SHA256SUMS"
"""Lists every file of a build with its digest, as `sha256sum --check` reads it."""


def files_of(leaderboard: Leaderboard, where: Where, rules: Rules | None = None) -> dict[str, str | bytes]:
    """The content of every file by its path below the leaderboard's folder; the index comes last.

    Reads the histories and profiles of the leaderboard's runs from the store or exported file they are in.
    """
    source = open_source(where)
    run_ids = [str(run_id) for run_id in leaderboard.runs["run_id"]]
    curves, profiles = load_curves(source, run_ids, METRICS), load_profiles(source, run_ids)
    drawings = draw_study(leaderboard, curves, profiles, load_accuracies(source, run_ids))
    site = build_site(
        leaderboard, source, drawings, curves, profiles, rules or Rules(load_tracks()), laws_of(leaderboard)
    )
    files: dict[str, str | bytes] = {}
    for drawing in (*drawings, *site.drawings):
        files |= figure_files(drawing)
    return (
        files
        | {
            "leaderboard.csv": to_csv(leaderboard),
            "leaderboard.json": to_json(leaderboard),
            "leaderboard.md": to_markdown(leaderboard, drawings),
        }
        | site.files
    )


def write_files(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Write all files, and `SUMS` with their digests, beside the folder first, then move each into place in one step, in the order given.

    An error or interruption while writing leaves what was there before untouched. Other files in the folder are left alone, but for
    those that an earlier build wrote (by its `SUMS`), nobody changed, and this one no longer has. Raises OSError when the folder cannot be written.
    """
    contents = {name: content.encode() if isinstance(content, str) else content for name, content in files.items()}
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)
    outdated = [path for name, path in _written_before(folder).items() if name not in files]
    # Inside the folder, so that moving never crosses file systems.
    staging = Path(mkdtemp(prefix=".build-", dir=folder))
    try:
        listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
        for name, content in {SUMS: listing.encode(), **contents}.items():
            staged = staging / name
            staged.parent.mkdir(parents=True, exist_ok=True)
            staged.write_bytes(content)
        for name in (SUMS, *contents):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(staging / name, folder / name)
        for path in outdated:
            path.unlink(missing_ok=True)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _written_before(folder: Path) -> dict[str, Path]:
    """The files that an earlier build left in the folder and that are still as it wrote them."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError):
        return {}
    found = {}
    for line in lines:
        digest, _, name = line.partition("  ")
        path = folder / name
        inside = bool(name) and folder.resolve() in path.resolve().parents
        if inside and path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest:
            found[name] = path
    return found


def figure_files(drawing: Drawing) -> dict[str, str | bytes]:
    """The files of one figure by path; none if it was not drawn."""
    name = f"figures/{drawing.name}"
    if not drawing.svg:
        return {}
    return {f"{name}.svg": drawing.svg, f"{name}.png": drawing.png, f"{name}.csv": drawing.csv()}


__all__ = ["METHOD", "PAGE", "Rules", "figure_files", "files_of", "write_files"]
