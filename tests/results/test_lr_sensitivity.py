"""LR sensitivity against a grid worked out by hand."""

import pandas as pd
import pytest

from resbench.results.lr_sensitivity import lr_sensitivity

GROUP = ("scheme",)


def tables(*rows: tuple[str, float, str, float | None]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(scheme, learning rate, outcome, loss) -> runs and curves; every model starts at 5.0."""
    runs = pd.DataFrame(rows, columns=["scheme", "learning_rate", "outcome", "val_loss"])
    runs["run_id"] = [f"r{i}" for i in range(len(runs))]
    curves = pd.DataFrame({"run_id": runs["run_id"], "metric": "val/loss", "tokens": 0, "value": 5.0})
    return runs, curves


def test_by_hand() -> None:
    runs, curves = tables(
        ("hc", 1e-3, "complete", 2.0),
        ("hc", 2e-3, "complete", 2.2),
        ("hc", 2e-3, "complete", 2.4),  # another seed of the same rate
        ("hc", 4e-3, "complete", 6.0),  # worse than untrained: 5.0
        ("hc", 8e-3, "diverged", 2.1),  # whatever it had reached
        ("hc", 9e-3, "pruned", 1.0),
        ("mhc", 1e-3, "complete", 2.0),
        ("mhc", 2e-3, "complete", 2.0),
        ("once", 1e-3, "complete", 2.0),
    )
    found = lr_sensitivity(runs, curves, GROUP).set_index("scheme")
    assert list(found.index) == ["hc", "mhc"]  # the most sensitive first; one rate is no grid
    # Rates count 2.0, 2.3, 5.0 and 5.0: their mean is 3.575.
    assert found.loc["hc", "sensitivity"] == pytest.approx(3.575 - 2.0)
    assert found.loc["hc", "best_learning_rate"] == 1e-3
    assert found.loc["hc", ["learning_rates", "runs", "diverged"]].tolist() == [4, 5, 1]
    assert found.loc["hc", "highest"] == 8e-3
    assert found.loc["mhc", "sensitivity"] == 0.0


def test_nothing_and_something_missing() -> None:
    runs, curves = tables(("hc", 1e-3, "complete", 2.0))
    assert lr_sensitivity(runs, curves, GROUP).empty
    with pytest.raises(ValueError, match="run r0 has no validation loss at 0 tokens"):
        lr_sensitivity(runs, curves[curves["tokens"] > 0], GROUP)
