"""Pages of the site: equations from docstrings, what is known of a scheme without importing it, reasons for empty cells, commands."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import replace
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path

import pandas as pd
import pytest
import simulated
import simulated_laws
import yaml

from resbench.architectures import registry
from resbench.harness.store import open_store
from resbench.results import publish
from resbench.results.columns import COLUMNS, signed
from resbench.results.leaderboard import Leaderboard, make_leaderboard
from resbench.results.runs import SHARED, load_runs
from resbench.results.scaling.study import scaling
from resbench.results.site.environment import Navigation, slug
from resbench.results.site.equations import inline, math, read_equations
from resbench.results.site.index import index_page
from resbench.results.site.method_text import SECTIONS
from resbench.results.site.rows import VIEW_OF, table_columns, table_row, why_empty
from resbench.results.site.scaling import laws_of, scaling_page
from resbench.results.site.scheme import read_definition
from resbench.results.site.source_text import scheme_text
from resbench.results.site.verdicts import over_groups

Files = dict[str, str | bytes]


def tags_of(html: str) -> list[str]:
    return re.findall(r"<([a-z]+)", html)


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("H_res X + H_post^T", "<i>H</i><sub>res</sub> <i>X</i> + <i>H</i><sub>post</sub><sup>⊤</sup>"),
        ("alpha_{i,j} X_{l+1}", "α<sub>i,j</sub> <i>X</i><sub>l+1</sub>"),
        ("e_(k mod n)", "<i>e</i><sub>k mod n</sub>"),
        ("(I + S)^-1 (I - S)", "(<i>I</i> + <i>S</i>)<sup>−1</sup> (<i>I</i> − <i>S</i>)"),
        ("softmax(Ht)_k <= n^2", "softmax(<i>Ht</i>)<sub>k</sub> ≤ <i>n</i><sup>2</sup>"),
        ("Sinkhorn-Knopp(U_1 (x) U_2)", "Sinkhorn-Knopp(<i>U</i><sub>1</sub> ⊗ <i>U</i><sub>2</sub>)"),
        ("x' = F(x)", "<i>x</i>′ = <i>F</i>(<i>x</i>)"),
        ("a < b & <script>", "<i>a</i> &lt; <i>b</i> &amp; &lt;script&gt;"),
    ],
)
def test_formulas_get_subscripts_and_greek_letters_and_nothing_else(text: str, html: str) -> None:
    assert math(text) == html


def test_a_line_of_equations_is_taken_apart() -> None:
    (one,) = read_equations("    RW (weights)       x_{i+1} = a F(x_i)     A [r, C], B = 1")
    assert (one.label, one.left) == ("RW (weights)", "<i>x</i><sub>i+1</sub>")
    assert one.note == "<i>A</i> [<i>r</i>, <i>C</i>], <i>B</i> = 1"
    assert [row.left for row in read_equations("    u_l = f(v),   a = g(w),   output = u")] == [
        "<i>u</i><sub>l</sub>",
        "<i>a</i>",
        "output",
    ]
    assert read_equations("    no equation here")[0].right == "no equation here"


def test_prose_keeps_code_and_links_papers() -> None:
    html = str(inline("See ``bias_init`` (arXiv 2512.24880), **bold**, H_res, n^2 and a_long_name."))
    assert "<code>bias_init</code>" in html
    assert 'href="https://arxiv.org/abs/2512.24880"' in html
    assert "<strong>bold</strong>" in html
    assert "a_long_name" in html
    assert set(tags_of(html)) == {"code", "a", "strong", "span", "i", "sub", "sup"}


@pytest.mark.parametrize(
    "name", [name for name, found in registry.available("scheme").items() if found.distribution == "resbench"]
)
def test_every_built_in_scheme_has_its_equations_and_its_fields_explained(name: str) -> None:
    text = scheme_text(name)
    assert text is not None
    prose = read_definition(text)
    blocks = [part for part in prose.parts if isinstance(part, list)]
    assert blocks or name in ("resnet", "wide"), "resnet has one line of prose, wide is a resnet"
    assert all(row.left for block in blocks for row in block), "every line of a block is an equation"
    assert {argument.name for argument in text.arguments} == set(prose.parameters)


def test_a_plugin_s_page_is_written_without_running_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "brings_trouble"
    package.mkdir()
    (package / "__init__.py").write_text("from .inside import Scheme\nraise RuntimeError('imported')\n")
    (package / "inside.py").write_text(
        '"""Trouble (arXiv 2401.00001).\n\n    x_{l+1} = x_l + <img src=x onerror=alert(1)>\n"""\n'
        "class Scheme:\n    '''T.\n\n    Parameters\n    ----------\n    gain: <b>bold</b>\n    '''\n"
        "    def __init__(self, width: int, n_sublayers: int, gain: float = 0.5): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = EntryPoint("trouble", "brings_trouble:Scheme", "resbench.schemes")
    plugin = registry.Plugin("scheme", "trouble", entry.value, "brings-trouble", "1.0")
    monkeypatch.setattr("resbench.results.site.source_text.available", lambda _kind: {"trouble": plugin})
    text = scheme_text("trouble")
    assert text is not None
    assert text.is_plugin
    assert text.class_path == "brings_trouble.inside.Scheme"
    assert [(a.name, a.type, a.default) for a in text.arguments] == [("gain", "float", "0.5")]
    prose = read_definition(text)
    html = "".join(str(row.right) for part in prose.parts if isinstance(part, list) for row in part)
    assert "onerror" in html
    assert "img" not in tags_of(html)
    assert prose.parameters["gain"] == "&lt;b&gt;bold&lt;/b&gt;"
    assert scheme_text("unknown") is None


def test_a_scheme_that_is_not_installed_has_a_page_that_says_so(hostile_files: Files) -> None:
    name = f"schemes/{slug(simulated.SCRIPT)}.html"
    html = hostile_files[name]
    assert isinstance(html, str)
    assert "is not installed where this page was built" in html
    assert re.fullmatch(r"schemes/script-alert-1-script-[0-9a-f]{8}\.html", name)


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "..", "", "con\x00", "é" * 300, "mhc"])
def test_a_file_s_name_stays_in_its_folder_and_apart_from_others(name: str) -> None:
    made = slug(name)
    assert re.fullmatch(r"[A-Za-z0-9.-]{1,80}", made)
    assert not made.startswith(".")
    assert (made == name) == (name == "mhc")


def test_an_empty_cell_says_why(demo: Leaderboard) -> None:
    columns = {column.key: column for column in table_columns(demo.cells)}
    hc = next(cell for cell in demo.cells if cell.label == "hc")
    resnet = next(cell for cell in demo.cells if cell.is_reference)
    assert {"overhead", "multiplier_flops", "kernels", "verified", "tuning_runs", "lr_sensitivity"} <= set(columns)
    assert "3 or more" in why_empty(columns["multiplier_flops"], hc)
    assert why_empty(columns["multiplier_flops"], resnet) == "the reference"
    assert why_empty(columns["val_loss"], hc) == ""
    assert why_empty(columns["kernels"], hc) == "these runs did not log what computed their connections"
    assert why_empty(columns["tokens_per_s"], replace(hc, tokens_per_s=None, shared_gpu=True)) == SHARED
    row = table_row(hc, list(columns.values()), "#000000")
    assert all(text != "–" or why or column.key in ("setting",) for column, text, _, why in row["cells"])


def test_views_name_columns_that_exist() -> None:
    assert set(VIEW_OF) <= {column.key for column in COLUMNS}


def test_the_method_page_has_every_section_with_its_source_and_this_study_s_numbers(
    demo_files: Files, demo: Leaderboard
) -> None:
    html = demo_files["method.html"]
    assert isinstance(html, str)
    for section in SECTIONS:
        assert f'id="{section.anchor}"' in html
    assert f"here {demo.margin:g} nats per token" in html
    assert "{margin}" not in html
    assert html.count("Source: ") >= 8
    assert "Holm 1979" in html
    assert "demo/1" in html


def test_commands_repeat_the_runs_and_are_safe_to_paste(tmp_path: Path, empty_store: Path, no_figures: None) -> None:
    uri = f"sqlite:///{shutil.copy(empty_store, tmp_path)}"
    client = open_store(uri)
    experiment = client.create_experiment("own", artifact_location=(tmp_path / "artifacts").as_uri())
    parent = client.create_run(experiment, tags={"resbench.kind": "sweep", "study": "own"})
    client.log_text(parent.info.run_id, "name: own\n", "sweep/sweep.yaml")
    evil = simulated.Scheme("mhc", label="$(touch x); rm -rf ~", gain=1.0)
    for scheme in (simulated.RESNET, evil):
        for seed in (0, 3):
            tags = {"mlflow.parentRunId": parent.info.run_id}
            run_id = simulated.simulate_run(client, experiment, scheme, study="own", seed=seed, tags=tags)
            client.log_text(run_id, yaml.safe_dump({"seed_everything": seed}), "config.yaml")
    files = publish.files_of(make_leaderboard(load_runs(uri, "own"), "own"), uri)
    assert files["configs/sweep.yaml"] == b"name: own\n"
    page = files["schemes/mhc.html"]
    assert isinstance(page, str)
    (config,) = [name for name in files if name.startswith("configs/") and "resnet" not in name and "sweep" not in name]
    assert files[config] == b"seed_everything: 0\n"
    blocks = re.findall(r"<pre><code>(.*?)</code></pre>", page, flags=re.DOTALL)
    assert blocks[0].splitlines()[1] == "resbench sweep run configs/sweep.yaml"
    typed = [shlex.split(line, comments=True) for line in blocks[1].splitlines()]
    assert typed[0] == ["git", "checkout", "0123456789abcdef0123456789abcdef01234567"]
    assert typed[1:] == [["resbench", "fit", "--config", config, "--seed_everything", seed] for seed in ("0", "3")]


def test_a_row_without_a_configuration_says_that_it_cannot_be_repeated(demo_files: Files) -> None:
    page = demo_files["schemes/mhc.html"]
    assert isinstance(page, str)
    assert "No run of this row left its configuration behind" in page


def test_every_run_of_a_scheme_is_on_its_page_whatever_became_of_it(demo_files: Files, demo: Leaderboard) -> None:
    page = demo_files["schemes/mhc.html"]
    assert isinstance(page, str)
    own = demo.runs[demo.runs["scheme"] == "mhc"]
    assert "diverged" in set(own["outcome"])
    for run_id in own["run_id"]:
        assert str(run_id)[:10] in page


def test_the_mean_over_groups_counts_groups_alike(demo: Leaderboard, demo_runs: pd.DataFrame) -> None:
    hc = [cell for cell in demo.cells if cell.label == "hc"]
    assert over_groups(hc, demo.cells) == [], "two groups speak for themselves"
    more = demo_runs[demo_runs["size"] == "400k"]
    more = more.assign(size="1m", run_id=more["run_id"] + "+", cell=more["cell"] + "+", val_loss=more["val_loss"] + 1.0)
    ladder = make_leaderboard(pd.concat([demo_runs, more], ignore_index=True), "demo")
    (found,) = over_groups([cell for cell in ladder.cells if cell.label == "hc"], ladder.cells)
    pairs = [
        cell.losses[seed] - reference.losses[seed]
        for cell in ladder.cells
        for reference in ladder.cells
        if cell.label == "hc" and reference.is_reference and reference.group == cell.group
        for seed in cell.losses
    ]
    assert len(pairs) == 9
    assert found.where == "all 3 groups"
    assert found.word == f"below in {sum(pair < 0 for pair in pairs)} of 9 pairs"
    assert signed(sum(pairs) / 9) in found.sentence
    assert over_groups([cell for cell in ladder.cells if cell.is_reference], ladder.cells) == []


def test_the_json_form_names_the_track(demo_files: Files) -> None:
    text = demo_files["leaderboard.json"]
    assert isinstance(text, str)
    assert {row["group"]["track"] for row in json.loads(text)["rows"]} == {"open"}


def test_links_between_pages_lead_to_pages(demo_files: Files, hostile_files: Files) -> None:
    for files in (demo_files, hostile_files):
        for name, content in files.items():
            if not name.endswith(".html"):
                continue
            assert isinstance(content, str)
            for target in re.findall(r'<a [^>]*?href="([^"#]+)', content):
                if not target.startswith("https://arxiv.org/abs/"):
                    there = (Path("/") / name).parent / target
                    assert str(Path(*Path(str(there)).resolve().parts[1:])) in files, (name, target)


def test_a_ladder_has_a_scaling_page_and_two_sizes_have_none(
    demo: Leaderboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert laws_of(demo) is None
    monkeypatch.setattr("resbench.results.site.scaling.scaling", partial(scaling, resamples=20))
    ladder = make_leaderboard(simulated_laws.ladder({"resnet": 1.0, "mhc": 1.3}, seeds=2), "laws")
    laws = laws_of(ladder)
    assert laws is not None
    html = scaling_page(ladder, Navigation([], True), laws)
    assert html.count("<figure ") == 5
    assert html.count("Not drawn: ") == sum(not drawing.svg for drawing in laws.drawings)
    shown = {row["label"]: row["alpha"] for row in laws.scaling.laws.to_dict(orient="records")}
    for alpha in shown.values():
        assert f">{alpha:.4g}<" in html


def test_reasons_to_be_in_the_open_track_stand_once_on_the_index(demo: Leaderboard) -> None:
    reasons = {
        "cell <a>": "not in demo/1: 5 tokens",
        "cell b": "not in demo/1: 5 tokens",
        "cell c": "no track has this task",
    }
    html = index_page(demo, [], Navigation([]), [], reasons)
    assert html.count("not in demo/1: 5 tokens") == 1
    assert "<code>cell &lt;a&gt;</code>, <code>cell b</code>" in html
