"""What jsonargparse says about a bad configuration, retold: the key, where it was given, what was expected, what exists."""

import difflib
import inspect
import pkgutil
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jsonargparse import ArgumentParser


@dataclass(frozen=True)
class Source:
    """A configuration file and the mapping in it."""

    path: str
    tree: Mapping[str, Any]

    def has(self, key: str) -> bool:
        """Whether the file sets the dotted key."""
        node: Any = self.tree
        for part in key.split("."):
            if not isinstance(node, Mapping) or part not in node:
                return False
            node = node[part]
        return True


def explain(
    message: str, parser: ArgumentParser, sources: Sequence[Source], argv: Sequence[str], decided: Mapping[str, str]
) -> str:
    """One paragraph for jsonargparse's ``message``.

    ``sources`` and ``argv`` are what was parsed, to say where a key was given. ``decided`` has the keys that exist in Lightning and not here, with
    what to set in their place.
    """
    found = _unknown_key(message)
    if found is not None:
        key, class_path = found
        if key in decided:
            return f"{_where(key, sources, argv)}{key} cannot be set: {decided[key]}"
        parent, _, last = key.rpartition(".")
        if class_path is None and not _children(parser, parent):
            class_path = _class_chosen(parent.removesuffix(".init_args"), sources, argv)
        if class_path is not None:
            known = _arguments(class_path)
            nothing = f" {class_path.rpartition('.')[2]} takes no arguments."
        else:
            known, nothing = _children(parser, parent), ""
            if not known:
                parent, last = "", key.partition(".")[0]
                key, known = last, _children(parser, "")
        return f"{_where(key, sources, argv)}unknown key {key!r}.{_known(last, known) or nothing}"
    keys = re.findall(r'Parser key "([^"]+)"', message)
    if not keys:
        return message
    key = ".init_args.".join(keys)
    reason = message.rpartition(f'Parser key "{keys[-1]}":')[2].strip()
    if subtypes := re.search(r"Subtypes: \[(.*?)\]\n.*?Given value: ([^\n]*)", reason, re.S):
        expected, value = f"one of {subtypes[1]}", subtypes[2]
    elif said := re.match(
        r"(?:Expected an? )?([^\n]*?)\.?\s+Got value: ([^\n]*?)(?:\. Got value: .*)?$", reason, re.S | re.M
    ):
        expected, value = said[1], said[2]
    else:
        return f"{_where(key, sources, argv)}{key}: {' '.join(reason.split())}"
    expected = re.sub(r"<class '([^']+)'>", r"\1", expected).replace("typing.", "").replace("NoneType", "null")
    return f"{_where(key, sources, argv)}{key}: got {value.strip()!r}, expected {expected}"


def raised_by_constructor(message: str) -> str:
    """What a constructor said, without the report jsonargparse wraps around it when a type also allows null."""
    if not message.startswith("Does not validate against any of the Union subtypes"):
        return message
    errors = message.partition("Errors:\n")[2].partition("\nGiven value type:")[0]
    said = [part.strip() for part in re.split(r"^  - ", errors, flags=re.M)]
    return "\n".join(part for part in said if part and not part.startswith("Expected a <class 'NoneType'>")) or message


def in_its_file(message: str, sources: Sequence[Source], argv: Sequence[str]) -> str:
    """A constructor's ``FIELD=VALUE ...`` with the file and the whole key in front, when a file and nothing after it set that field so."""
    for source in reversed(sources):
        for key, value in _leaves(source.tree):
            for said in (key, key.rpartition(".")[2]):
                if message.startswith((f"{said}={value}", f"{said}={value!r}")) and where_given(key, sources, argv):
                    return f"{source.path}: {key}{message.removeprefix(said)}"
    return message


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _unknown_key(message: str) -> tuple[str, str | None] | None:
    """The dotted key that nothing accepts, and the class whose argument it would be, if it is a class's."""
    if found := re.match(r"unrecognized arguments: --([^\s=]+)", message):
        return found[1], None
    if found := re.search(r"Group '([^']+)' does not accept option '([^']+)'", message):
        return f"{found[1]}.{found[2]}", None
    if found := re.search(r"(?:Option|Key|key|option) '([^']+)' is not (?:accepted|expected)", message):
        keys = re.findall(r'Parser key "([^"]+)"', message)
        owner = re.search(r"'?class_path'?[=:] ?'([^']+)'", message[found.end() :])
        return ".init_args.".join([*keys, found[1]]), owner[1] if owner else None
    return None


def _class_chosen(slot: str, sources: Sequence[Source], argv: Sequence[str]) -> str | None:
    """The class path that the command line, or a file, gives for ``data`` or ``model.scheme``."""
    for option, value in zip(argv, [*argv[1:], ""], strict=True):
        name, has_value, own = option.partition("=")
        if name in (f"--{slot}", f"--{slot}.class_path"):
            return own if has_value else value
    for source in reversed(sources):
        node: Any = source.tree
        for part in slot.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        if isinstance(node, Mapping):
            node = node.get("class_path")
        if isinstance(node, str):
            return node
    return None


def _known(wrong: str, known: Iterable[str]) -> str:
    names = sorted(known)
    if not names:
        return ""
    close = difflib.get_close_matches(wrong, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{hint} Known: {', '.join(names)}"


def _children(parser: ArgumentParser, parent: str) -> set[str]:
    prefix = f"{parent}." if parent else ""
    known = {
        action.dest.removeprefix(prefix).split(".")[0] for action in parser._actions if action.dest.startswith(prefix)
    }
    return {name for name in known if name not in ("help", "print_config") and not name.startswith("print_")}


def _arguments(class_path: str) -> set[str]:
    try:
        target = pkgutil.resolve_name(class_path)
    except (ImportError, AttributeError, ValueError):
        return set()
    names: set[str] = set()
    for ancestor in target.__mro__:  # **kwargs is passed on to the next one
        parameters = inspect.signature(ancestor.__init__).parameters.values() if "__init__" in vars(ancestor) else ()
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return names - {"self", "width", "n_sublayers", "scheme", "vocab_size"}


def where_given(key: str, sources: Sequence[Source], argv: Sequence[str]) -> str | None:
    """``FILE: `` when a file gave the key, an empty string when the command line did, None when nobody did."""
    plain = key.replace(".init_args", "")
    options = {
        item.partition("=")[0].removeprefix("--").replace(".init_args", "") for item in argv if item.startswith("--")
    }
    if plain in options:
        return ""
    for source in reversed(sources):
        if source.has(key):
            return f"{source.path}: "
    return None


def _where(key: str, sources: Sequence[Source], argv: Sequence[str]) -> str:
    return where_given(key, sources, argv) or ""
