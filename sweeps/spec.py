"""The sweep file: what it may say, checked before anything else happens.

::

    name: streams                  # the MLflow experiment; letters, digits, ".", "_" and "-"
    base: {...}                    # a `resbench fit` configuration, or the path of one relative to this file
    factors:                       # the grid; every combination is a cell
      size: [1m, 3m]
      scheme: [resnet, mhc, {class_path: mhc, init_args: {order: rows-first}, label: mhc rows first}]
      scheme.n_streams: [2, 4]     # a scheme without that field (resnet) keeps its one cell, see `resbench.sweeps.grid`
      depth:                       # a free name: linked values, each setting several keys under one label
        - {label: 8, set: {backbone.depth: 8, backbone.width: 336}}
        - {label: 64, set: {backbone.depth: 64, backbone.width: 112}}
    exclude: [{scheme: mhc, size: [3m]}]                  # cells to leave out, by the factors' labels
    overrides: [{when: {size: 3m}, set: {data.batch_size: 8}}]
    tokens_per_parameter: 20       # instead of budget.tokens; counted on the plain-resnet model of the cell, so that schemes see equal data.
                                   # Among the factors, [5, 20, 80] makes several budgets of each size
    search:                        # optional; the same number of trials in every cell
      trials: 8
      seed: 1000                   # not one of `seeds`: the winner is judged on seeds it was not chosen on
      space: {model.learning_rate: {low: 1e-3, high: 3e-2, log: true}}
      sampler: {name: tpe, args: {n_startup_trials: 4}}
      pruner: {name: median, args: {n_warmup_steps: 200_000}}   # steps are tokens
      constraints: {mem/peak_gib: 70}     # a metric's highest admissible last value; a trial above it is not chosen
      seeds_per_trial: 1                  # more: a trial trains with seed, seed + 1, ... and counts by its mean; its pruner is `wilcoxon`
    seeds: [0, 1, 2]               # final runs; the same in every cell, so that schemes are compared in pairs
    workers: 2                     # runs at once on this machine
    timeout: 3600                  # seconds a run may take
    flops_per_s: 2e13              # training FLOP/s of one worker, for the plan's estimate only

Keys are those of `resbench.sweeps.keys`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Discriminator, Field, Tag, ValidationError, field_validator, model_validator

from resbench.sweeps import keys
from resbench.sweeps.factors import Level, Scalar, Strict, as_label, parse_factor
from resbench.sweeps.yamlfile import did_you_mean, parse_assignments, read_mapping

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Override(Strict):
    """Keys set in the cells whose labels match ``when`` (all cells if empty), after the factors."""

    when: dict[str, list[str]] = Field(default_factory=dict)
    set: dict[str, Any] = Field(min_length=1)

    @field_validator("when", mode="before")
    @classmethod
    def _labels(cls, value: Any) -> Any:
        return _selection(value)


class Range(Strict):
    """A numeric distribution of the search, inclusive at both ends; of integers when ``low`` and ``high`` are integers."""

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low <= self.high:
            raise ValueError(f"low={self.low} is above high={self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low={self.low} with log: true, expected a positive number")
        if self.log and self.step is not None:
            raise ValueError("step and log: true exclude each other")
        if self.step is not None and self.step <= 0:
            raise ValueError(f"step={self.step}, expected a positive number")
        return self

    @property
    def integer(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int) and isinstance(self.step, int | None)


class Choices(Strict):
    """A categorical distribution of the search."""

    choices: Annotated[list[Scalar], Field(min_length=1)]


def _kind(given: Any) -> str:
    return _CHOICES if isinstance(given, Choices) or (isinstance(given, dict) and "choices" in given) else _RANGE


# Told apart by their keys, so that a mistake in one is reported as such and not as two failed attempts to read it.
_RANGE, _CHOICES = "{low, high, log, step}", "{choices}"
Distribution = Annotated[Annotated[Range, Tag(_RANGE)] | Annotated[Choices, Tag(_CHOICES)], Discriminator(_kind)]


class Named(Strict):
    """A sampler or pruner by its short name, with the arguments of Optuna's class."""

    name: str
    args: dict[str, Any] = Field(default_factory=dict)


class Search(Strict):
    """Hyper-parameter search, one Optuna study per cell with the same number of trials."""

    trials: int = Field(ge=1)
    seed: int = Field(ge=0, lt=2**32)
    space: dict[str, Distribution] = Field(min_length=1)
    sampler: Named = Named(name="tpe")
    pruner: Named = Named(name="none")
    constraints: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = Field(default_factory=dict)
    seeds_per_trial: int = Field(default=1, ge=1, le=100)

    @property
    def trial_seeds(self) -> tuple[int, ...]:
        """The seeds every trial is trained with, in this order."""
        return tuple(range(self.seed, self.seed + self.seeds_per_trial))

    @field_validator("sampler", "pruner", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("space", mode="before")
    @classmethod
    def _known_keys(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        for key in value:
            keys.expand(key)
        return {key: {"choices": given} if isinstance(given, list) else given for key, given in value.items()}


class SweepSpec(Strict):
    """A checked sweep file; see the module's docstring for every key."""

    name: str
    description: str | None = None
    base: dict[str, Any]
    factors: dict[str, tuple[Level, ...]]
    exclude: list[dict[str, list[str]]] = Field(default_factory=list)
    overrides: list[Override] = Field(default_factory=list)
    tokens_per_parameter: float | None = Field(default=None, gt=0)
    search: Search | None = None
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field(min_length=1)
    workers: int | None = Field(default=None, ge=1)
    timeout: float | None = Field(default=None, gt=0)
    flops_per_s: float | None = Field(default=None, gt=0)

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError(
                f"{value!r}: expected at most 64 letters, digits, '.', '_' and '-', the first a letter or digit, "
                "because the name becomes an MLflow experiment and a folder"
            )
        return value

    @field_validator("factors", mode="before")
    @classmethod
    def _levels(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError(f"expected a mapping of factor names to lists of values, got {type(value).__name__}")
        return {key: parse_factor(key, given) for key, given in value.items()}

    @field_validator("exclude", mode="before")
    @classmethod
    def _selections(cls, value: Any) -> Any:
        return [_selection(given) for given in value] if isinstance(value, list) else value

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, value: list[int]) -> list[int]:
        twice = sorted({seed for seed in value if value.count(seed) > 1})
        if twice:
            raise ValueError(f"{twice[0]} is listed twice; a repeated seed is the same run again, not a second sample")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.search and (shared := sorted(set(self.search.trial_seeds) & set(self.seeds))):
            which = "search.seed" if self.search.seeds_per_trial == 1 else "search.seeds_per_trial"
            raise ValueError(
                f"{which}: {shared[0]} is also one of `seeds`; the winner of a search must be judged on seeds it was not selected on. "
                f"Give search.seed another value, such as {max(self.seeds) + 1000}"
            )
        if self.tokens_per_parameter is not None and keys.look_up(self.base, keys.TOKENS) is not None:
            raise ValueError("tokens_per_parameter: base.budget.tokens is set as well; keep one of the two")
        for where, selection in self._all_selections():
            for name, labels in selection.items():
                known = [level.label for level in self.factors.get(name, ())]
                if not known:
                    raise ValueError(
                        f"{where}.{name}: not a factor of this sweep.{did_you_mean(name, self.factors)} Factors: {', '.join(self.factors)}"
                    )
                for label in labels:
                    if label not in known:
                        raise ValueError(
                            f"{where}.{name}: {label!r} is not one of its labels.{did_you_mean(label, known)} Labels: {', '.join(known)}"
                        )
        for override in self.overrides:
            for key in override.set:
                keys.expand(key)
        if self.search:
            varied = {
                keys.expand(key) for levels in self.factors.values() for level in levels for key in level.assignments
            }
            for key in self.search.space:
                if keys.expand(key) in varied:
                    raise ValueError(
                        f"search.space.{key}: already a factor; a key is either searched or laid out as a grid"
                    )
        return self

    def _all_selections(self) -> list[tuple[str, dict[str, list[str]]]]:
        return [(f"exclude.{i}", s) for i, s in enumerate(self.exclude)] + [
            (f"overrides.{i}.when", o.when) for i, o in enumerate(self.overrides)
        ]


def load_spec(path: Path | str, assignments: list[str] | None = None) -> SweepSpec:
    """Read and check a sweep file; ``assignments`` are `--set key=value` texts laid over it.

    A ``--set`` key may be a key of the sweep file (``seeds``, ``search.trials``), the name of a factor, whose values it picks by label or
    replaces, or a key of a fit configuration, which it sets in every cell. A bare name
    without a file of that name means one of the sweeps shipped with resbench.

    Raises ValueError or FileNotFoundError naming the file, the key, the value and what was expected.
    """
    path = find_file(path)
    raw = read_mapping(path, "the sweep file")
    if isinstance(raw.get("base"), str):
        raw["base"] = read_mapping(path.parent / raw["base"], f"{path}: base: the configuration")
    _apply_sets(raw, parse_assignments(assignments or []))
    return check(raw, str(path))


def check(raw: Mapping[str, Any], origin: str) -> SweepSpec:
    """The checked form of a sweep file's content; ``origin`` names it in messages. Raises ValueError."""
    base = raw.get("base")
    if isinstance(base, dict):
        raw = {**raw, "base": {key: value for key, value in base.items() if key not in keys.RESERVED}}
    try:
        return SweepSpec.model_validate(dict(raw))
    except ValidationError as error:
        raise ValueError(_readable(error, origin)) from None


def shipped() -> dict[str, Path]:
    """The sweep files that come with resbench, by name."""
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("*.yaml"))}


def find_file(path: Path | str) -> Path:
    """The file meant by a command-line argument: a path, or the name of a shipped sweep."""
    found = Path(path)
    if found.exists() or found.suffix or len(found.parts) != 1:
        return found
    if found.name in shipped():
        return shipped()[found.name]
    raise FileNotFoundError(
        f"no file {str(path)!r}, and no shipped sweep of that name. Shipped: {', '.join(shipped())}"
    )


def _apply_sets(raw: dict[str, Any], assignments: Mapping[str, Any]) -> None:
    everywhere: dict[str, Any] = {}
    for key, value in assignments.items():
        first, *rest = key.split(".")
        factors = raw.get("factors")
        if isinstance(factors, dict) and key in factors:
            _narrow(raw, factors, key, value if isinstance(value, list) else [value])
        elif first in SweepSpec.model_fields and first not in ("factors", "overrides"):
            if rest and not isinstance(raw.get(first), dict):
                raise ValueError(f"--set {key}=...: this sweep file has no mapping `{first}` to change")
            node = raw
            for part in (first, *rest)[:-1]:
                node[part] = dict(node.get(part) or {})
                node = node[part]
            node[(first, *rest)[-1]] = value
        else:
            everywhere[key] = value
            if keys.expand(key) == keys.TOKENS:
                _one_budget(raw)
    if everywhere:
        raw["overrides"] = [*(raw.get("overrides") or []), {"set": everywhere}]


def _one_budget(raw: dict[str, Any]) -> None:
    """Take back what the file says of tokens per parameter, and what it excludes or overrides by it: the tokens are given."""
    (ratio,) = keys.RATIO
    raw[ratio] = None
    if isinstance(raw.get("factors"), dict):
        raw["factors"] = {key: value for key, value in raw["factors"].items() if key != ratio}
    for name in ("exclude", "overrides"):
        if isinstance(raw.get(name), list):
            raw[name] = [
                one for one in raw[name] if ratio not in (one.get("when", one) if isinstance(one, dict) else ())
            ]


def _narrow(raw: dict[str, Any], factors: dict[str, Any], key: str, wanted: list[Any]) -> None:
    """Give a factor other values: the file's own where ``wanted`` names them by label (``depth=[8,64]`` picks linked values), else new ones.

    Exclusions and overrides that speak of values left out lose their point and are left out as well.
    """
    by_label = {level.label: value for level, value in zip(parse_factor(key, factors[key]), factors[key], strict=True)}
    factors[key] = [one if isinstance(one, dict) else by_label.get(as_label(one), one) for one in wanted]
    gone = by_label.keys() - {level.label for level in parse_factor(key, factors[key])}

    def left(selection: Any) -> Any:
        selection = _selection(selection)
        if not isinstance(selection, dict) or key not in selection:
            return selection
        return {**selection, key: [label for label in selection[key] if label not in gone]}

    if isinstance(raw.get("exclude"), list):
        raw["exclude"] = [one for one in map(left, raw["exclude"]) if not isinstance(one, dict) or one.get(key, True)]
    if isinstance(raw.get("overrides"), list):
        changed = [
            {**one, "when": left(one["when"])} if isinstance(one, dict) and "when" in one else one
            for one in raw["overrides"]
        ]
        raw["overrides"] = [one for one in changed if not isinstance(one, dict) or one.get("when", {}).get(key, True)]


def _selection(given: Any) -> Any:
    """Labels may be written as the values they name (``size: 1m``, ``depth: 8``), one or several."""
    if not isinstance(given, dict):
        return given
    return {
        key: [as_label(one) for one in (value if isinstance(value, list) else [value])] for key, value in given.items()
    }


def _readable(error: ValidationError, origin: str) -> str:
    """At most five problems, one line each: file, key, what is wrong, what was expected."""
    lines = []
    for problem in error.errors(include_url=False)[:5]:
        location = tuple(part for part in problem["loc"] if part not in (_RANGE, _CHOICES))
        where = ".".join(str(part) for part in location)
        given = repr(problem["input"])
        given = given if len(given) <= 60 else given[:57] + "..."
        match problem["type"]:
            case "extra_forbidden":
                known = _fields_at(location[:-1])
                text = f"unknown key.{did_you_mean(str(problem['loc'][-1]), known)} Known: {', '.join(known)}"
            case "missing":
                text = "missing, expected a value"
            case "value_error":
                text = str(problem["ctx"]["error"])
            case _:
                text = f"{problem['msg'][0].lower()}{problem['msg'][1:]}, got {given}"
        lines.append(f"{origin}: {where}: {text}" if where else f"{origin}: {text}")
    more = error.error_count() - len(lines)
    return "\n".join(lines + ([f"... and {more} more"] if more > 0 else []))


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    match location:
        case ("search",):
            return list(Search.model_fields)
        case ("search", "sampler" | "pruner"):
            return list(Named.model_fields)
        case ("search", "space", _):
            return [*Range.model_fields, *Choices.model_fields]
        case ("overrides", _):
            return list(Override.model_fields)
    return list(SweepSpec.model_fields)
