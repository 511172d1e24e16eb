"""Finding schemes, tasks and backbones, built in or from anyone's package, through entry points.

A distribution that declares, say, ``[project.entry-points."resbench.schemes"] mine = "my_package:MyScheme"`` is found by name as soon as it is
installed. Nothing is imported until a plugin is loaded, so that a broken one cannot take the others down.
"""

import difflib
import importlib
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Literal

Kind = Literal["scheme", "task", "backbone"]
GROUPS: dict[Kind, str] = {"scheme": "resbench.schemes", "task": "resbench.tasks", "backbone": "resbench.backbones"}


class BrokenPlugin(ImportError):
    """A registered plugin that could not be imported; the message names its distribution and the cause."""


@dataclass(frozen=True)
class Plugin:
    """An entry point: its name, the ``module:attribute`` it stands for and the distribution that brought it."""

    kind: Kind
    name: str
    target: str
    distribution: str
    version: str

    @property
    def class_path(self) -> str:
        return self.target.replace(":", ".")

    def load(self) -> type:
        """Import the class. Raises BrokenPlugin when that fails, whatever the plugin's code raised."""
        try:
            loaded = EntryPoint(self.name, self.target, GROUPS[self.kind]).load()
        except Exception as error:
            raise BrokenPlugin(
                f"{self.kind} {self.name!r} comes from the distribution {self.distribution} {self.version}, and importing {self.target} failed: "
                f"{type(error).__name__}: {error}\nFix or uninstall {self.distribution}; the other plugins are not affected."
            ) from error
        if not isinstance(loaded, type):
            raise BrokenPlugin(
                f"{self.kind} {self.name!r} from {self.distribution} {self.version}: {self.target} is {type(loaded).__name__}, expected a class"
            )
        return loaded


def available(kind: Kind) -> dict[str, Plugin]:
    """Every registered plugin of a kind by name, resbench's own first. Raises ValueError when two distributions claim one name."""
    found: dict[str, Plugin] = {}
    for entry in entry_points(group=GROUPS[kind]):
        distribution = entry.dist.name if entry.dist else "unknown"
        plugin = Plugin(kind, entry.name, entry.value, distribution, entry.dist.version if entry.dist else "?")
        earlier = found.setdefault(plugin.name, plugin)
        if earlier.target != plugin.target:
            raise ValueError(
                f"two distributions register the {kind} {plugin.name!r}: {earlier.distribution} ({earlier.target}) and "
                f"{plugin.distribution} ({plugin.target}). Uninstall one of them or rename its entry point."
            )
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
        raise BrokenPlugin(f"{kind} {name!r}: importing it failed: {type(error).__name__}: {error}") from error
    if not isinstance(found, type):
        raise ValueError(f"{kind} {name!r} is {type(found).__name__}, expected a class")
    return found
