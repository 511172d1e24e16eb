"""What a scheme says about itself: docstrings and constructor, read from its source without importing it.

A plugin's code is not run to write a page about it, and one that no longer imports still has its equations.
"""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from resbench.architectures.registry import FIXED, Plugin, available

MOST_HOPS = 3
"""Re-exports followed from an entry point to the module that defines the class."""


@dataclass(frozen=True)
class Argument:
    """One field of a scheme's configuration, as its source writes it."""

    name: str
    type: str
    default: str


@dataclass(frozen=True)
class SchemeText:
    """A scheme's module docstring, its class's, its configuration, and who brings it."""

    name: str
    class_path: str
    distribution: str
    version: str
    module_doc: str
    class_doc: str
    arguments: tuple[Argument, ...]

    @property
    def is_plugin(self) -> bool:
        return self.distribution != "resbench"


def scheme_text(name: str) -> SchemeText | None:
    """What the scheme of this name says; None if none is installed here, or its source cannot be found or read."""
    plugin = available("scheme").get(name)
    if plugin is None or plugin.rival is not None:
        return None
    module, _, attribute = plugin.target.partition(":")
    return _read(plugin, module, attribute)


def _read(plugin: Plugin, module: str, attribute: str) -> SchemeText | None:
    for _ in range(MOST_HOPS):
        file = source_file(module)
        if file is None:
            return None
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (OSError, SyntaxError, ValueError):
            return None
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name == attribute:
                return SchemeText(
                    plugin.name,
                    f"{module}.{attribute}",
                    plugin.distribution,
                    plugin.version,
                    ast.get_docstring(tree, clean=False) or "",  # a module's is not indented, but for its equations
                    ast.get_docstring(node) or "",
                    _arguments(node),
                )
        origin = _origin(tree, module, attribute, is_package=file.name == "__init__.py")
        if origin is None:
            return None
        module, attribute = origin
    return None


def source_file(module: str) -> Path | None:
    """The file of a module, found without importing anything but, for namespace packages, nothing at all."""
    first, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin else None
    for folder in map(Path, spec.submodule_search_locations or ()):
        place = folder.joinpath(*rest)
        for candidate in (place.with_suffix(".py"), place / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


def _origin(tree: ast.Module, module: str, attribute: str, *, is_package: bool) -> tuple[str, str] | None:
    """Where a module imports a name from, as (module, name)."""
    for node in tree.body:
        if not isinstance(node, ast.ImportFrom):
            continue
        for alias in node.names:
            if (alias.asname or alias.name) == attribute:
                parts = module.split(".")
                base = parts[: len(parts) - node.level + is_package] if node.level else []
                return ".".join([*base, *([node.module] if node.module else [])]), alias.name
    return None


def _arguments(node: ast.ClassDef) -> tuple[Argument, ...]:
    """The constructor's arguments after those that resbench fills in."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            given = item.args.args[1:]
            defaults: list[ast.expr | None] = [None] * (len(given) - len(item.args.defaults)) + list(item.args.defaults)
            named = [*zip(given, defaults, strict=True), *zip(item.args.kwonlyargs, item.args.kw_defaults, strict=True)]
            return tuple(
                Argument(
                    argument.arg,
                    ast.unparse(argument.annotation) if argument.annotation else "",
                    ast.unparse(default) if default is not None else "",
                )
                for argument, default in named
                if argument.arg not in FIXED["scheme"]
            )
    return ()
