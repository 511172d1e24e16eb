"""The templates, and what every page has: its scripts with their hashes, its place among the others, figures it may show inline."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from resbench.results.figures.drawing import Drawing
from resbench.results.figures.style import FAINT, INK, scheme_colour
from resbench.results.site.equations import inline

WIDE = 576.0
"""Points; a figure beyond eight inches goes over both columns of the page."""

TEMPLATES = Path(__file__).parent.parent / "templates"


@dataclass(frozen=True)
class SchemeLink:
    """A scheme as the navigation lists it."""

    name: str
    href: str
    colour: str


@dataclass(frozen=True)
class Navigation:
    """The pages a reader can go to from every page: one for each scheme, and the scaling page where a study has one."""

    schemes: Sequence[SchemeLink]
    scaling: bool = False


def render(template: str, here: str, root: str, navigation: Navigation, *, table: bool = False, **content: Any) -> str:
    """A page. ``here`` is its own place in the navigation, ``root`` the way to the index's folder; ``table`` gives it the table's script."""
    theme, script = (_template(name).render() for name in ("theme.js", "page.js"))
    hashes = " ".join(f"'sha256-{_hash(text)}'" for text in ([theme, script] if table else [theme]))
    page: str = _template(template).render(
        here=here,
        root=root,
        schemes=navigation.schemes,
        scaling=navigation.scaling,
        theme_script=Markup(theme),
        table_script=Markup(script) if table else None,
        script_hashes=Markup(hashes),
        **content,
    )
    return page


def slug(text: str) -> str:
    """A name as a file's: what could leave the folder or trouble a file system becomes `-`, and then a digest keeps two such names apart."""
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")[:60]
    return plain if text and plain == text else f"{plain or 'x'}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def scheme_link(name: str, shown: str) -> SchemeLink:
    """The link to a scheme's page."""
    return SchemeLink(shown, f"schemes/{slug(name)}.html", scheme_colour(name))


def inline_svg(figure: Drawing) -> Markup:
    """A figure's SVG as part of a page: ids of its own, paper, ink and grid of the page's colours, described for screen readers.

    The SVG comes from matplotlib, which escapes every text it writes; that is why it may go in as markup.
    """
    if not figure.svg:
        return Markup("")
    body = figure.svg[figure.svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\b(id=")([^"]+)"', rf'\g<1>{figure.name}-\g<2>"', body)
    body = re.sub(r'(url\(#|xlink:href="#)', rf"\g<1>{figure.name}-", body)
    body = body.replace(INK, "var(--ink)").replace(FAINT, "var(--faint)").replace("fill: #ffffff", "fill: none")
    label = Markup.escape(figure.title)
    size = f"max-width:{1.55 * width_of(figure):.0f}px"  # letters about as large as the page's own
    return Markup(body.replace("<svg ", f'<svg role="img" aria-label="{label}" style="{size}" ', 1))


def width_of(figure: Drawing) -> float:
    """A figure's width in points."""
    viewbox = re.search(r'viewBox="0 0 ([\d.]+) ', figure.svg)
    return float(viewbox[1]) if viewbox else 0.0


def is_wide(figure: Drawing) -> bool:
    """Whether a figure needs the page's full width to be read."""
    return width_of(figure) > WIDE


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _template(name: str) -> Any:
    return _environment().get_template(name)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["prose"] = inline
    return environment
