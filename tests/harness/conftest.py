"""A corpus that takes no time to read, and an output directory whose MLflow database exists already (creating one takes seconds)."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

Argv = Callable[..., list[str]]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty small Python files: enough regularity to be learned in a few dozen steps."""
    folder = tmp_path_factory.mktemp("corpus")
    for i in range(40):
        lines = [f"def function_{i}_{j}(x, y):\n    return x * {j} + y - {i}\n" for j in range(40)]
        (folder / f"module_{i}.py").write_text("\n".join(lines))
    return folder


@pytest.fixture
def output_dir(tmp_path: Path, empty_store: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    return folder


@pytest.fixture
def argv(corpus: Path, output_dir: Path) -> Argv:
    """Arguments of a run of 40 steps of 128 tokens; further ones override."""

    def build(*more: str) -> list[str]:
        return [
            f"--data.root={corpus}",
            "--data.context_length=32",
            "--data.batch_size=4",
            "--data.val_sequences=8",
            "--data.val_fraction=0.3",
            "--model.backbone.size=100k",
            "--model.backbone.depth=1",
            "--model.backbone.width=32",
            "--model.backbone.n_heads=2",
            "--budget.tokens=5120",
            f"--output_dir={output_dir}",
            "--trainer.accelerator=cpu",
            *more,
        ]

    return build
