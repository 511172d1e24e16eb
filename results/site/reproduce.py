"""How to repeat what a page shows: the sweep's file, the resolved configuration of each row, and the commands, quoted for a shell."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from resbench.results.cells import Cell
from resbench.results.columns import printable
from resbench.results.leaderboard import Leaderboard
from resbench.results.site.environment import slug
from resbench.results.source import RunSource

CONFIG = "config.yaml"
"""A run's resolved configuration among its artifacts."""

SWEEP = "sweep/sweep.yaml"
"""A sweep's own file among the artifacts of its parent run."""

LARGEST = 200_000
"""Bytes of a configuration that a page carries along."""

PARENT = "mlflow.parentRunId"


@dataclass(frozen=True)
class CellRecipe:
    """A row's commands, and the file they need, below the site's folder; or the reason why there are none."""

    where: str
    config: str = ""
    commands: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Recipe:
    """The commands for the whole study (empty if its file was not kept) and for each row of a scheme."""

    study: str
    cells: list[CellRecipe] = field(default_factory=list)


@dataclass(frozen=True)
class Configurations:
    """Files of configuration to publish, by path, and which of them is a cell's."""

    files: dict[str, bytes]
    of_cell: dict[tuple[str, str], str]
    sweep: str | None


def configurations(leaderboard: Leaderboard, source: RunSource) -> Configurations:
    """The resolved configuration of each cell's first seed, and the sweep's file, as far as runs left them behind."""
    files: dict[str, bytes] = {}
    of_cell: dict[tuple[str, str], str] = {}
    for cell in leaderboard.cells:
        if not cell.run_ids:
            continue
        run_id = cell.run_ids[min(cell.run_ids)]
        content = source.artifact(run_id, CONFIG)
        if content is not None and len(content) <= LARGEST:
            path = f"configs/{slug(f'{cell.cell}')}.yaml"
            if files.setdefault(path, content) != content:  # the same cell at another budget or on other data
                path = f"configs/{slug(f'{cell.cell} {cell.group.tokens} {cell.group.data_fingerprint}')}.yaml"
                files[path] = content
            of_cell[_key(cell)] = path
    sweep = _sweep(leaderboard, source)
    if sweep is not None:
        files["configs/sweep.yaml"] = sweep
    return Configurations(files, of_cell, None if sweep is None else "configs/sweep.yaml")


def recipe(cells: list[Cell], found: Configurations) -> Recipe:
    """The commands for a scheme's rows."""
    study = ""
    commits = {commit for cell in cells for commit in cell.commits}
    if found.sweep is not None:
        study = "\n".join([*_checkout(commits), f"resbench sweep run {found.sweep}", "resbench leaderboard build"])
    return Recipe(study, [_cell_recipe(cell, found.of_cell.get(_key(cell))) for cell in cells])


def _cell_recipe(cell: Cell, config: str | None) -> CellRecipe:
    group = cell.group
    where = printable(", ".join(part for part in (cell.label, group.size, group.setting) if part))
    if config is None:
        reason = "no run of this row left its configuration behind" if cell.run_ids else "no run of this row completed"
        return CellRecipe(where, reason=f"{reason[0].upper()}{reason[1:]}: there is nothing to repeat from.")
    seeds = [seed for seed in sorted(cell.run_ids) if seed >= 0]
    runs = [f"resbench fit --config {shlex.quote(config)} --seed_everything {seed}" for seed in seeds]
    notes = ["# the code had uncommitted changes: the commit alone may not repeat these numbers"] if cell.dirty else []
    return CellRecipe(where, config, "\n".join([*notes, *_checkout(set(cell.commits)), *runs]))


def _checkout(commits: set[str]) -> list[str]:
    """The command that brings back the code, where it is known and one."""
    hashes = sorted(commit for commit in commits if re.fullmatch(r"[0-9a-f]{7,64}", commit))
    if len(hashes) == 1:
        return [f"git checkout {hashes[0]}"]
    return [f"# several commits: {' '.join(commit[:10] for commit in hashes)}"] if hashes else []


def _key(cell: Cell) -> tuple[str, str]:
    return cell.cell, str((cell.group.task, cell.group.tokens, cell.group.data_fingerprint))


def _sweep(leaderboard: Leaderboard, source: RunSource) -> bytes | None:
    """The file of the sweep that all these runs belong to; None if there are several or it was not kept."""
    own = set(leaderboard.runs["run_id"].astype(str))
    tags: dict[str, Mapping[str, str]] = {run.run_id: run.tags for run in source.runs()}
    parents = {tags[run_id].get(PARENT) for run_id in own if run_id in tags}
    if len(parents) != 1 or (parent := next(iter(parents))) is None or parent not in tags:
        return None
    content = source.artifact(parent, SWEEP)
    return content if content is not None and len(content) <= LARGEST else None
