"""A sweep file says everything or is refused with the file, the key, the value and what was expected."""

from pathlib import Path

import pytest

from resbench.sweeps.spec import SweepSpec, load_spec

GOOD = """
name: example
base: {model: {learning_rate: 1e-3}, budget: {tokens: 1_000}}
factors:
  size: [100k, 400k]
  scheme: [resnet, mhc, {class_path: mhc, init_args: {order: rows-first}}]
seeds: [0, 1]
"""


def load(folder: Path, text: str, *sets: str) -> SweepSpec:
    path = folder / "sweep.yaml"
    path.write_text(text)
    return load_spec(path, list(sets))


def message(folder: Path, text: str, *sets: str) -> str:
    with pytest.raises(ValueError, match="sweep.yaml|--set") as caught:
        load(folder, text, *sets)
    found = str(caught.value)
    assert len(found.splitlines()) <= 6
    return found


def test_a_good_file_is_read_with_labels_for_every_value(tmp_path: Path) -> None:
    spec = load(tmp_path, GOOD)
    assert spec.base["model"]["learning_rate"] == 1e-3  # YAML 1.1 would make it text
    assert [level.label for level in spec.factors["scheme"]] == ["resnet", "mhc", "mhc (order rows-first)"]
    assert spec.seeds == [0, 1]


def test_the_base_may_be_a_fit_configuration_of_its_own_next_to_the_sweep(tmp_path: Path) -> None:
    (tmp_path / "fit.yaml").write_text("seed_everything: 7\noutput_dir: elsewhere\nmodel: {learning_rate: 0.5}\n")
    spec = load(
        tmp_path, GOOD.replace("base: {model: {learning_rate: 1e-3}, budget: {tokens: 1_000}}", "base: fit.yaml")
    )
    assert spec.base == {"model": {"learning_rate": 0.5}}  # seed, output and tracking belong to the sweep


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("seeds: [0, 1]", "seeds: []"), ["seeds", "at least 1 item"]),
        (("seeds: [0, 1]", "seeds: [0, 0]"), ["seeds", "0 is listed twice"]),
        (("seeds: [0, 1]", "seeds: [zero]"), ["seeds.0", "valid integer", "'zero'"]),
        (("seeds: [0, 1]", ""), ["seeds", "missing"]),
        (("name: example", "name: my sweep/one"), ["name", "my sweep/one", "letters, digits"]),
        (("size: [100k, 400k]", "size: []"), ["factors", "size", "at least one value"]),
        (("size: [100k, 400k]", "size: [100k, 100k]"), ["factors", "two values are called '100k'"]),
        (("size: [100k, 400k]", "sise: [100k]"), ["factors", "sise", "scheme, size or a dotted key"]),
        (("size: [100k, 400k]", "tracking.uri: [a]"), ["tracking.uri", "--tracking-uri"]),
        (("size: [100k, 400k]", "seed_everything: [1]"), ["seed_everything", "`seeds`"]),
        (("size: [100k, 400k]", "model..rate: [1]"), ["model..rate", "single dots"]),
        (("size: [100k, 400k]", "depth: [{label: a, sets: {x: 1}}]"), ["depth", "linked values"]),
        (("resnet, mhc", "'a,b', mhc"), ["a,b", "no comma"]),
        (("seeds: [0, 1]", "seeds: [0]\nworker: 2"), ["worker", "unknown key", "Did you mean 'workers'"]),
        (("seeds: [0, 1]", "seeds: [0]\nworkers: 0"), ["workers", "greater than or equal to 1"]),
        (("seeds: [0, 1]", "seeds: [0]\nname: other"), ["line", "'name'", "already given on line 2"]),
        (("seeds: [0, 1]", "seeds: [0"), ["line", "not valid YAML"]),
        (
            ("seeds: [0, 1]", "seeds: [0]\nexclude: [{sizes: 100k}]"),
            ["exclude.0.sizes", "not a factor", "Did you mean 'size'"],
        ),
        (("seeds: [0, 1]", "seeds: [0]\nexclude: [{size: 100M}]"), ["exclude.0.size", "'100M'", "100k, 400k"]),
        (("seeds: [0, 1]", "seeds: [0]\ntokens_per_parameter: 20"), ["tokens_per_parameter", "budget.tokens"]),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, change: tuple[str, str], expected: list[str]) -> None:
    assert change[0] in GOOD
    found = message(tmp_path, GOOD.replace(*change))
    for part in [str(tmp_path / "sweep.yaml"), *expected]:
        assert part in found


SEARCH = GOOD + "search: {trials: 4, seed: 100, space: {model.learning_rate: {low: 1e-4, high: 1e-2, log: true}}}\n"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("seed: 100", "seed: 1"), ["search.seed", "judged on seeds it was not selected on", "1001"]),
        (("trials: 4", "trials: 0"), ["search.trials"]),
        (("low: 1e-4", "low: 1"), ["search.space.model.learning_rate", "above"]),
        (("low: 1e-4", "low: 0"), ["positive"]),
        (("low: 1e-4", "lo: 1e-4"), ["search.space.model.learning_rate", "lo"]),
        (("model.learning_rate: {low", "size: {low"), ["search.space.size", "already a factor"]),
        (("trials: 4", "trails: 4"), ["search.trails", "Did you mean 'trials'"]),
    ],
)
def test_a_mistake_in_the_search_is_named(tmp_path: Path, change: tuple[str, str], expected: list[str]) -> None:
    assert change[0] in SEARCH
    found = message(tmp_path, SEARCH.replace(*change))
    for part in expected:
        assert part in found


def test_set_changes_the_file_a_factor_or_every_cell(tmp_path: Path) -> None:
    spec = load(tmp_path, SEARCH, "seeds=[5]", "search.trials=2", "size=1m", "budget.tokens=64", "data.batch_size=2")
    assert spec.seeds == [5]
    assert spec.search is not None
    assert spec.search.trials == 2
    assert [level.label for level in spec.factors["size"]] == ["1m"]
    assert spec.overrides[-1].set == {"budget.tokens": 64, "data.batch_size": 2}


LINKED = """
name: example
base: {}
factors:
  scheme: [resnet, mhc]
  depth:
    - {label: 8, set: {backbone.depth: 8}}
    - {label: 16, set: {backbone.depth: 16}}
exclude: [{scheme: mhc, depth: [8, 16]}]
overrides: [{when: {depth: 16}, set: {data.batch_size: 2}}]
seeds: [0]
"""


def test_set_picks_values_of_a_factor_by_label_and_forgets_what_was_said_of_the_others(tmp_path: Path) -> None:
    spec = load(tmp_path, LINKED, "depth=8")
    assert [level.assignments for level in spec.factors["depth"]] == [{"backbone.depth": 8}]
    assert spec.exclude == [{"scheme": ["mhc"], "depth": ["8"]}]
    assert spec.overrides == []
    assert load(tmp_path, LINKED, "scheme=resnet").exclude == []


def test_set_without_a_value_is_refused(tmp_path: Path) -> None:
    assert "expected key=value" in message(tmp_path, GOOD, "seeds")


def test_a_file_that_is_not_there_or_not_a_mapping(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent.yaml does not exist"):
        load_spec(tmp_path / "absent.yaml")
    with pytest.raises(FileNotFoundError, match="Shipped: .*demo"):
        load_spec("no-such-sweep")
    assert "expected a mapping" in message(tmp_path, "")
    assert "expected a mapping" in message(tmp_path, "[1, 2]")
