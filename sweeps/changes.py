"""Whether a sweep file still describes the sweep that was started under its name, and if not, what is different."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_SHOWN = 8


@dataclass(frozen=True)
class Changes:
    """``additions`` may be run with ``--extend``; ``conflicts`` would mix runs that do not belong together."""

    additions: tuple[str, ...]
    conflicts: tuple[str, ...]


def compare(started: Mapping[str, Any], now: Mapping[str, Any]) -> Changes:
    """Differences between two records of `resbench.sweeps.plan.Plan.record`, readable, one line each."""
    additions: list[str] = []
    conflicts: list[str] = []
    before, after = started["cells"], now["cells"]
    for cell in after:
        if cell not in before:
            additions.append(f"new cell {cell}")
    for cell, config in before.items():
        if cell not in after:
            conflicts.append(f"cell {cell} is gone")
        else:
            conflicts += [f"cell {cell}: {line}" for line in _value_changes(config, after[cell])]
    for seed in now["seeds"]:
        if seed not in started["seeds"]:
            additions.append(f"new seed {seed}")
    conflicts += [f"seed {seed} is gone" for seed in started["seeds"] if seed not in now["seeds"]]
    conflicts += [f"search: {line}" for line in _value_changes(started["search"] or {}, now["search"] or {})]
    return Changes(tuple(additions), tuple(conflicts))


def refusal(name: str, changes: Changes, extend: bool) -> str | None:
    """Why the sweep must not go on like this, or None if it may."""
    lines = list(changes.conflicts) + ([] if extend else list(changes.additions))
    if not lines:
        return None
    shown = "\n".join(f"  {line}" for line in lines[:_SHOWN])
    more = f"\n  ... and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    if changes.conflicts:
        todo = "Undo the change, or give the sweep a new `name` to start it afresh (--extend can only add cells and seeds)."
    else:
        todo = "Add --extend to run what is new with the rest, or give the sweep a new `name`."
    return f"the sweep {name!r} was started with other settings:\n{shown}{more}\n{todo}"


def _value_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    old, new = _flat(before), _flat(after)
    return [
        f"{key}: {old.get(key, 'not set')!r} is now {new.get(key, 'not set')!r}".replace("'not set'", "not set")
        for key in sorted(old.keys() | new.keys())
        if key not in old or key not in new or old[key] != new[key]
    ]


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            found |= _flat(item, f"{prefix}{key}.")
        else:
            found[prefix + key] = item
    return found
