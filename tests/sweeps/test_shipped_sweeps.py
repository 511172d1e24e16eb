"""Every sweep file that comes with resbench loads, plans and trains: one step of a set of its cells in which every value occurs."""

import functools
import io
import itertools
import math
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_sample_image

import resbench.results.published
from resbench.architectures.registry import available
from resbench.harness.fit import fit
from resbench.harness.shortnames import short_name
from resbench.results.scaling.law import why_not
from resbench.sweeps import keys
from resbench.sweeps.grid import Cell
from resbench.sweeps.plan import Plan, make_plan
from resbench.sweeps.spec import load_spec, shipped

TEXT = ["demo", "depth", "ladder", "schemes", "sinkhorn", "streams"]
OTHERS = ["depth-tasks", "vision"]  # with data of their own
# Smaller data, the file's own models: one step of one short sequence.
SMALL = [
    "data=python-source",
    "data.context_length=16",
    "data.batch_size=1",
    "data.val_sequences=1",
    "budget.tokens=16",
]
QUIET = ["every={gain_sequences: 0, checkpoint: 0}", "trainer.enable_progress_bar=false"]


def uncounted(argv: list[str]) -> dict[str, int]:
    """In place of building every model of a large grid; the cells that are trained below are counted for real."""
    return dict.fromkeys(("params_total", "params_connection", "flops_per_token", "steps", "tokens"), 1)


@functools.cache
def plan_of(name: str) -> Plan:
    """The whole sweep, with every model counted where there are not too many."""
    return make_plan(load_spec(name), uncounted if name in OTHERS else None)


def test_these_are_the_shipped_sweeps() -> None:
    assert sorted(shipped()) == sorted(TEXT + OTHERS)


@pytest.mark.parametrize(
    ("name", "cells", "runs"),
    [
        ("demo", 4 * 2, 4 * 2 * 2),
        # resnet and two widened ones have no streams; hc, mhc and identity-hc have n in 1, 2, 4, 8
        ("streams", 3 + 3 * 4, 15 * (6 + 5)),
        # resnet and identity-hc have neither field; mhc has 6 budgets x 2 orders
        ("sinkhorn", 2 + 6 * 2, 14 * 3),
        # 1m, 3m and 7m on three budgets, 15m and 30m on two
        ("ladder", 5 * (3 * 3 + 2 * 2), 65 * (6 + 3)),
        ("schemes", 15, 15 * (5 + 3)),
        ("depth-tasks", 7 * 4 * 4, 112 * 3),
        ("vision", 2 * 4 * 6, 48 * 3),
        # per depth and clipping: resnet and n in 4, 8 of three schemes, each with 4 learning rates in one dtype and 2 in the other
        ("depth", 4 * 2 * 7 * (4 + 2), 336 * 2),
    ],
)
def test_the_grid_is_what_the_file_says_it_is(name: str, cells: int, runs: int) -> None:
    plan = plan_of(name)
    assert len(plan.cells) == cells
    assert plan.runs == runs
    assert len({cell.cell.id for cell in plan.cells}) == len(plan.cells)


def test_the_demo_ends_far_from_its_budget_in_time_and_memory() -> None:
    plan = plan_of("demo")
    assert plan.runs >= 16
    assert plan.spec.workers == 2
    assert len(plan.spec.seeds) == 2
    # Two cores at a modest 12 GFLOP/s each and a second and a half of start-up per run stay within five of the six minutes.
    flops = sum(cell.flops for cell in plan.cells) * plan.runs_per_cell
    assert (flops / 12e9 + 1.5 * plan.runs) / 2 < 300


def test_depth_is_varied_at_constant_parameters() -> None:
    plan = make_plan(
        load_spec(
            "depth",
            ["scheme=[resnet, hc]", "lr=x1", "clipping=clipped", "backbone.stream_dtype=compute", "scheme.n_streams=4"],
        )
    )
    sizes = [cell.params_total for cell in plan.cells if cell.cell.labels["scheme"] == "resnet"]
    assert len(sizes) == 4
    assert max(sizes) / min(sizes) < 1.03
    assert sum(sizes) / 4 == pytest.approx(11e6, rel=0.02)
    hc = [cell.cell.config["model"]["scheme"]["init_args"] for cell in plan.cells if cell.cell.labels["scheme"] == "hc"]
    assert all(arguments["tanh"] is False for arguments in hc)


def test_on_the_ladder_every_scheme_of_a_size_sees_the_tokens_of_the_plain_model() -> None:
    plan = make_plan(load_spec("ladder", ["size=[1m,3m]"]))
    for size, ratio in itertools.product(("1m", "3m"), (5, 20, 80)):
        cells = [
            cell
            for cell in plan.cells
            if (cell.cell.labels["size"], cell.cell.labels["tokens_per_parameter"]) == (size, str(ratio))
        ]
        plain = next(cell for cell in cells if cell.cell.labels["scheme"] == "resnet")
        step = 1024 * 32
        assert plain.tokens == math.ceil(ratio * plain.params_total / step) * step
        assert {cell.tokens for cell in cells} == {plain.tokens}
        wide = next(cell for cell in cells if cell.cell.labels["scheme"] == "wide")
        mhc = next(cell for cell in cells if cell.cell.labels["scheme"] == "mhc")
        assert wide.params_total == pytest.approx(mhc.params_total, rel=0.005)


@pytest.mark.parametrize("sizes", [[], ["size=[1m,3m,7m]"]])
def test_the_ladder_tells_what_size_does_from_what_data_does(sizes: list[str]) -> None:
    cells = make_plan(load_spec("ladder", ["scheme=mhc", *sizes])).cells
    params, tokens = np.array([(cell.params_total, cell.tokens) for cell in cells], dtype=np.float64).T
    assert why_not(params, tokens) == ""
    one_ratio = np.array([cell.cell.labels["tokens_per_parameter"] == "20" for cell in cells])
    assert one_ratio.sum() == len(set(params))
    assert "tokens grow in step with parameters" in why_not(params[one_ratio], tokens[one_ratio])
    largest = params == params.max()
    assert len(sizes) or why_not(params[~largest], tokens[~largest]) == "", "nor without the size that is held out"


def test_the_schemes_sweep_has_every_built_in_scheme() -> None:
    plan = plan_of("schemes")
    swept = {short_name("scheme", cell.cell.config["model"]["scheme"]["class_path"]) for cell in plan.cells}
    assert swept == {name for name, plugin in available("scheme").items() if plugin.distribution == "resbench"}


STUDY = Path(resbench.results.published.__path__[0]) / "h200-2026"


def test_the_study_on_one_h200_is_what_its_page_says() -> None:
    """Planned without building models; the learning rate falls as one over the width."""
    rows = re.findall(r"^\| \[(\w+)\.yaml\].*\| (\d+) \| \S+ \| (\d+) \|$", (STUDY / "README.md").read_text(), re.M)
    assert sorted(name for name, _, _ in rows) == sorted(file.stem for file in STUDY.glob("*.yaml"))
    for name, runs, workers in rows:
        plan = make_plan(load_spec(STUDY / f"{name}.yaml"), uncounted)
        assert (plan.runs, plan.spec.workers) == (int(runs), int(workers)), name
        assert plan.spec.name == f"h200-{name}"
        data = [cell.cell.config["data"]["init_args"] for cell in plan.cells]
        assert all(one["root"] == "site-packages" and one["min_megabytes"] == 100 for one in data)
    widths = {"400k": 96, "1m": 128, "3m": 192, "7m": 256, "15m": 320}
    climbing = [make_plan(load_spec(STUDY / f"{name}.yaml"), uncounted) for name in ("ladder", "beyond")]
    for cell in (cell for plan in climbing for cell in plan.cells):
        rate = cell.cell.config["model"]["learning_rate"]
        assert rate == pytest.approx(6e-3 * 192 / widths[cell.cell.labels["size"]])


def covering(plan: Plan) -> list[Cell]:
    """Few cells in which every value of every factor occurs, and every value of a scheme's own field with every scheme that has it."""
    uncovered: set[tuple[str, ...]] = set()
    pairs: dict[str, set[tuple[str, ...]]] = {}
    for planned in plan.cells:
        cell = planned.cell
        found = set()
        for factor, label in cell.labels.items():
            own = keys.expand(factor)[:2] == keys.SCHEME and factor != "scheme" if "." in factor else False
            found.add((factor, label, cell.labels["scheme"]) if own else (factor, label))
        pairs[cell.id] = found
        uncovered |= found
    chosen = []
    while uncovered:
        best = max((planned.cell for planned in plan.cells), key=lambda cell: len(pairs[cell.id] & uncovered))
        chosen.append(best)
        uncovered -= pairs[best.id]
    return chosen


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXT)
def test_one_step_of_every_kind_of_cell(name: str, tmp_path: Path, empty_store: Path) -> None:
    spec = load_spec(name, [*SMALL, *QUIET])
    plan = make_plan(spec, uncounted)
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    chosen = covering(plan)
    assert {cell.labels["scheme"] for cell in chosen} == {level.label for level in spec.factors["scheme"]}
    for cell in chosen:
        searched = {key: getattr(space, "low", None) for key, space in spec.search.space.items()} if spec.search else {}
        config = cell.with_values(searched)
        config |= {"seed_everything": spec.seeds[0], "output_dir": str(tmp_path), "tracking": {"experiment": name}}
        path = tmp_path / "cell.yaml"
        path.write_text(yaml.safe_dump(config))
        result = fit(["--config", str(path)])
        assert result.outcome == "complete", (cell.id, result.reason)
        assert result.tokens == 16
        assert result.val_loss is not None
        assert 0 < result.val_loss < 2 * math.log(257)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_one_step_of_every_task_and_network(name: str, tmp_path: Path, empty_store: Path) -> None:
    spec = load_spec(name, QUIET)
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    chosen = covering(make_plan(spec, uncounted))
    assert {cell.labels["scheme"] for cell in chosen} == {level.label for level in spec.factors["scheme"]}
    for cell in chosen:
        config = cell.with_values({})
        arguments = config["data"]["init_args"] | {"batch_size": 2}
        if name == "vision":
            column = "label" if cell.labels["data"] == "cifar10" else "fine_label"
            arguments |= {"data_files": crops(tmp_path, column), "num_workers": 0, "val_fraction": 0.3, "val_images": 2}
        else:
            arguments |= {"val_sequences": 2}
        config["data"]["init_args"] = (
            arguments | {"cache_dir": str(tmp_path / "cache")} if name == "vision" else arguments
        )
        config |= {"budget": {"tokens": 2}, "output_dir": str(tmp_path), "tracking": {"experiment": name}}
        path = tmp_path / "cell.yaml"
        path.write_text(yaml.safe_dump(config))
        result = fit(["--config", str(path)])
        assert result.outcome == "complete", (cell.id, result.reason)
        assert result.val_loss is not None
        assert math.isfinite(result.val_loss)


def crops(folder: Path, label_column: str) -> str:
    """Real photographs in CIFAR's layout: 32 x 32 crops of the two that scikit-learn ships (CC BY 2.0), which photograph it is as the label."""
    file = folder / f"{label_column}.parquet"
    if file.exists():
        return str(file)
    rows, labels = [], []
    for label, name in enumerate(("china.jpg", "flower.jpg")):
        photograph = load_sample_image(name)
        for corner in range(10):
            content = io.BytesIO()
            Image.fromarray(photograph[32 * corner :][:32, 40 * corner :][:, :32]).save(content, "PNG")
            rows.append({"bytes": content.getvalue(), "path": None})
            labels.append(label)
    pq.write_table(pa.table({"img": rows, label_column: labels}), file)
    return str(file)
