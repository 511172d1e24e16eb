"""Registry names in configurations: ``scheme: mhc`` stands for the class path that the entry point gives.

jsonargparse knows class paths. Before it reads a configuration, names are replaced wherever a class is expected: under ``model.scheme``,
``model.backbone`` and ``data``, and in any constructor argument of theirs that the signature says is a scheme or a scheme factory.
"""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from resbench.architectures.registry import Kind, available, resolve

SLOTS: dict[str, Kind] = {"model.scheme": "scheme", "model.backbone": "backbone", "data": "task"}


def class_path(kind: Kind, name: str) -> str:
    """The import path behind a registered name or an import path. Raises ValueError or BrokenPlugin as `registry.resolve`."""
    plugin = available(kind).get(name)
    if plugin is not None:
        plugin.load()
        return plugin.class_path
    target = resolve(kind, name)
    return f"{target.__module__}.{target.__qualname__}"


def short_name(kind: Kind, path: str) -> str:
    """The registered name of a class path, or the class's own name when it is not registered."""
    for plugin in available(kind).values():
        if plugin.class_path == path:
            return plugin.name
    return path.rpartition(".")[2]


def replace_in_tree(tree: dict[str, Any]) -> dict[str, Any]:
    """A configuration with class paths in place of names; everything else is left for jsonargparse to judge."""
    tree = dict(tree)
    for slot, kind in SLOTS.items():
        *parents, last = slot.split(".")
        node: Any = tree
        for parent in parents:
            if isinstance(node.get(parent), dict):
                node[parent] = dict(node[parent])
            node = node.get(parent)
            if not isinstance(node, dict):
                break
        else:
            if last in node:
                node[last] = replace_in_value(kind, node[last], slot)
    return tree


def replace_in_value(kind: Kind, value: Any, key: str) -> Any:
    """A class given as a bare name or as ``{class_path, init_args}``, with class paths in place of names throughout."""
    if isinstance(value, str):
        return {"class_path": _named(kind, value, key)}
    if isinstance(value, Mapping) and isinstance(value.get("class_path"), str):
        path = _named(kind, value["class_path"], key)
        value = {**value, "class_path": path}
        if isinstance(value.get("init_args"), Mapping):
            expected = _class_arguments(resolve(kind, path))
            value["init_args"] = {
                name: replace_in_value(expected[name], given, f"{key}.init_args.{name}") if name in expected else given
                for name, given in value["init_args"].items()
            }
    return value


def replace_in_argv(
    argv: list[str], files: Callable[[str], Mapping[str, Any] | None], chosen: dict[str, str] | None = None
) -> list[str]:
    """Command-line arguments with class paths in place of names.

    ``files`` gives the content of a configuration file, or None: what class a later ``--model.scheme.FIELD NAME`` speaks of may stand in one.
    ``chosen`` is filled with the class that each of `SLOTS` ends up with, as far as the arguments and files say.
    """
    current: dict[str, str] = {} if chosen is None else chosen
    out: list[str] = []
    items = iter(argv)
    for item in items:
        option, has_value, value = item.partition("=")
        if not option.startswith("--") and option != "-c":
            out.append(item)
            continue
        if not has_value:
            value_or_end = next(items, None) if option not in _FLAGS else None
            if value_or_end is None:
                out.append(item)
                continue
            value = value_or_end
        key = option.removeprefix("--")
        if key in ("config", "-c"):
            _note_classes(files(value) or {}, current)
        else:
            value = _replace_option(key, value, current)
        out += [f"{option}={value}"] if has_value else [option, value]
    return out


_FLAGS = frozenset({"--help", "-h", "--print_config", "--version", "--profile", "--no_profile"})


def _replace_option(key: str, value: str, current: dict[str, str]) -> str:
    for slot, kind in SLOTS.items():
        if key in (slot, f"{slot}.class_path"):
            if Path(value).is_file():  # jsonargparse reads the part from that file
                return value
            parsed = _parse(value)
            if isinstance(parsed, str):
                current[slot] = _named(kind, parsed, key)
                return current[slot]
            replaced = replace_in_value(kind, parsed, key)
            _note_classes(_nest(slot, replaced), current)
            return yaml.safe_dump(replaced, default_flow_style=True, width=10**9).strip()
        if key == f"{slot}.help":
            return _named(kind, value, key)
        if key.startswith(f"{slot}.") and slot in current:
            field = key.removeprefix(f"{slot}.").removeprefix("init_args.").removesuffix(".class_path")
            inner = _class_arguments(resolve(kind, current[slot])).get(field)
            if inner is not None:
                parsed = _parse(value)
                if isinstance(parsed, str):
                    return _named(inner, parsed, key)
                return yaml.safe_dump(
                    replace_in_value(inner, parsed, key), default_flow_style=True, width=10**9
                ).strip()
    return value


def _parse(value: str) -> Any:
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        return value
    return parsed if isinstance(parsed, dict) else value


def _note_classes(tree: Mapping[str, Any], current: dict[str, str]) -> None:
    for slot in SLOTS:
        node: Any = tree
        for part in slot.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        path = node.get("class_path") if isinstance(node, Mapping) else node
        if isinstance(path, str):
            current[slot] = path


def _nest(slot: str, value: Any) -> dict[str, Any]:
    for part in reversed(slot.split(".")):
        value = {part: value}
    return dict(value)


def _named(kind: Kind, name: str, key: str) -> str:
    try:
        return class_path(kind, name)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def _class_arguments(target: type) -> dict[str, Kind]:
    """Constructor arguments that take a scheme or a scheme factory."""
    from resbench.architectures.scheme import ResidualScheme

    names = inspect.signature(target.__init__).parameters  # type: ignore[misc]
    try:
        hints = get_type_hints(target.__init__)  # type: ignore[misc]
    except Exception:  # an annotation that cannot be evaluated is jsonargparse's to report
        return {}
    found: dict[str, Kind] = {}
    for name in names:
        hint = hints.get(name)
        returned = get_args(hint)[-1] if get_origin(hint) is Callable and get_args(hint) else hint
        if isinstance(returned, type) and issubclass(returned, ResidualScheme):
            found[name] = "scheme"
    return found
