"""What a sweep is going to do, worked out before anything runs: every cell with its parameters, FLOPs, tokens, runs and time.

Every cell's model is really constructed (without memory for its weights), so that a wrong field, an impossible width or an unknown scheme is
found here and not in the middle of the night.
"""

import copy
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from resbench.sweeps import keys
from resbench.sweeps.grid import Cell, SchemeFields, cells, devices_of, registered_fields
from resbench.sweeps.spec import SweepSpec
from resbench.sweeps.yamlfile import dump

Phase = Literal["search", "final"]
Describe = Callable[[list[str]], Mapping[str, Any]]
REFERENCE_SCHEME = "resnet"
_SHAPE: tuple[keys.Path, ...] = (
    keys.SCHEME,
    keys.BACKBONE,
    keys.DATA,
    ("budget",),
    *(("trainer", name) for name in ("devices", "num_nodes", "accumulate_grad_batches", "strategy", "precision")),
)


@dataclass(frozen=True)
class PlannedRun:
    """One run that has to end exactly once. ``number`` is the trial's in the search, the seed in the final phase."""

    study: str
    cell: Cell
    phase: Phase
    number: int
    seed: int

    @property
    def key(self) -> str:
        """Unique among all runs ever planned for the study, and the same whenever the sweep is run again."""
        word = "trial" if self.phase == "search" else "seed"
        return f"{self.study}/{self.cell.id}/{self.phase}/{word}={self.number}"

    @property
    def title(self) -> str:
        word = "search trial" if self.phase == "search" else "seed"
        parts = (
            label if name in ("scheme", "size") else f"{name.rpartition('.')[2]} {label}"
            for name, label in self.cell.labels.items()
        )
        return f"{', '.join(parts) or 'base'}, {word} {self.number}"


@dataclass(frozen=True)
class CellPlan:
    """A cell and what one of its runs amounts to. FLOPs are those of training (forward and backward) per token."""

    cell: Cell
    params_total: int
    params_connection: int
    flops_per_token: int
    tokens: int
    steps: int

    @property
    def devices(self) -> int:
        """How many devices one run trains on."""
        return devices_of(self.cell)

    @property
    def flops(self) -> int:
        """Training FLOPs of one run."""
        return self.flops_per_token * self.tokens


@dataclass(frozen=True)
class Plan:
    spec: SweepSpec
    cells: tuple[CellPlan, ...]

    @property
    def trials(self) -> int:
        """Search trials per cell."""
        return self.spec.search.trials if self.spec.search else 0

    @property
    def runs_per_cell(self) -> int:
        return self.trials + len(self.spec.seeds)

    @property
    def trainings_per_cell(self) -> int:
        """As `runs_per_cell`, with a search trial counted once for each seed it is trained with."""
        return self.trials * (self.spec.search.seeds_per_trial if self.spec.search else 1) + len(self.spec.seeds)

    @property
    def runs(self) -> int:
        return len(self.cells) * self.runs_per_cell

    @cached_property
    def run_keys(self) -> frozenset[str]:
        """The key of every run."""
        return frozenset(chain.from_iterable(planned_keys(self.record()).values()))

    def final(self, cell: Cell, seed: int) -> PlannedRun:
        return PlannedRun(self.spec.name, cell, "final", seed, seed)

    def trial(self, cell: Cell, number: int) -> PlannedRun:
        assert self.spec.search is not None
        return PlannedRun(self.spec.name, cell, "search", number, self.spec.search.seed)

    def record(self) -> dict[str, Any]:
        """What decides the runs' results, to be compared with a later state of the sweep file."""
        return {
            "format": 1,
            "name": self.spec.name,
            "cells": {plan.cell.id: plan.cell.config for plan in self.cells},
            "seeds": list(self.spec.seeds),
            "search": self._search_record(),
        }

    def _search_record(self) -> dict[str, Any] | None:
        """Later additions to the file's keys only where they say something, so that sweeps begun before them can go on."""
        search = self.spec.search
        if search is None:
            return None
        fields = type(search).model_fields
        silent = {
            name
            for name in ("constraints", "seeds_per_trial")
            if getattr(search, name) == fields[name].get_default(call_default_factory=True)
        }
        return search.model_dump(mode="json", exclude=silent)


def planned_keys(record: Mapping[str, Any]) -> dict[str, list[str]]:
    """Keys of all planned runs by cell, from the record of `Plan.record`."""
    trials = record["search"]["trials"] if record["search"] else 0
    return {
        cell: [f"{record['name']}/{cell}/search/trial={number}" for number in range(trials)]
        + [f"{record['name']}/{cell}/final/seed={seed}" for seed in record["seeds"]]
        for cell in record["cells"]
    }


def make_plan(spec: SweepSpec, describe: Describe | None = None, fields: SchemeFields = registered_fields) -> Plan:
    """Lay out a sweep and construct each of its models once.

    ``describe`` takes the arguments of a `resbench fit` command line and returns ``params_total``, ``params_connection``, ``flops_per_token``
    (training), ``steps`` and ``tokens``; the default is `resbench.harness.fit.describe`.

    Raises ValueError naming the cell for a configuration that `resbench fit` would refuse.
    """
    if describe is None:
        from resbench.harness.fit import describe as fit_describe

        describe = fit_describe
    found = cells(spec, fields)
    facts_of = _Facts(describe)
    planned = []
    for cell in found:
        devices_of(cell)
        ratio = keys.look_up(cell.config, keys.RATIO)
        if ratio is not None:
            config = {key: value for key, value in cell.config.items() if key not in keys.RATIO}
            cell = Cell(cell.id, cell.labels, config)
        if (ratio := ratio or spec.tokens_per_parameter) is not None:
            cell = _with_proportional_tokens(cell, ratio, facts_of)
        facts = facts_of(cell.config, cell.id)
        planned.append(
            CellPlan(
                cell,
                params_total=int(facts["params_total"]),
                params_connection=int(facts["params_connection"]),
                flops_per_token=int(facts["flops_per_token"]),
                tokens=int(facts["tokens"]),
                steps=int(facts["steps"]),
            )
        )
    if spec.search:
        from resbench.sweeps.strategies import check_search

        check_search(spec.search, planned[0].tokens)
        for key, distribution in spec.search.space.items():
            _check_searched_key(planned[0].cell, key, distribution.model_dump(), facts_of)
    return Plan(spec, tuple(planned))


class _Facts:
    """What `resbench fit` says of a configuration, asked only where it could say something new.

    Counts depend on the model's shape, the data and the batch, not on, say, the learning rate. So a configuration is described if its shape or
    the rest of it is new; a sweep of 336 cells is checked value by value with some sixty models built.
    """

    def __init__(self, describe: Describe) -> None:
        self._describe = describe
        self._shapes: dict[str, Mapping[str, Any]] = {}
        self._rests: set[str] = set()

    def __call__(self, config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
        """Raises ValueError naming the cell for a configuration that `resbench fit` would refuse."""
        given = copy.deepcopy(dict(config))
        tokens = keys.look_up(given, keys.TOKENS)
        counted = isinstance(tokens, int) and tokens > 0
        if counted:  # how long a model is trained is no part of its shape
            keys.assign(given, keys.TOKENS, None)
        shape = shape_of(given)
        rest = given
        for path in _SHAPE:
            if keys.look_up(rest, path) is not None:
                keys.assign(rest, path, None)
        if shape not in self._shapes or dump(rest) not in self._rests:
            self._shapes[shape] = self._ask(config, name)
            self._rests.add(dump(rest))
        facts = self._shapes[shape]
        if not counted:
            return facts
        per_step = int(facts["tokens"]) // int(facts["steps"])
        steps = math.ceil(tokens / per_step)
        return {**facts, "steps": steps, "tokens": steps * per_step}

    def _ask(self, config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
        with written(config) as path:
            try:
                return self._describe(["--config", str(path), *one_device(config)])
            except ValueError as error:
                raise ValueError(f"cell {name!r}: {str(error).replace(str(path), 'its configuration')}") from error


def _with_proportional_tokens(cell: Cell, tokens_per_parameter: float, facts_of: _Facts) -> Cell:
    """Tokens from the size of the same cell with a plain residual: a scheme must not earn data by having more parameters."""
    if keys.look_up(cell.config, keys.TOKENS) is not None:
        raise ValueError(f"tokens_per_parameter: the cell {cell.id!r} sets budget.tokens as well; keep one of the two")
    reference = copy.deepcopy(cell.config)
    keys.assign(reference, keys.SCHEME, REFERENCE_SCHEME)
    keys.assign(reference, keys.TOKENS, 1)
    facts = facts_of(reference, f"{cell.id} (with {REFERENCE_SCHEME}, for tokens_per_parameter)")
    config = copy.deepcopy(cell.config)
    keys.assign(config, keys.TOKENS, max(1, round(tokens_per_parameter * int(facts["params_total"]))))
    return Cell(cell.id, cell.labels, config)


def shape_of(config: Mapping[str, Any]) -> str:
    """Everything that counts of parameters, FLOPs and memory depend on."""
    return dump([keys.look_up(config, path) for path in _SHAPE])


@contextmanager
def written(config: Mapping[str, Any]) -> Iterator[Path]:
    """A configuration as a file for `resbench fit`, for a moment."""
    with tempfile.TemporaryDirectory(prefix="resbench-plan-") as folder:
        path = Path(folder, "cell.yaml")
        path.write_text(dump(dict(config)), encoding="utf-8")
        yield path


def one_device(config: Mapping[str, Any]) -> list[str]:
    """What a run sees of this machine's devices if its configuration leaves their number open: one, however many there are."""
    return ["--trainer.devices=1"] if keys.look_up(config, ("trainer", "devices")) in (None, "auto") else []


def _check_searched_key(cell: Cell, key: str, distribution: Mapping[str, Any], facts_of: _Facts) -> None:
    """One value of each searched key is tried on the first cell, so that a misspelt key fails before anything runs."""
    value = distribution["choices"][0] if "choices" in distribution else distribution["low"]
    facts_of(cell.with_values({key: value}), f"{cell.id} with search.space.{key}")
