"""Docstrings as HTML: equations with real subscripts and Greek letters, prose with code and links, parameters as a list.

Every character of the docstring is escaped; the only markup in what comes out is made here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from markupsafe import Markup, escape

GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "eps": "ε", "eta": "η", "theta": "θ", "lambda": "λ", "mu": "μ", "phi": "φ",
    "sigma": "σ", "tau": "τ", "sum": "Σ", "prod": "Π",
}  # fmt: skip

WORDS = frozenset(["in", "is", "of", "or", "as", "to", "at", "by", "if", "no", "we", "an", "be", "on", "it", "do"])
"""Two letters that are a word, not a product of variables."""

OPERATORS = {
    "+-": "±",
    "<=": "≤",
    ">=": "≥",
    "->": "→",
    "!=": "≠",
    "...": "…",
    "*": "·",
    "-": "−",
    "'": "′",
    "(x)": "⊗",
    ".": "·",
}

_SUB = r"_(?:\{[^{}]*\}|\([^()]*\)|[A-Za-z0-9]+!?)"
_SUP = r"\^(?:\{[^{}]*\}|-?\d+|[A-Za-z])"
_TOKEN = re.compile(
    rf"(?P<name>[A-Za-z]+'?)(?P<sub>{_SUB})?(?P<sup>{_SUP})?"
    rf"|(?P<close>[)\]])(?P<below>{_SUB})?(?P<power>{_SUP})?|(?P<digits>\d+(?:\.\d+)?)(?P<exponent>{_SUP})?"
    r"|(?P<operator>\+-|<=|>=|->|!=|\.\.\.|(?<= )\(x\)(?= )|(?<= )\.(?= )|\*|(?<![A-Za-z])-|-(?![A-Za-z])|')|(?P<other>.)",
    re.DOTALL,
)
_IN_PROSE = re.compile(
    rf"(?P<code>``[^`]+``|`[^`]+`)|(?P<bold>\*\*[^*\n]+\*\*)|(?P<paper>\b\d{{4}}\.\d{{5}}\b)|(?P<math>\b[A-Za-z]{{1,2}}'?(?:{_SUB}(?![A-Za-z0-9_])(?:{_SUP})?|{_SUP})|[)\]]{_SUP})"
)


@dataclass(frozen=True)
class Equation:
    """One line of a block: what it is called, both sides, and what stands behind it. Only `right` is always there."""

    label: Markup
    left: Markup
    right: Markup
    note: Markup


@dataclass(frozen=True)
class Prose:
    """A docstring in the order it was written: paragraphs (Markup) and blocks of equations; then its parameters by name."""

    parts: list[Markup | list[Equation]] = field(default_factory=list)
    parameters: dict[str, Markup] = field(default_factory=dict)


def read_docstring(text: str) -> Prose:
    """A docstring's paragraphs, its blocks of equations (lines indented by four) and its `Parameters` section."""
    body, _, listed = text.partition("\nParameters\n---")
    prose = Prose(parameters=dict(_parameters(listed.partition("\n")[2])))
    for block in re.split(r"\n\s*\n", body.strip("\n")):
        lines = block.split("\n")
        if all(line.startswith("    ") for line in lines):
            prose.parts.append([equation for line in lines for equation in read_equations(line)])
        else:
            prose.parts.append(inline(" ".join(line.strip() for line in lines)))
    return prose


def read_equations(line: str) -> list[Equation]:
    """The equations of one line, whose parts are set apart by two spaces or more."""
    chunks = re.split(r"\s{2,}", re.sub(r"\s+=\s+", " = ", line.strip()))
    rows: list[dict[str, list[str]]] = []
    label: list[str] = []
    for chunk in chunks:
        continues = bool(rows) and bool(rows[-1]["note"])  # behind a note everything is one, equal sign or not
        separated = bool(rows) and rows[-1]["equation"][0].endswith(",")
        if " = " in chunk and (not rows or (separated and not continues)):
            rows.append({"label": label, "equation": [chunk], "note": []})
            label = []
        elif rows:
            rows[-1]["note"].append(chunk)
        else:
            label.append(chunk)
    if not rows:
        return [Equation(Markup(""), Markup(""), math(" ".join(chunks)), Markup(""))]
    found = []
    for row in rows:
        left, _, right = row["equation"][0].rstrip(",").partition(" = ")
        found.append(Equation(inline(" ".join(row["label"])), math(left), math(right), math("  ".join(row["note"]))))
    return found


def math(text: str) -> Markup:
    """A formula: variables in italics, names of functions upright, `_{i}` and `^2` set below and above."""
    return Markup("").join(_math(text))


def inline(text: str) -> Markup:
    """A sentence: code, bold words, links to arXiv, and the subscripts of single letters (`H_res`, `n^2`)."""
    pieces: list[Markup] = []
    end = 0
    for found in _IN_PROSE.finditer(text):
        pieces.append(escape(text[end : found.start()]))
        end = found.end()
        if found["code"]:
            inside = found["code"].strip("`")
            pieces.append(
                Markup('<span class="math">{}</span>').format(math(inside))
                if " = " in inside
                else Markup("<code>{}</code>").format(inside)
            )
        elif found["bold"]:
            pieces.append(Markup("<strong>{}</strong>").format(found["bold"].strip("*")))
        elif found["paper"]:
            pieces.append(Markup('<a href="https://arxiv.org/abs/{0}" rel="noreferrer">{0}</a>').format(found["paper"]))
        else:
            pieces.append(Markup('<span class="math">{}</span>').format(math(found["math"])))
    return Markup("").join([*pieces, escape(text[end:])])


def _math(text: str) -> Iterator[Markup]:
    for found in _TOKEN.finditer(text):
        if found["name"]:
            yield _name(found["name"]) + _raised(found["sub"], "sub") + _raised(found["sup"], "sup")
        elif found["close"]:
            yield escape(found["close"]) + _raised(found["below"], "sub") + _raised(found["power"], "sup")
        elif found["digits"]:
            yield escape(found["digits"]) + _raised(found["exponent"], "sup")
        elif found["operator"]:
            yield escape(OPERATORS[found["operator"]])
        else:
            yield escape(found["other"])


def _name(name: str) -> Markup:
    stem, prime = name.rstrip("'"), "′" if name.endswith("'") else ""
    if stem in GREEK:
        return escape(GREEK[stem] + prime)
    variable = len(stem) <= 2 and stem not in WORDS
    return (Markup("<i>{}</i>").format(stem) if variable else escape(stem)) + escape(prime)


def _raised(script: str | None, tag: str) -> Markup:
    if not script:
        return Markup("")
    inside = script[1:]
    if inside[0] in "{(":
        inside = inside[1:-1]
    shown = "⊤" if (tag, inside) == ("sup", "T") else inside.replace("-", "−")
    return Markup(f"<{tag}>{{}}</{tag}>").format(GREEK.get(shown, shown))


def _parameters(text: str) -> Iterator[tuple[str, Markup]]:
    """Name and explanation of each entry; a line that is indented goes on with the one above."""
    entries: list[list[str]] = []
    for line in text.split("\n"):
        if not line.strip():
            if entries:
                break
        elif line[0].isspace() and entries:
            entries[-1].append(line.strip())
        else:
            entries.append([line.strip()])
    for entry in entries:
        name, colon, explained = " ".join(entry).partition(":")
        if colon and name.replace("_", "a").isidentifier():
            yield name, inline(explained.strip())
