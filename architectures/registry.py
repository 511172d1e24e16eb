"""Finding schemes, tasks and backbones, built in or from anyone's package, through entry points.

A distribution that declares, say, ``[project.entry-points."resbench.schemes"] mine = "my_package:MyScheme"`` is found by name as soon as it is
installed. Nothing is imported until a plugin is loaded, so that a broken one cannot take the others down.
"""

import difflib
import functools
import importlib
import inspect
import os
import sys
from dataclasses import dataclass, replace
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path
from typing import Literal

Kind = Literal["scheme", "task", "backbone"]
GROUPS: dict[Kind, str] = {"scheme": "resbench.schemes", "task": "resbench.tasks", "backbone": "resbench.backbones"}


FIXED: dict[Kind, tuple[str, ...]] = {
    "scheme": ("width", "n_sublayers"),
    "task": (),
    "backbone": ("scheme", "vocab_size", "context_length"),
}
"""Constructor arguments that resbench fills in; all others are configuration."""

OWN_FOLDERS = ("architectures", "harness", "kernels", "results", "sweeps", "tasks")


class BrokenPlugin(ImportError):
    """A registered plugin that cannot be used; the message names its distribution and the cause."""


@dataclass(frozen=True)
class Plugin:
    """An entry point: its name, the ``module:attribute`` it stands for and the distribution that brought it."""

    kind: Kind
    name: str
    target: str
    distribution: str
    version: str
    rival: str | None = None
    """``distribution (target)`` of another plugin that claims the same name."""

    @property
    def class_path(self) -> str:
        return self.target.replace(":", ".")

    @property
    def origin(self) -> str:
        return f"{self.kind} {self.name!r} from {self.distribution} {self.version}"

    def load(self) -> type:
        """Import the class. Raises BrokenPlugin when that fails, whatever the plugin's code raised, or when it is no class resbench can configure."""
        if self.rival is not None:
            raise BrokenPlugin(
                f"two distributions register the {self.kind} {self.name!r}: {self.distribution} ({self.target}) and {self.rival}. "
                "Uninstall one of them, rename its entry point, or give the import path of the one you mean."
            )
        there = set(sys.modules)
        try:
            loaded = EntryPoint(self.name, self.target, GROUPS[self.kind]).load()
        except Exception as error:
            raise BrokenPlugin(
                f"{self.kind} {self.name!r} comes from the distribution {self.distribution} {self.version}, and importing {self.target} failed: "
                f"{type(error).__name__}: {error}{bare_import_hint(error)}\nFix or uninstall {self.distribution}; the other plugins are not affected."
            ) from error
        if own := bare_import(set(sys.modules) - there):
            for module in (own, self.target.partition(":")[0]):  # so that a second attempt is refused like the first
                sys.modules.pop(module, None)
            raise BrokenPlugin(
                f"{self.origin}: importing {self.target} imported a bare {own!r}, which is resbench's own folder found by accident of the "
                f"working directory: write resbench.{own}"
            )
        if not isinstance(loaded, type):
            raise BrokenPlugin(f"{self.origin}: {self.target} is {type(loaded).__name__}, expected a class")
        if problem := constructor_problem(self.kind, loaded):
            raise BrokenPlugin(f"{self.origin}: {problem}")
        return loaded


def bare_import_hint(error: BaseException) -> str:
    """What to write instead, when an import failed on one of resbench's folders without its prefix."""
    name = (getattr(error, "name", None) or "").partition(".")[0] if isinstance(error, ImportError) else ""
    return f"\nDid you mean resbench.{name}? A bare {name!r} is not resbench's." if name in OWN_FOLDERS else ""


def bare_import(imported: set[str]) -> str | None:
    """A folder of resbench among newly imported modules without its prefix, as the working directory can make possible."""
    root = Path(__file__).resolve().parent.parent
    for name in imported & set(OWN_FOLDERS):
        places = getattr(sys.modules.get(name), "__path__", ())
        if any(Path(place).resolve() == root / name for place in places):
            return name
    return None


def constructor_problem(kind: Kind, target: type) -> str | None:
    """Why a class cannot be configured through its constructor, if so: its signature is its configuration."""
    parameters = [
        p for p in inspect.signature(target).parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    fixed = FIXED[kind]
    given = tuple(p.name for p in parameters[: len(fixed)])
    if kind == "scheme" and given != fixed:
        return f"{target.__name__}({', '.join(given)}, ...): a scheme's constructor starts with ({', '.join(fixed)})"
    for parameter in parameters[len(fixed) :]:
        if parameter.annotation is parameter.empty:
            return (
                f"{target.__name__}'s argument {parameter.name!r} has no type hint: resbench reads its type from there, "
                f"so write `{parameter.name}: int = ...`, or whatever its type is"
            )
        if kind == "scheme" and parameter.default is parameter.empty:
            return f"{target.__name__}'s argument {parameter.name!r} has no default: a scheme must be usable by its name alone"
    return None


def available(kind: Kind) -> dict[str, Plugin]:
    """Every registered plugin of a kind by name, resbench's own first; one that two distributions claim fails when it is loaded, not before."""
    return dict(_registered(kind, tuple(_state(place) for place in sys.path)))


def _state(place: str) -> tuple[str, int]:
    """A folder of the import path and when something was last put into it or taken away; importlib.metadata remembers folders by the same."""
    try:
        return place, os.stat(place or ".").st_mtime_ns
    except OSError:
        return place, 0


@functools.lru_cache(maxsize=32)
def _registered(kind: Kind, installed: tuple[tuple[str, int], ...]) -> dict[str, Plugin]:
    """`available` for the state of the import path. A run asks a dozen times, and reading what every distribution says of itself takes its time."""
    found: dict[str, Plugin] = {}
    described: dict[Distribution | None, tuple[str, str]] = {None: ("unknown", "?")}
    for entry in entry_points(group=GROUPS[kind]):
        if entry.dist is not None and entry.dist not in described:
            described[entry.dist] = entry.dist.name, entry.dist.version  # each reads a file
        plugin = Plugin(kind, entry.name, entry.value, *described[entry.dist])
        earlier = found.setdefault(plugin.name, plugin)
        if earlier.target != plugin.target:
            found[plugin.name] = replace(earlier, rival=f"{plugin.distribution} ({plugin.target})")
    return dict(sorted(found.items(), key=lambda item: (item[1].distribution != "resbench", item[0])))


def resolve(kind: Kind, name: str) -> type:
    """The class behind a registered name, or behind an import path ``package.module.Class``.

    Raises ValueError that lists the known names for an unknown one, BrokenPlugin when the code cannot be imported.
    """
    known = available(kind)
    if name in known:
        return known[name].load()
    module, _, attribute = name.rpartition(".")
    if not module:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"unknown {kind} {name!r}.{hint} Known: {', '.join(known)}; or give an import path such as package.module.Class"
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise BrokenPlugin(
            f"{kind} {name!r}: importing it failed: {type(error).__name__}: {error}{bare_import_hint(error)}"
        ) from error
    if not isinstance(found, type):
        raise ValueError(f"{kind} {name!r} is {type(found).__name__}, expected a class")
    if problem := constructor_problem(kind, found):
        raise ValueError(f"{kind} {name!r}: {problem}")
    return found
