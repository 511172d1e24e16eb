"""Batches by position: an endless training stream that can be resumed, a fixed validation set, and windows of packed tokens.

Sequence w of a stream with tokens t is the window ``t[wT : wT + T]``; its targets are the same window one token later. The
windows of a split overlap nowhere but in that last target. A document's end is a token like any other and is scored.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus
from torch.utils.data import DataLoader, Dataset

from resbench.tasks.corpus import MappedArray
from resbench.tasks.order import WindowOrder
from resbench.tasks.task import Batch


class Batches(Protocol):
    """The batch that starts at a position of an endless stream of examples: a function of the position alone."""

    batch_size: int

    def __getitem__(self, position: int) -> Batch: ...


def windows_in(tokens: int, context_length: int) -> int:
    """How many sequences, with their targets, a stream of that many tokens holds."""
    return max(0, tokens - 1) // context_length


def gather(stream: MappedArray, windows: "np.ndarray[Any, np.dtype[np.int64]]", context_length: int) -> Batch:
    """The batch made of the given windows of the stream, in that order."""
    rows = np.stack([stream.array[w * context_length : (w + 1) * context_length + 1] for w in windows.tolist()])
    both = torch.from_numpy(rows.astype(np.int64))
    return {"tokens": both[:, :-1].contiguous(), "targets": both[:, 1:].contiguous()}


def with_documents(batch: Batch, separator: int) -> Batch:
    """The batch with ``documents``, int64 [B, T]: how many documents have begun in the sequence.

    A separator belongs to the document it precedes, so that a document's first token is predicted from the separator, within the document.
    """
    return {**batch, "documents": (batch["tokens"] == separator).cumsum(1)}


@dataclass
class WindowBatches:
    """Windows of packed tokens in a keyed order; see `Batches`."""

    stream: MappedArray
    order: WindowOrder
    context_length: int
    batch_size: int
    separator: int | None = None
    """Mark documents with it; see `with_documents`."""

    def __getitem__(self, position: int) -> Batch:
        positions = np.arange(position, position + self.batch_size, dtype=np.int64)
        batch = gather(self.stream, self.order.at(positions), self.context_length)
        return batch if self.separator is None else with_documents(batch, self.separator)


@dataclass
class _Positions:
    """first, first + stride, first + 2 stride, ... without end."""

    first: int
    stride: int

    def __iter__(self) -> Iterator[int]:
        position = self.first
        while True:
            yield position
            position += self.stride


class TrainLoader:
    """Endless batches in an order fixed by the seed; iterating again goes on where the consumer stopped.

    The stream of examples is global: each step takes the next ``batch_size * world_size`` of them and rank r the r-th part,
    so that no two ranks see the same one and a world of two sees what a world of one with twice the batch would.

    `state_dict` holds the position behind the last batch that was *trained on*. Lightning fetches one batch ahead and workers
    several, and an exception may strike between fetching a batch and stepping on it; so when a trainer drives the loader,
    `trained_batches` says how many batches it has finished, and otherwise the batches handed out count.

    Args:
        batches: what is trained on, by position.
        num_workers: processes that make batches; 0 makes them in this one. The batches do not depend on it.
        identity: what a saved position means something for; loading one saved with another identity is an error.
        rank, world_size: which part of each step's examples is ours.
        trained_batches: a counter of finished batches, if there is one to ask.
    """

    def __init__(
        self,
        batches: Batches,
        num_workers: int,
        identity: dict[str, str | int],
        rank: int = 0,
        world_size: int = 1,
        trained_batches: Callable[[], int] | None = None,
    ) -> None:
        self._batches = batches
        self._rank, self._world_size = rank, world_size
        self._num_workers = num_workers
        self._identity = identity
        self._trained_batches = trained_batches
        self._handed_out = 0
        self._set_position(0)

    def __iter__(self) -> Iterator[Batch]:
        # A generator: nothing starts before the first batch is asked for, since Lightning calls iter() just to probe.
        self._set_position(self._position())
        size = self._batches.batch_size
        loader = DataLoader(
            cast("Dataset[Batch]", self._batches),
            batch_size=None,
            sampler=_Positions(self._start + self._rank * size, size * self._world_size),
            num_workers=self._num_workers,
            pin_memory=torch.cuda.is_available(),
            # DataLoader draws a seed for its workers; from here, lest it disturb the generator the model draws from.
            generator=torch.Generator(),
        )
        for batch in loader:
            self._handed_out += 1
            yield batch

    def state_dict(self) -> dict[str, str | int]:
        """Sequences consumed by all ranks together, and what they are a position in."""
        return {"sequences": self._position(), **self._identity}

    def load_state_dict(self, state: dict[str, str | int]) -> None:
        """Go on from a position saved before, perhaps by another number of ranks or with another batch size.

        Raises:
            ValueError: the position was saved for other data, another seed or another context length.
        """
        for key, ours in self._identity.items():
            if state.get(key) != ours:
                raise ValueError(
                    f"cannot resume: the checkpoint was written with {key}={state.get(key)!r}, this run has {key}={ours!r}. "
                    "Resume with the data and the settings of the checkpoint, or start a new run."
                )
        self._set_position(int(state["sequences"]))

    def _set_position(self, sequences: int) -> None:
        self._start = sequences
        self._counted_from = self._count()

    def _position(self) -> int:
        batches = self._count() - self._counted_from
        return self._start + batches * self._batches.batch_size * self._world_size

    def _count(self) -> int:
        return self._handed_out if self._trained_batches is None else self._trained_batches()


def for_trainer(
    trainer: Trainer | None, batches: Batches, num_workers: int, identity: dict[str, str | int]
) -> TrainLoader:
    """The loader of this process's rank; while a trainer fits, one whose position is what that trainer has finished."""
    return TrainLoader(
        batches, num_workers, identity, *rank_and_world_size(), trained_batches=finished_batches(trainer)
    )


def finished_batches(trainer: Trainer | None) -> Callable[[], int] | None:
    """A counter of the batches a fitting trainer has stepped on; None when none is fitting."""
    fitting = (
        trainer is not None and trainer.state.fn == TrainerFn.FITTING and trainer.state.status == TrainerStatus.RUNNING
    )
    if trainer is None or not fitting:
        return None
    progress = trainer.fit_loop.epoch_loop.batch_progress.total
    return lambda: progress.state_dict()["processed"]


def rank_and_world_size() -> tuple[int, int]:
    """Of this process; (0, 1) when it is alone."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def pinned(batch: Batch) -> Batch:
    """The batch in page-locked memory where there is a GPU to copy it to."""
    return {name: t.pin_memory() for name, t in batch.items()} if torch.cuda.is_available() else batch


class ValidationLoader:
    """The same sequences in the same order for every run and on every rank; the last batch may be smaller.

    Every rank evaluates all of them, so that the validation loss needs no reduction and does not depend on the number of
    ranks.
    """

    def __init__(
        self,
        stream: MappedArray,
        windows: "np.ndarray[Any, np.dtype[np.int64]]",
        context_length: int,
        batch_size: int,
        separator: int | None = None,
    ) -> None:
        self._separator = separator
        self._stream = stream
        self._windows = windows
        self._context_length = context_length
        self._batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self._windows) // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self._windows), self._batch_size):
            batch = gather(self._stream, self._windows[start : start + self._batch_size], self._context_length)
            yield pinned(batch if self._separator is None else with_documents(batch, self._separator))
