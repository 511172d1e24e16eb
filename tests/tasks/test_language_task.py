"""What every language task promises: batches, order, splits between ranks, and the numbers about its data."""

from collections.abc import Callable
from itertools import islice
from math import log2
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from jsonargparse import ArgumentParser

from resbench.tasks.hub_text import HubText
from resbench.tasks.language import LanguageTask
from resbench.tasks.loader import TrainLoader, WindowBatches
from resbench.tasks.order import WindowOrder
from resbench.tasks.python_source import PythonSource

TextTask = Callable[..., HubText]


def windows(task: LanguageTask, n_batches: int) -> list[tuple[int, ...]]:
    """The sequences of the first batches, in order."""
    return [tuple(row) for batch in islice(task.train_dataloader(), n_batches) for row in batch["tokens"].tolist()]


def test_batches_are_int64_and_targets_are_the_next_token(numbers_task: TextTask) -> None:
    task = numbers_task()
    stream = torch.from_numpy(task._corpus.train.array.astype("int64"))
    for batch in [*islice(task.train_dataloader(), 3), *task.val_dataloader()]:
        tokens, targets = batch["tokens"], batch["targets"]
        assert set(batch) == {"tokens", "targets"}
        assert tokens.dtype == targets.dtype == torch.int64
        assert tokens.shape == targets.shape == (4, 16) or len(tokens) < 4
        assert torch.equal(tokens[:, 1:], targets[:, :-1])
        assert (targets >= 0).all()
        assert int(tokens.max()) < task.vocab_size == 257
    # and the last target is what follows the window in the text
    first = next(iter(task.train_dataloader()))
    start = next(i for i in range(len(stream) - 16) if torch.equal(stream[i : i + 16], first["tokens"][0]))
    assert first["targets"][0, -1] == stream[start + 16]


def test_an_epoch_has_every_window_once_and_the_next_another_order(numbers_task: TextTask) -> None:
    task = numbers_task(batch_size=1)
    n = (task.train_tokens - 1) // 16
    two_epochs = windows(task, 2 * n)
    stream = task._corpus.train.array.tolist()
    expected = {tuple(stream[i * 16 : (i + 1) * 16]) for i in range(n)}
    assert len(expected) == n
    assert set(two_epochs[:n]) == set(two_epochs[n:]) == expected
    assert two_epochs[:n] != two_epochs[n:]


def test_the_seed_alone_fixes_the_order(numbers_task: TextTask) -> None:
    first = windows(numbers_task(), 30)
    torch.manual_seed(123)
    assert windows(numbers_task(), 30) == first
    assert windows(numbers_task(batch_size=8), 15) == first
    assert windows(numbers_task(seed=1), 30) != first


def test_workers_change_neither_the_batches_nor_the_models_random_numbers(numbers_task: TextTask) -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    inline = windows(numbers_task(), 12)
    assert windows(numbers_task(num_workers=2), 12) == inline
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_partition_what_one_process_would_see(numbers_task: TextTask, world_size: int) -> None:
    task = numbers_task()
    stream = task._corpus.train
    order = WindowOrder((len(stream) - 1) // 16, seed=0)
    alone = windows(numbers_task(batch_size=4 * world_size), 10)
    loaders = [TrainLoader(WindowBatches(stream, order, 16, 4), 0, {}, rank, world_size) for rank in range(world_size)]
    together = [
        tuple(row)
        for step in zip(*(islice(loader, 10) for loader in loaders), strict=True)
        for batch in step
        for row in batch["tokens"].tolist()
    ]
    assert together == alone


def test_position_is_what_was_consumed_and_iterating_again_goes_on(numbers_task: TextTask) -> None:
    undisturbed = list(islice(numbers_task().train_dataloader(), 10))
    loader = numbers_task(num_workers=2).train_dataloader()  # workers fetch ahead; that must not count
    for _ in islice(loader, 3):
        pass
    state = loader.state_dict()
    assert state["sequences"] == 3 * 4
    assert torch.equal(next(iter(loader))["tokens"], undisturbed[3]["tokens"])

    resumed = numbers_task().train_dataloader()
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    for batch, expected in zip(islice(resumed, 7), undisturbed[3:], strict=True):
        assert torch.equal(batch["tokens"], expected["tokens"])
    assert resumed.state_dict()["sequences"] == 10 * 4


def test_a_position_means_the_same_with_another_batch_size(numbers_task: TextTask) -> None:
    loader = numbers_task(batch_size=6).train_dataloader()
    for _ in islice(loader, 2):
        pass
    resumed = numbers_task(batch_size=3).train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    rows = [tuple(row) for batch in islice(resumed, 4) for row in batch["tokens"].tolist()]
    assert rows == windows(numbers_task(batch_size=6), 4)[12:]


@pytest.mark.parametrize("change", [{"seed": 1}, {"context_length": 8}])
def test_resuming_with_another_order_is_an_error(numbers_task: TextTask, change: dict[str, Any]) -> None:
    state = numbers_task().train_dataloader().state_dict()
    with pytest.raises(ValueError, match=rf"cannot resume.*{next(iter(change))}=.*this run has"):
        numbers_task(**change).train_dataloader().load_state_dict(state)


def test_resuming_on_other_data_is_an_error(text_task: TextTask) -> None:
    state = text_task("a" * 100, "b" * 100, context_length=8).train_dataloader().state_dict()
    with pytest.raises(ValueError, match="data_fingerprint"):
        text_task("c" * 100, "b" * 100, context_length=8).train_dataloader().load_state_dict(state)


def test_validation_is_spread_evenly_and_the_same_each_time(numbers_task: TextTask) -> None:
    # 200 bytes and a separator hold 12 windows of 16; 4 of them, evenly: 0, 3, 6 and 9.
    loader = numbers_task(val_sequences=4, batch_size=3).val_dataloader()
    assert len(loader) == 2
    batches = list(loader)
    assert [len(batch["tokens"]) for batch in batches] == [3, 1]
    stream = numbers_task()._corpus.validation.array.tolist()
    rows = [row for batch in batches for row in batch["tokens"].tolist()]
    assert rows == [stream[w * 16 : (w + 1) * 16] for w in (0, 3, 6, 9)]
    of_another_seed = numbers_task(val_sequences=4, batch_size=3, seed=9).val_dataloader()
    assert [row for batch in of_another_seed for row in batch["tokens"].tolist()] == rows


def test_all_of_a_small_validation_split_is_used(numbers_task: TextTask) -> None:
    task = numbers_task(val_sequences=1000)
    assert sum(len(batch["tokens"]) for batch in task.val_dataloader()) == 12
    assert task.describe()["val_sequences"] == 12


def test_unigram_line_and_bytes_per_token_by_hand(text_task: TextTask) -> None:
    # Train "aaab" and its end: a 3, b 1, end 1; with one added to each of 257 counts, p(a) = 4/262, p(b) = p(end) = 2/262.
    # Validation "abab" and its end is one window of 4, whose targets are b a b end: 3 bytes in 4 tokens, the end scored.
    task = text_task("aaab", "abab", context_length=4)
    assert task.bytes_per_token == 3 / 4
    bits = 2 * log2(262 / 2) + log2(262 / 4) + log2(262 / 2)
    assert task.unigram_bits_per_byte == pytest.approx(bits / 3, rel=1e-12)
    assert (task.train_tokens, task.val_tokens) == (5, 5)


def test_a_window_longer_than_the_text_is_an_error(text_task: TextTask) -> None:
    text_task("abcd", "abcde", context_length=4)
    with pytest.raises(ValueError, match=r"validation data have 5 tokens.*needs \(6\).*context_length"):
        text_task("abcde", "abcd", context_length=5)
    with pytest.raises(ValueError, match=r"train data have 5 tokens"):
        text_task("abcd", "abcde", context_length=5)


@pytest.mark.parametrize(
    ("key", "value", "least"),
    [("context_length", 0, 1), ("batch_size", 0, 1), ("val_sequences", -3, 1), ("num_workers", -1, 0)],
)
def test_numbers_out_of_range_name_their_key(key: str, value: int, least: int) -> None:
    with pytest.raises(ValueError, match=rf"data\.init_args\.{key}={value}: expected at least {least}"):
        PythonSource(**{key: value})


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_val_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"data\.init_args\.val_fraction"):
        PythonSource(val_fraction=fraction)


def test_data_are_not_there_before_setup(tmp_path: Path) -> None:
    task = PythonSource(cache_dir=str(tmp_path))
    assert task.vocab_size == 257
    with pytest.raises(RuntimeError, match=r"call setup\(\) first"):
        _ = task.fingerprint


def test_description_is_plain_values(numbers_task: TextTask) -> None:
    task = numbers_task()
    described = task.describe()
    assert all(isinstance(value, str | int | float) for value in described.values())
    assert described["fingerprint"] == task.fingerprint
    assert described["train_bytes"] == task.train_tokens - 1
    assert described["n_files"] == 2


@pytest.mark.parametrize("task", [PythonSource, HubText])
def test_the_constructor_is_the_configuration(task: type[LanguageTask]) -> None:
    """jsonargparse, which makes the command line, sees every argument, inherited ones too, and its documentation."""
    parser = ArgumentParser()
    parser.add_class_arguments(task, "data")
    shown = parser.format_help()
    for text in (
        "--data.context_length",
        "--data.num_workers",
        "tokens per sequence",
        "--data.seed",
        "fixes the order",
    ):
        assert text in shown
    parsed = parser.parse_args(["--data.context_length=32", "--data.cache_dir=/nowhere"])
    assert (parsed.data.context_length, parsed.data.batch_size, parsed.data.seed) == (32, 16, 0)


@pytest.mark.gpu
@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_pinned_where_there_is_a_gpu(numbers_task: TextTask, num_workers: int) -> None:
    task = numbers_task(num_workers=num_workers)
    for batch in (next(iter(task.train_dataloader())), next(iter(task.val_dataloader()))):
        assert all(tensor.is_pinned() for tensor in batch.values())


def _first_windows(rank: int, arguments: dict[str, Any], rendezvous: str, results: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    task = HubText(**arguments)
    task.setup("fit")  # no rank has prepared the data: both want to build them, one does
    torch.save((windows(task, 5), task.fingerprint), f"{results}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_see_two_halves(tmp_path: Path, numbers_task: TextTask) -> None:
    reference = numbers_task(batch_size=8)
    arguments = {
        "data_files": str(tmp_path / "train.txt"),
        "val_data_files": str(tmp_path / "validation.txt"),
        "sample_by": "document",
        "context_length": 16,
        "batch_size": 4,
        "cache_dir": str(tmp_path / "cache of two"),
    }
    torch.multiprocessing.spawn(_first_windows, (arguments, str(tmp_path / "rendezvous"), str(tmp_path)), nprocs=2)
    (first, print_0), (second, print_1) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert print_0 == print_1 == reference.fingerprint
    together = [w for step in range(5) for half in (first, second) for w in half[4 * step : 4 * step + 4]]
    assert together == windows(reference, 5)
