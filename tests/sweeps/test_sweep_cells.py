"""Cells are the combinations of factors, none twice, each with the configuration it stands for."""

from typing import Any

import pytest

from resbench.sweeps.grid import Cell, cells, registered_fields
from resbench.sweeps.spec import SweepSpec, check

FIELDS: dict[str, set[str]] = {
    "resnet": set(),
    "hc": {"n_streams", "tanh"},
    "mhc": {"n_streams", "sinkhorn_iterations", "order"},
}


def spec(factors: dict[str, Any], **more: Any) -> SweepSpec:
    return check(
        {"name": "s", "base": {"model": {"learning_rate": 0.1}}, "factors": factors, "seeds": [0], **more}, "test.yaml"
    )


def made(factors: dict[str, Any], **more: Any) -> dict[str, Cell]:
    return {cell.id: cell for cell in cells(spec(factors, **more), FIELDS.__getitem__)}


def scheme(cell: Cell) -> Any:
    return cell.config["model"]["scheme"]


def test_every_combination_once_in_the_order_of_the_file() -> None:
    assert list(made({"size": ["1m", "3m"], "scheme": ["resnet", "mhc"]})) == [
        "size=1m,scheme=resnet",
        "size=1m,scheme=mhc",
        "size=3m,scheme=resnet",
        "size=3m,scheme=mhc",
    ]


def test_a_field_applies_only_to_schemes_whose_constructor_has_it() -> None:
    found = made({"scheme": ["resnet", "hc", "mhc"], "scheme.n_streams": [2, 4], "scheme.sinkhorn_iterations": [1, 20]})
    assert list(found) == [
        "scheme=resnet",
        "scheme=hc,scheme.n_streams=2",
        "scheme=hc,scheme.n_streams=4",
        "scheme=mhc,scheme.n_streams=2,scheme.sinkhorn_iterations=1",
        "scheme=mhc,scheme.n_streams=2,scheme.sinkhorn_iterations=20",
        "scheme=mhc,scheme.n_streams=4,scheme.sinkhorn_iterations=1",
        "scheme=mhc,scheme.n_streams=4,scheme.sinkhorn_iterations=20",
    ]
    assert scheme(found["scheme=resnet"]) == {"class_path": "resnet"}
    last = scheme(found["scheme=mhc,scheme.n_streams=4,scheme.sinkhorn_iterations=20"])
    assert last == {"class_path": "mhc", "init_args": {"n_streams": 4, "sinkhorn_iterations": 20}}


def test_a_scheme_that_fixes_a_field_itself_is_left_out_of_that_factor() -> None:
    found = made(
        {
            "scheme": [{"class_path": "hc", "init_args": {"n_streams": 1}, "label": "hc-1"}, "mhc"],
            "scheme.n_streams": [2, 4],
        }
    )
    assert list(found) == ["scheme=hc-1", "scheme=mhc,scheme.n_streams=2", "scheme=mhc,scheme.n_streams=4"]
    assert scheme(found["scheme=hc-1"])["init_args"] == {"n_streams": 1}


def test_the_order_of_factors_in_the_file_does_not_matter_to_the_configuration() -> None:
    one = made({"scheme.n_streams": [2], "scheme": ["mhc"]})["scheme.n_streams=2,scheme=mhc"]
    other = made({"scheme": ["mhc"], "scheme.n_streams": [2]})["scheme=mhc,scheme.n_streams=2"]
    assert one.config == other.config


def test_linked_values_set_several_keys_under_one_label() -> None:
    shapes = [
        {"label": 8, "set": {"backbone.depth": 8, "backbone.width": 64}},
        {"label": 16, "set": {"backbone.depth": 16, "backbone.width": 48}},
    ]
    found = made({"scheme": ["resnet"], "depth": shapes})
    backbone = found["scheme=resnet,depth=16"].config["model"]["backbone"]
    assert backbone == {"class_path": "transformer", "init_args": {"depth": 16, "width": 48}}


def test_exclusions_and_overrides_go_by_labels() -> None:
    found = made(
        {"size": ["1m", "3m"], "scheme": ["resnet", "mhc"]},
        exclude=[{"size": "3m", "scheme": "mhc"}],
        overrides=[{"when": {"scheme": "mhc"}, "set": {"model.learning_rate": 0.2}}, {"set": {"data.batch_size": 4}}],
    )
    assert list(found) == ["size=1m,scheme=resnet", "size=1m,scheme=mhc", "size=3m,scheme=resnet"]
    assert found["size=1m,scheme=mhc"].config["model"]["learning_rate"] == 0.2
    assert found["size=1m,scheme=resnet"].config["model"]["learning_rate"] == 0.1
    assert all(cell.config["data"]["init_args"]["batch_size"] == 4 for cell in found.values())


@pytest.mark.parametrize(
    ("factors", "more", "expected"),
    [
        (
            {"scheme": ["mhc"], "scheme.n_stream": [1]},
            {},
            "none of the schemes mhc has a field 'n_stream'. Did you mean 'n_streams'",
        ),
        ({"scheme": ["mhc"], "size": ["1m"]}, {"exclude": [{"size": "1m"}]}, "all 1 cells are excluded"),
        ({"scheme": ["resnet", {"class_path": "resnet", "label": "again"}]}, {}, "are the same configuration"),
        ({"size": ["1m"], "scheme.n_streams": [1]}, {}, "no scheme is set"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(factors: dict[str, Any], more: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        made(factors, **more)


def test_an_override_for_a_combination_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"overrides.0.when: .* matches no cell"):
        made(
            {"scheme": ["resnet", "mhc"], "scheme.n_streams": [2]},
            overrides=[{"when": {"scheme": "resnet", "scheme.n_streams": 2}, "set": {"a.b": 1}}],
        )


def test_factors_of_the_same_last_name_keep_their_whole_key() -> None:
    assert list(made({"model.x": [1], "data.x": [2]})) == ["model.x=1,data.x=2"]


def test_fields_come_from_the_constructors_of_the_registered_schemes() -> None:
    assert registered_fields("resnet") == set()
    assert {"n_streams", "sinkhorn_iterations"} <= registered_fields("mhc")
    assert "sinkhorn_iterations" not in registered_fields("identity-hc")
    with pytest.raises(ValueError, match="unknown scheme 'mch'. Did you mean 'mhc'"):
        registered_fields("mch")
