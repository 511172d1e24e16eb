"""The files of a leaderboard: what is in them, that names from runs are harmless there, and that a build is all or nothing."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from simulated import ESCAPES, MARKUP, SCRIPT, Store

from resbench.results import publish
from resbench.results.columns import COLUMNS, printable, quantity
from resbench.results.leaderboard import SCHEMA, Leaderboard, make_leaderboard
from resbench.results.markdown import escape
from resbench.results.runs import load_runs

Files = dict[str, str | bytes]


@pytest.fixture
def files(demo_files: Files) -> Files:
    return demo_files


@pytest.fixture
def hostile(hostile_files: Files) -> Files:
    return hostile_files


def text(files: Mapping[str, str | bytes], name: str) -> str:
    content = files[name]
    assert isinstance(content, str)
    return content


class Page(HTMLParser):
    """Tags with their attributes, and the text of table cells by row."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self._inside = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self._inside = True
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.rows[-1][-1] += data.strip()


def test_every_form_and_every_figure_is_there_with_its_numbers(files: Files) -> None:
    drawn = {
        "difference",
        "loss_tokens",
        "loss_compute",
        "loss_wall_clock",
        "pareto",
        "gain_depth",
        "gain_training",
        "cost",
    }
    drawn |= {f"scheme-{scheme}" for scheme in ("resnet", "hc", "mhc", "identity-hc")}
    expected = {f"figures/{name}.{kind}" for name in drawn for kind in ("svg", "png", "csv")}
    pages = {
        "index.html",
        "method.html",
        *(f"schemes/{scheme}.html" for scheme in ("resnet", "hc", "mhc", "identity-hc")),
    }
    assert set(files) == expected | pages | {"leaderboard.md", "leaderboard.json", "leaderboard.csv"}


def test_the_json_form_has_its_version_and_only_finite_numbers(files: Files, demo: Leaderboard) -> None:
    content = json.loads(
        text(files, "leaderboard.json"), parse_constant=lambda name: pytest.fail(f"{name} in the JSON")
    )
    assert content["schema"] == SCHEMA == "resbench.leaderboard/1"
    assert len(content["rows"]) == len(demo.cells) == 8
    first = content["rows"][0]
    cell = demo.cells[0]
    assert first["val_loss"] == {
        "mean": cell.val_loss.mean,
        "low": cell.val_loss.low,
        "high": cell.val_loss.high,
        "sd": cell.val_loss.sd,
        "n": 3,
    }
    assert cell.comparison is not None
    assert first["difference"]["p_holm"] == cell.holm_p
    assert first["difference"]["detectable"] == cell.comparison.detectable
    assert cell.comparison.equivalence is not None
    assert first["difference"]["equivalence"] == {
        "margin": content["equivalence_margin"],
        "p": cell.comparison.equivalence.p,
        "within": cell.comparison.equivalence.within,
        "p_holm": cell.equivalence_p,
    }
    assert first["difference"]["verdict"] in ("better", "worse", "equivalent", "undecided")
    assert {run["seed"]: run["run_id"] for run in first["runs"]} == cell.run_ids
    assert first["unigram_bits_per_byte"] == 4.61


def test_a_number_that_is_not_finite_becomes_null(demo: Leaderboard) -> None:
    from dataclasses import replace

    from resbench.results.leaderboard import to_json

    odd = Leaderboard("odd", [replace(demo.cells[0], gain_forward=math.inf, peak_gib=math.nan)], [], demo.runs)
    row = json.loads(to_json(odd))["rows"][0]
    assert row["gain_forward"] is None
    assert row["peak_gib"] is None


def test_the_csv_form_has_a_row_per_cell(files: Files, demo: Leaderboard) -> None:
    rows = list(csv.DictReader(io.StringIO(text(files, "leaderboard.csv"))))
    assert [row["label"] for row in rows] == [cell.label for cell in demo.cells]
    assert float(rows[0]["val_loss.mean"]) == demo.cells[0].val_loss.mean
    assert rows[0]["outcomes.complete"] == "3"


def test_the_page_shows_every_row_best_first_with_ties_and_counts(files: Files) -> None:
    page = Page(text(files, "index.html"))
    header, *rows = page.rows
    assert len(rows) == 8
    shown = [dict(zip(header, row, strict=True)) for row in rows]
    at_400k = {row["Scheme"]: row for row in shown if row["Size"] == "400k"}
    assert [row["Rank"] for row in shown[:4]] == ["1=", "1=", "3", "4"]
    assert at_400k["mhc"]["Diverged"] == "1/4"
    assert at_400k["hc"]["No result"] == "1 failed"
    assert at_400k["resnet"]["Δ to resnet"] == "reference"
    assert re.fullmatch(r"−0\.0\d{3} ± 0\.\d{4}", at_400k["mhc"]["Δ to resnet"])
    columns = header.index("Δ to resnet")
    assert header[columns + 1 : columns + 3] == ["Detectable", "Verdict"], "beside every comparison"
    assert all(re.fullmatch(r"0\.0\d{3}", row["Detectable"]) for row in shown if row["Scheme"] != "resnet")
    assert at_400k["mhc"]["Verdict"] == "better"
    assert at_400k["mhc"]["Unigram"] == "4.610"
    assert float(at_400k["mhc"]["Bits/byte"]) < 4.61


def test_the_page_asks_nobody_for_anything(files: Files) -> None:
    """No element that loads, no address but those of XML namespaces and files beside the page."""
    html = text(files, "index.html")
    page = Page(html)
    loading = {"src", "srcset", "poster", "action", "formaction", "data", "background"}
    assert not [(tag, attrs) for tag, attrs in page.tags if loading & attrs.keys()]
    assert not [tag for tag, _ in page.tags if tag in ("iframe", "object", "embed", "img", "base")]
    for tag, attrs in page.tags:
        for name in ("href", "xlink:href"):
            assert not re.match(r"(https?:)?//", attrs.get(name) or ""), (tag, attrs)
    assert "@import" not in html
    assert not re.search(r"url\((?!['\"]?(#|data:))", html)
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_ids_of_inline_figures_do_not_meet(files: Files) -> None:
    html = text(files, "index.html")
    outside_defs = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    owners: dict[str, set[int]] = {}
    for number, svg in enumerate(outside_defs):
        for identity in re.findall(r'\bid="([^"]+)"', svg):
            owners.setdefault(identity, set()).add(number)
        referred = set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
        assert referred <= set(re.findall(r'\bid="([^"]+)"', svg))
    assert all(len(numbers) == 1 for numbers in owners.values())


def test_a_scheme_called_script_is_text_on_the_page(hostile: Files) -> None:
    html = text(hostile, "index.html")
    assert SCRIPT not in html
    page = Page(html)
    assert [tag for tag, _ in page.tags].count("script") == 2, "the page's own: theme and table"
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert not [(tag, name) for tag, attrs in page.tags for name in attrs if name.startswith("on")]
    assert {row[0] for row in page.rows[1:]} == {"resnet", SCRIPT, "_hidden", MARKUP, printable(ESCAPES)}


def test_hostile_labels_are_text_in_every_figure(hostile: Files) -> None:
    import xml.etree.ElementTree as ElementTree

    for name in hostile:
        if name.endswith(".svg"):
            root = ElementTree.fromstring(text(hostile, name))
            tags = {element.tag.rpartition("}")[2] for element in root.iter()}
            assert not tags & {"script", "img", "image", "foreignObject", "a"}, name
    shown = "".join(ElementTree.fromstring(text(hostile, "figures/cost.svg")).itertext())
    assert "<script>alert(1)</script>" in shown
    assert "_hidden" in shown


def test_markdown_keeps_its_columns_and_makes_no_markup_of_names(hostile: Files) -> None:
    parsed = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text(hostile, "leaderboard.md"))
    inline = [child for token in parsed if token.type == "inline" for child in token.children or []]
    assert not [token for token in parsed if token.type == "html_block"]
    assert {token.type for token in inline} <= {"text", "strong_open", "strong_close", "image", "text_special"}
    widths = {
        line.count("|") - line.count("\\|")
        for line in text(hostile, "leaderboard.md").splitlines()
        if line.startswith("|")
    }
    assert len(widths) == 1
    cells = ["".join(child.content for child in token.children or []) for token in parsed if token.type == "inline"]
    assert MARKUP in cells
    assert SCRIPT in cells


@pytest.mark.parametrize(
    "name", [MARKUP, SCRIPT, "a\nb", "[x](javascript:alert(1))", "# h", "1. x", "~~s~~", "&lt;", "\u202egnp.exe"]
)
def test_escaped_text_reads_as_itself(name: str) -> None:
    tokens = (
        MarkdownIt("commonmark", {"html": True})
        .enable(["table", "strikethrough"])
        .parse(f"| {escape(name)} |\n| --- |\n")
    )
    inline = [child for token in tokens if token.type == "inline" for child in token.children or []]
    assert {token.type for token in inline} == {"text"}
    expected = "".join(character if character.isprintable() else " " for character in name)
    assert "".join(token.content for token in inline).split() == expected.split()


def test_a_spreadsheet_runs_nothing_from_the_csv() -> None:
    from resbench.results.leaderboard import _inert

    assert _inert('=HYPERLINK("http://x")').startswith("'")
    assert _inert(-0.5) == -0.5
    assert _inert("mhc") == "mhc"


def test_one_seed_is_said_to_have_no_interval(store: Store, no_figures: None) -> None:
    single = make_leaderboard(load_runs(store.uri, "single"), "single")
    assert any("one seed only" in note for note in single.notes)
    html = text(publish.files_of(single, store.uri), "index.html")
    assert "(one seed)" in html
    assert "(one pair)" in html


def test_notes_say_what_limits_the_comparison(demo: Leaderboard) -> None:
    notes = " ".join(demo.notes)
    assert "1 run diverged" in notes
    assert "1 run failed" in notes
    assert "two or three seeds" in notes
    assert "of 2 comparison groups have rows of different seeds" in notes, (
        "of those the diverged and the failed run are in"
    )
    assert "not ranked: 1." in notes


def test_quantities() -> None:
    assert [quantity(value) for value in (None, 0.5, 20, 999, 1000, 22_000, 1_234_567, 2.5e12)] == [
        "–",
        "0.5",
        "20",
        "999",
        "1.00k",
        "22.0k",
        "1.23M",
        "2.50T",
    ]


def test_every_column_explains_itself() -> None:
    assert len({column.key for column in COLUMNS}) == len(COLUMNS)
    assert all(column.heading and column.explanation.endswith((".", "why.")) for column in COLUMNS)


def test_an_interrupted_build_leaves_the_old_page_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "board"
    publish.write_files(folder, {"index.html": "old", "figures/cost.svg": "old"})
    sums = (folder / publish.SUMS).read_text()
    written: list[Any] = []
    write_bytes = Path.write_bytes

    def interrupted(path: Path, data: bytes) -> int:
        written.append(path)
        if len(written) == 2:
            raise KeyboardInterrupt
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        publish.write_files(folder, {"figures/cost.svg": "new", "index.html": "new"})
    monkeypatch.undo()
    assert {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()} == {
        "index.html": "old",
        "figures/cost.svg": "old",
        publish.SUMS: sums,
    }
    assert not list(folder.glob(".build-*"))


def test_building_into_a_folder_keeps_what_is_not_the_leaderboard_s(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    for mine in ("notes.txt", "configs/mine.yaml"):
        (tmp_path / mine).write_text("mine")
    publish.write_files(
        tmp_path, {"figures/cost.svg": "old", "configs/a.yaml": "old", "schemes/mhc.html": "old", "index.html": "old"}
    )
    (tmp_path / "configs" / "a.yaml").write_text("edited by hand")
    publish.write_files(tmp_path, {"index.html": "new"})
    assert (tmp_path / "index.html").read_text() == "new"
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} == {
        "notes.txt", "configs/mine.yaml", "configs/a.yaml", "index.html", publish.SUMS,
    }, "a figure and a page that are no longer made must not stay; what is someone's own must"  # fmt: skip


def test_an_old_listing_cannot_have_files_removed_elsewhere(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside.txt", tmp_path / "site"
    outside.write_text("mine")
    folder.mkdir()
    digest = hashlib.sha256(b"mine").hexdigest()
    (folder / publish.SUMS).write_text(f"{digest}  ../outside.txt\n{digest}  {outside}\n{digest}  \n")
    publish.write_files(folder, {"index.html": "new"})
    assert outside.read_text() == "mine"


def test_the_listing_is_what_sha256sum_checks(tmp_path: Path) -> None:
    publish.write_files(tmp_path, {"index.html": "é", "figures/a.png": b"\x00"})
    listed = dict(line.split("  ")[::-1] for line in (tmp_path / publish.SUMS).read_text().splitlines())
    assert listed == {
        name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("index.html", "figures/a.png")
    }
