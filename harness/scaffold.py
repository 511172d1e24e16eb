"""`resbench new-scheme`, `new-task`, `new-backbone`: a small installable package with a working plugin, its tests and a README."""

import argparse
import keyword
import re
from pathlib import Path
from string import Template

from resbench.architectures.registry import GROUPS, Kind, available
from resbench.harness.invocation import command

TEMPLATES = Path(__file__).resolve().parent / "templates"
NEXT: dict[Kind, tuple[str, ...]] = {
    "scheme": ("check-scheme", "{name}"),
    "task": ("fit", "--data", "{name}", "--model.backbone.size", "100k"),
    "backbone": ("fit", "--model.backbone", "{name}"),
}
"""What to run once the package is installed."""


def new_scheme(argv: list[str]) -> int:
    """`resbench new-scheme NAME DIR`."""
    return _command("scheme", argv)


def new_task(argv: list[str]) -> int:
    """`resbench new-task NAME DIR`."""
    return _command("task", argv)


def new_backbone(argv: list[str]) -> int:
    """`resbench new-backbone NAME DIR`."""
    return _command("backbone", argv)


def _command(kind: Kind, argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog=f"resbench new-{kind}",
        description=f"Write an installable package with a working {kind}, its tests and a README.",
    )
    parser.add_argument("name", help=f"what the {kind} will be called in configurations, such as my-{kind}")
    parser.add_argument("directory", type=Path, help="where the package goes; must be new or empty")
    options = parser.parse_args(argv)
    written = write_package(kind, options.name, options.directory)
    print(f"{options.directory}: {', '.join(str(path.relative_to(options.directory)) for path in written)}")
    tried = command(*(word.format(name=options.name) for word in NEXT[kind]))
    print(f"next: pip install -e {options.directory} && {tried}")
    return 0


def write_package(kind: Kind, name: str, directory: Path) -> list[Path]:
    """Write the package; returns its files.

    Raises ValueError for a name that cannot be one or is taken, FileExistsError when the directory is not empty: nothing is written then.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise ValueError(f"{name!r}: expected a name of lower-case words joined by hyphens, such as my-{kind}")
    taken = available(kind).get(name)
    if taken is not None:
        raise ValueError(
            f"there is a {kind} {name!r} already, from {taken.distribution} {taken.version}: choose another name"
        )
    class_name = "".join(word.capitalize() for word in name.split("-"))
    if keyword.iskeyword(class_name):
        raise ValueError(
            f"{name!r} would give a class called {class_name}, which is a word of Python: choose another name"
        )
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(f"{directory} exists and is not an empty directory: choose a new one")
    package = f"resbench_{name.replace('-', '_')}"
    values = {
        "name": name,
        "kind": kind,
        "group": GROUPS[kind].partition(".")[2],
        "package": package,
        "distribution": f"resbench-{name}",
        "class_name": class_name,
    }
    sources = {
        "pyproject.toml": "pyproject.toml.template",
        "README.md": f"{kind}/README.md.template",
        f"src/{package}/__init__.py": f"{kind}/module.py.template",
        f"tests/test_{package}.py": f"{kind}/test.py.template",
    }
    contents = {
        target: Template((TEMPLATES / source).read_text(encoding="utf-8")).substitute(values)
        for target, source in sources.items()
    }
    for target, text in contents.items():
        path = directory / target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    marker = directory / "src" / package / "py.typed"
    marker.touch()
    return [directory / target for target in contents]
