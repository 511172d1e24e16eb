"""Reading a YAML file the way its author meant it, and `--set key=value` on top of it.

PyYAML follows YAML 1.1, where ``1e-3`` is text and ``on`` is a boolean, and lets a repeated key silently win over the first one. A sweep file
is full of learning rates and long mappings, so these are put right here.
"""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

_BOOL = "tag:yaml.org,2002:bool"


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's numbers and booleans, which refuses a key written twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise ValueError(f"line {line}: the key {key!r} is not text; write it in quotes")
            if key in seen:
                raise ValueError(
                    f"line {line}: the key {key!r} was already given on line {seen[key]}; keep one of them"
                )
            seen[key] = line
        return super().construct_mapping(node, deep)


_SAFE = yaml.SafeLoader.yaml_implicit_resolvers
_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag != _BOOL] for first, forms in _SAFE.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def parse(text: str) -> Any:
    """YAML text to plain Python values. Raises ValueError with the line for a syntax error or a repeated key."""
    try:
        return yaml.load(text, _Loader)  # a SafeLoader: builds plain values only
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{where}not valid YAML: {error.problem}") from None


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """The mapping in a YAML file; ``what`` names the file's role in messages.

    Raises FileNotFoundError, or ValueError naming the file and the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(f"{what} {path} does not exist") from None
    except IsADirectoryError:
        raise ValueError(f"{what} {path} is a folder, expected a YAML file") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} {path} is not UTF-8 text ({error.reason} at byte {error.start})") from None
    try:
        value = parse(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(
            f"{path}: expected a mapping of keys to values, got {'an empty file' if value is None else type(value).__name__}"
        )
    return value


def dump(value: Any) -> str:
    """Plain values to YAML text that `parse` reads back to the same values."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=140)


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """``["a.b=1", "c=[x, y]"]`` to ``{"a.b": 1, "c": ["x", "y"]}``, values read as YAML. Raises ValueError naming the assignment."""
    found: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise ValueError(
                f"--set {assignment!r}: expected key=value, such as --set seeds=[0,1,2] or --set budget.tokens=100_000"
            )
        try:
            found[key.strip()] = parse(text)
        except ValueError as error:
            raise ValueError(f"--set {assignment!r}: {error}") from None
    return found


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the closest known word, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
