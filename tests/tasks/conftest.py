"""Corpora small enough to check by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resbench.tasks.hub_text import HubText

TextTask = Callable[..., HubText]


@pytest.fixture
def text_task(tmp_path: Path) -> TextTask:
    """Makes and sets up a task on two texts given as strings, one document each; its cache is the test's own."""

    def make(train: str, validation: str, **arguments: Any) -> HubText:
        for name, text in (("train", train), ("validation", validation)):
            (tmp_path / f"{name}.txt").write_text(text)
        task = HubText(
            data_files=str(tmp_path / "train.txt"),
            val_data_files=str(tmp_path / "validation.txt"),
            sample_by="document",
            cache_dir=str(tmp_path / "cache"),
            **arguments,
        )
        task.prepare_data()
        task.setup("fit")
        return task

    return make


@pytest.fixture
def numbers_task(text_task: TextTask) -> TextTask:
    """A task whose train text is the numbers from 0 on, so that no two of its windows are equal."""

    def make(**arguments: Any) -> HubText:
        text = " ".join(str(i) for i in range(600))
        return text_task(text, text[:200], **{"context_length": 16, "batch_size": 4, **arguments})

    return make
