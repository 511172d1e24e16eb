"""All files of a site: its pages, the figures of single schemes, and the configurations that repeat the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from resbench.results.columns import printable
from resbench.results.figures.drawing import Drawing
from resbench.results.figures.numbers import curve_numbers, gain_numbers
from resbench.results.figures.scheme import scheme_figure
from resbench.results.figures.style import label_order
from resbench.results.leaderboard import Leaderboard
from resbench.results.site.environment import Navigation, scheme_link, slug
from resbench.results.site.index import index_page
from resbench.results.site.method import method_page
from resbench.results.site.reproduce import configurations, recipe
from resbench.results.site.scaling import Laws, scaling_page
from resbench.results.site.scheme import scheme_page
from resbench.results.site.source_text import scheme_text
from resbench.results.source import RunSource
from resbench.results.tracks import Track

PAGE = "index.html"
METHOD = "method.html"
SCALING = "scaling.html"


@dataclass(frozen=True)
class Rules:
    """The tracks a site shows, and for cells in the open one the reason."""

    tracks: Sequence[Track] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Site:
    """The files of a site by path, the index last, and the figures of its scheme pages."""

    files: dict[str, str | bytes]
    drawings: list[Drawing]


def build_site(
    leaderboard: Leaderboard,
    source: RunSource,
    drawings: Sequence[Drawing],
    curves: pd.DataFrame,
    profiles: pd.DataFrame,
    rules: Rules,
    laws: Laws | None = None,
) -> Site:
    """Every page of a study.

    Args:
        leaderboard: of `make_leaderboard`.
        source: where its runs are.
        drawings: the study's figures, for the index.
        curves, profiles: of `load_curves` and `load_profiles`, which the figures were drawn from.
        rules: the tracks.
        laws: what could be fitted over the study's sizes and budgets, if anything.
    """
    names = sorted({cell.scheme for cell in leaderboard.cells}, key=lambda scheme: label_order(scheme, scheme))
    links = {name: scheme_link(name, printable(name)) for name in names}
    scaling = None if laws is None else scaling_page(leaderboard, Navigation(list(links.values()), True), laws)
    navigation = Navigation(list(links.values()), scaling is not None)
    found = configurations(leaderboard, source)
    over_training, through_depth = curve_numbers(leaderboard, curves), gain_numbers(leaderboard, profiles)
    files: dict[str, str | bytes] = dict(found.files)
    own = []
    for name, link in links.items():
        drawing = scheme_figure(name, f"scheme-{slug(name)}", over_training, through_depth)
        own.append(drawing)
        cells = [cell for cell in leaderboard.cells if cell.scheme == name]
        text = scheme_text(name)
        files[link.href] = scheme_page(name, link, leaderboard, navigation, text, drawing, recipe(cells, found))
    if laws is not None and scaling is not None:
        files[SCALING] = scaling
        files |= {
            f"scaling/{name}.csv": table.to_csv(index=False, lineterminator="\n")
            for name, table in laws.scaling.tables().items()
        }
        own += laws.drawings
    files[METHOD] = method_page(leaderboard, navigation, rules.tracks)
    files[PAGE] = index_page(leaderboard, drawings, navigation, rules.tracks, rules.reasons)
    return Site(files, own)
