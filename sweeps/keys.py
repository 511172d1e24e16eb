"""Keys of a fit configuration as sweep files write them, and setting them in a nested configuration.

A factor, an override or a search distribution names what it changes by a dotted key of ``resbench fit``. Arguments of a class may leave out
``init_args``, and the commonest keys have short forms:

=================== ======================================
``scheme``          ``model.scheme``
``scheme.FIELD``    ``model.scheme.init_args.FIELD``
``size``            ``model.backbone.init_args.size``
``backbone.FIELD``  ``model.backbone.init_args.FIELD``
``data.FIELD``      ``data.init_args.FIELD``
=================== ======================================
"""

from collections.abc import Mapping
from typing import Any

Path = tuple[str, ...]

SCHEME: Path = ("model", "scheme")
BACKBONE: Path = ("model", "backbone")
DATA: Path = ("data",)
TOKENS: Path = ("budget", "tokens")
RATIO: Path = ("tokens_per_parameter",)
"""No key of a fit configuration: the plan turns it into `TOKENS`, cell by cell. It may be a factor."""
_CLASSES = (SCHEME, BACKBONE, DATA)
_SHORT: dict[str, Path] = {"scheme": SCHEME, "backbone": BACKBONE, "size": (*BACKBONE, "size")}

# Keys that differ between the runs of one sweep by design; the sweep sets them itself.
RESERVED: dict[str, str] = {
    "seed_everything": "seeds are listed under `seeds` (and `search.seed`)",
    "output_dir": "give --output-dir on the command line",
    "tracking": "give --tracking-uri on the command line; the experiment is the sweep's name",
    "config": "write the configuration under `base`",
    "resume": "the sweep resumes runs from their checkpoints itself",
}


def expand(key: str) -> Path:
    """The full path of a key: ``expand("scheme.n_streams") == ("model", "scheme", "init_args", "n_streams")``.

    Raises ValueError for an empty part or for a key that the sweep itself sets.
    """
    parts = tuple(key.split("."))
    if not all(part and part == part.strip() for part in parts):
        raise ValueError(f"{key!r} is not a key: expected names joined by single dots, such as model.learning_rate")
    if parts[0] in RESERVED:
        raise ValueError(f"{key!r} is set by the sweep for each run: {RESERVED[parts[0]]}")
    if parts[0] in _SHORT:
        parts = _SHORT[parts[0]] + parts[1:]
    for owner in _CLASSES:
        depth = len(owner)
        if parts[:depth] == owner and len(parts) > depth and parts[depth] not in ("class_path", "init_args"):
            parts = (*owner, "init_args", *parts[depth:])
    return parts


def is_known_short(key: str) -> bool:
    """Whether a key without a dot means something by itself; any other is a free name for a factor of linked values."""
    return key in _SHORT or key in ("data", *RATIO)


def scheme_field(path: Path) -> str | None:
    """The constructor field of the residual scheme that a path sets, or None if it sets something else."""
    inside = (*SCHEME, "init_args")
    return path[len(inside)] if path[: len(inside)] == inside and len(path) > len(inside) else None


def assign(config: dict[str, Any], path: Path, value: Any) -> None:
    """Set ``value`` at ``path``, in place. A class given by its bare name on the way becomes ``{class_path, init_args}``."""
    node = config
    for depth, part in enumerate(path[:-1], 1):
        child = node.get(part)
        if path[:depth] in _CLASSES:
            child = as_class(child)
            if child is None:
                child = {"class_path": "transformer"} if path[:depth] == BACKBONE else {}
        elif child is not None and not isinstance(child, Mapping):
            raise ValueError(f"{'.'.join(path)} cannot be set: {'.'.join(path[:depth])} is {child!r}, not a mapping")
        node[part] = dict(child or {})
        node = node[part]
    node[path[-1]] = value


def as_class(value: Any) -> dict[str, Any] | None:
    """A class choice as a mapping: ``"mhc"`` becomes ``{"class_path": "mhc"}``."""
    if value is None:
        return None
    if isinstance(value, str):
        return {"class_path": value}
    if isinstance(value, Mapping):
        return dict(value)
    raise ValueError(f"{value!r} does not name a class: expected a registered name, or class_path with init_args")


def look_up(config: Mapping[str, Any], path: Path) -> Any:
    """The value at ``path``, or None."""
    node: Any = config
    for part in path:
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    return node
