"""The values of a factor: plain values, classes with arguments, or linked values that set several keys under one label."""

import re
from typing import Any

from pydantic import BaseModel, ConfigDict

from resbench.sweeps import keys

Scalar = bool | int | float | str | None
_LABEL = re.compile(r"[^,='\"`\\\x00-\x1f\x7f]{1,80}")


class Strict(BaseModel):
    """Unknown keys and values of another type are errors; nothing is converted silently."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Level(Strict):
    """One value of a factor: the label that names it in cells and tables, and the fit keys it sets."""

    label: str
    assignments: dict[str, Any]


def parse_factor(key: str, given: Any) -> tuple[Level, ...]:
    """The levels of one factor. Raises ValueError naming the factor and the value."""
    if not isinstance(given, list) or not given:
        raise ValueError(f"{key}: expected a list with at least one value, got {given!r}")
    levels = tuple(_level(key, value) for value in given)
    labels = [level.label for level in levels]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"{key}: two values are called {label!r}; remove one, or tell them apart with `label:`")
    return levels


def _level(key: str, given: Any) -> Level:
    where = f"{key}: {given!r}:"
    label: Any = None
    if isinstance(given, dict) and "set" in given:
        if set(given) - {"set", "label"} or not isinstance(given["set"], dict) or given.get("label") is None:
            raise ValueError(f"{where} linked values are written {{label: NAME, set: {{key: value, ...}}}}")
        label, assignments = given["label"], given["set"]
    else:
        keys.expand(key)
        if "." not in key and not keys.is_known_short(key):
            raise ValueError(
                f"{key}: not a key of a fit configuration. Expected scheme, size or a dotted key such as model.learning_rate; a name of your own "
                "needs linked values, {label: NAME, set: {key: value, ...}}"
            )
        if isinstance(given, dict):
            unknown = sorted(set(given) - {"class_path", "init_args", "label"})
            if (
                unknown
                or not isinstance(given.get("class_path"), str)
                or not isinstance(given.get("init_args", {}), dict)
            ):
                raise ValueError(f"{where} expected a plain value, {{class_path, init_args, label}} or {{label, set}}")
            value: Any = {k: v for k, v in given.items() if k != "label"}
            arguments = given.get("init_args") or {}
            label = given.get("label")
            if label is None:
                label = given["class_path"] + (
                    " (" + "; ".join(f"{k} {v}" for k, v in arguments.items()) + ")" if arguments else ""
                )
        elif isinstance(given, Scalar):
            value = given
            label = as_label(given)
        else:
            raise ValueError(f"{where} expected a plain value, {{class_path, init_args, label}} or {{label, set}}")
        assignments = {key: value}
    for name in assignments:
        keys.expand(name)
    if not _LABEL.fullmatch(str(label)):
        raise ValueError(
            f"{where} its label {str(label)!r} must have 1 to 80 characters and no comma, equals sign, quote or backslash; give it a `label:`"
        )
    return Level(label=str(label), assignments=assignments)


def as_label(value: Any) -> Any:
    """A plain value as the text that labels it; anything else unchanged."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value) if isinstance(value, int | float | str) else value
