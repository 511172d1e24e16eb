"""The cells of a sweep: every combination of its factors, each with the fit configuration it stands for.

A key that sets a field of the residual scheme (``scheme.n_streams``) applies only where the scheme's constructor has that field and the
scheme's own value does not set it already. So ``scheme: [resnet, mhc]`` with ``scheme.n_streams: [2, 4]`` is three cells, not four: resnet
has one, without ``n_streams`` in its name. A field that no scheme of the sweep has is an error.
"""

import copy
import inspect
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from resbench.sweeps import keys
from resbench.sweeps.factors import Level
from resbench.sweeps.spec import SweepSpec
from resbench.sweeps.yamlfile import did_you_mean

SchemeFields = Callable[[str], set[str]]


@dataclass(frozen=True)
class Cell:
    """One combination. ``id`` is stable and readable (``scheme=mhc,size=1m``), ``labels`` has the factors that apply, ``config`` is a fit
    configuration without seed, output folder, tracking and searched keys."""

    id: str
    labels: Mapping[str, str]
    config: dict[str, Any] = field(repr=False)

    def scheme(self) -> str | None:
        """The scheme's class path as written, or None where the fit configuration leaves it to the default."""
        return scheme_of(self.config)

    def with_values(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """This cell's configuration with hyper-parameters of a search laid over it."""
        config = copy.deepcopy(self.config)
        for key, value in values.items():
            keys.assign(config, keys.expand(key), value)
        return config


def scheme_of(config: Mapping[str, Any]) -> str | None:
    scheme = keys.as_class(keys.look_up(config, keys.SCHEME))
    return scheme.get("class_path") if scheme else None


def devices_of(cell: Cell) -> int:
    """How many devices a run of the cell trains on, 1 where its configuration leaves that open.

    Raises ValueError for what a run of a sweep cannot have: certain devices by their numbers (the sweep deals them out), or several machines.
    """
    nodes = keys.look_up(cell.config, ("trainer", "num_nodes"))
    if nodes not in (None, 1):
        raise ValueError(
            f"cell {cell.id!r}: trainer.num_nodes={nodes}: a run of a sweep is on one machine; train such a model with `resbench fit` under torchrun"
        )
    value = keys.look_up(cell.config, ("trainer", "devices"))
    if value in (None, "auto"):
        return 1
    if isinstance(value, bool) or not str(value).isdigit() or int(value) < 1:
        raise ValueError(
            f"cell {cell.id!r}: trainer.devices={value}: expected how many devices a run takes, 1 or more; which they are, the sweep decides"
        )
    return int(value)


def wants_gpus(cell: Cell) -> bool:
    """Whether its runs train on GPUs where there are some."""
    return str(keys.look_up(cell.config, ("trainer", "accelerator"))) not in ("cpu", "mps", "tpu")


def registered_fields(scheme: str) -> set[str]:
    """The constructor's fields of a registered scheme, through ``**kwargs`` to its parents' if it passes them on.

    Raises ValueError for an unknown scheme.
    """
    from resbench.architectures.registry import resolve

    found: set[str] = set()
    for owner in resolve("scheme", scheme).__mro__:
        if "__init__" not in vars(owner) or owner is object:
            continue
        parameters = list(inspect.signature(vars(owner)["__init__"]).parameters.values())[1:]
        found |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found - {"width", "n_sublayers"}


def cells(spec: SweepSpec, fields: SchemeFields = registered_fields) -> list[Cell]:
    """Every cell of the sweep in the file's order, the last factor varying fastest.

    Raises ValueError naming the key for a scheme field nobody has, an exclusion or override that matches nothing, two cells that are the
    same run, or a grid with nothing left.
    """
    names = _short_names(list(spec.factors))
    known = _SchemeKeys(fields)
    found: dict[str, Cell] = {}
    dropped: set[str] = set()
    used_overrides: set[int] = set()
    used_exclusions: set[int] = set()
    for combination in itertools.product(*spec.factors.values()):
        chosen = dict(zip(spec.factors, combination, strict=True))
        config, labels = _apply(spec.base, chosen, known)
        identity = ",".join(f"{names[factor]}={label}" for factor, label in labels.items()) or "base"
        matching = {i for i, selection in enumerate(spec.exclude) if _matches(selection, labels)}
        if matching:
            used_exclusions |= matching
            dropped.add(identity)
            continue
        for i, override in enumerate(spec.overrides):
            if _matches(override.when, labels):
                used_overrides.add(i)
                _assign_all(config, override.set, known)
        found.setdefault(identity, Cell(identity, labels, config))
    known.check()
    for i, selection in enumerate(spec.exclude):
        if i not in used_exclusions:
            raise ValueError(f"exclude.{i}: {selection} matches no cell; remove it or correct its labels")
    for i, override in enumerate(spec.overrides):
        if i not in used_overrides:
            raise ValueError(f"overrides.{i}.when: {override.when} matches no cell; remove it or correct its labels")
    if not found:
        raise ValueError(f"exclude: all {len(dropped)} cells are excluded, nothing is left to run")
    _refuse_duplicates(list(found.values()))
    return list(found.values())


def _apply(
    base: Mapping[str, Any], chosen: Mapping[str, Level], known: "_SchemeKeys"
) -> tuple[dict[str, Any], dict[str, str]]:
    """The configuration of one combination and the labels of the factors that had a say in it."""
    config = copy.deepcopy(dict(base))
    # Whole classes first, their arguments after, whatever the order of the factors in the file.
    plain = [(keys.expand(key), value) for level in chosen.values() for key, value in level.assignments.items()]
    for path, value in sorted(plain, key=lambda item: len(item[0])):
        if keys.scheme_field(path) is None:
            keys.assign(config, path, copy.deepcopy(value))
    scheme = keys.as_class(keys.look_up(config, keys.SCHEME))
    if scheme is not None:
        keys.assign(config, keys.SCHEME, scheme)  # one form, so that equal cells compare equal
    pinned = set(keys.look_up(config, (*keys.SCHEME, "init_args")) or {})
    varied_scheme = any(keys.expand(key) == keys.SCHEME for level in chosen.values() for key in level.assignments)
    labels = {}
    for factor, level in chosen.items():
        applies = not level.assignments
        for key, value in level.assignments.items():
            path = keys.expand(key)
            name = keys.scheme_field(path)
            if name is None:
                applies = True
            elif known.has(config, name, key) and not (varied_scheme and name in pinned):
                keys.assign(config, path, copy.deepcopy(value))
                applies = True
        if applies:
            labels[factor] = level.label
    return config, labels


def _assign_all(config: dict[str, Any], assignments: Mapping[str, Any], known: "_SchemeKeys") -> None:
    for key, value in sorted(assignments.items(), key=lambda item: len(keys.expand(item[0]))):
        name = keys.scheme_field(keys.expand(key))
        if name is None or known.has(config, name, key):
            keys.assign(config, keys.expand(key), copy.deepcopy(value))


class _SchemeKeys:
    """Which scheme has which field, asked once per scheme, and whether each field a sweep names exists in at least one of its schemes."""

    def __init__(self, fields: SchemeFields) -> None:
        self._fields = fields
        self._seen: dict[str, set[str]] = {}
        self._asked: dict[str, tuple[str, bool]] = {}

    def has(self, config: Mapping[str, Any], name: str, key: str) -> bool:
        scheme = scheme_of(config)
        if scheme is None:
            raise ValueError(f"{key}: no scheme is set; add a `scheme` factor or base.model.scheme")
        if scheme not in self._seen:
            self._seen[scheme] = self._fields(scheme)
        present = name in self._seen[scheme]
        self._asked[name] = (key, present or self._asked.get(name, (key, False))[1])
        return present

    def check(self) -> None:
        for name, (key, anywhere) in self._asked.items():
            if not anywhere:
                every = sorted(set().union(*self._seen.values()))
                raise ValueError(
                    f"{key}: none of the schemes {', '.join(self._seen)} has a field {name!r}.{did_you_mean(name, every)} "
                    f"Their fields: {', '.join(every) or 'none'}"
                )


def _matches(selection: Mapping[str, list[str]], labels: Mapping[str, str]) -> bool:
    return all(labels.get(factor) in accepted for factor, accepted in selection.items())


def _short_names(factors: list[str]) -> dict[str, str]:
    """The last part of each factor's key, or the whole key where two factors end alike; ``scheme.FIELD`` for a field of the scheme.

    The leaderboard tells the two apart by that: fields of the scheme make variants that compete, any other factor a setting to compete in.
    """
    fields = {factor: keys.scheme_field(keys.expand(factor)) for factor in factors}
    tails = [f"scheme.{fields[factor]}" if fields[factor] else factor.rpartition(".")[2] for factor in factors]
    return {factor: tail if tails.count(tail) == 1 else factor for factor, tail in zip(factors, tails, strict=True)}


def _refuse_duplicates(found: list[Cell]) -> None:
    for i, cell in enumerate(found):
        for other in found[:i]:
            if cell.config == other.config:
                raise ValueError(
                    f"factors: the cells {other.id!r} and {cell.id!r} are the same configuration; remove one of them, it would only repeat the runs"
                )
