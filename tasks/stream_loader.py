"""Batches from streams that are read while training: one stream per rank and worker, and a position that covers them all."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from resbench.tasks.loader import with_documents
from resbench.tasks.stream import PackedStream, Position
from resbench.tasks.task import Batch


class OpenStream(Protocol):
    """Opens stream ``index`` of ``count`` at a position; called in the worker, so it must be picklable."""

    def __call__(self, index: int, count: int, position: Position) -> PackedStream: ...


class StreamLoader:
    """Endless batches; iterating again, or after `load_state_dict`, goes on where the trainer stopped.

    Rank r's worker w reads stream ``r * workers + w`` of ``ranks * workers``, which between them hold every row once an epoch. Batch i of a rank
    comes from worker ``i mod workers``. A position is one of every stream, gathered over ranks when it is asked for, so that rank 0's checkpoint
    holds all; it can be resumed only with the same ranks and workers, since rows belong to streams.

    Args:
        open_stream: opens one stream.
        batch_size: sequences per batch.
        num_workers: processes that read; 0 reads in this one.
        identity: what a saved position means something for; loading one saved with another identity is an error.
        rank, world_size: of this process.
        separator: mark documents with it (`with_documents`); None does not.
        trained_batches: a counter of finished batches, if there is one to ask; else those handed out count.
    """

    def __init__(
        self,
        open_stream: OpenStream,
        batch_size: int,
        num_workers: int,
        identity: dict[str, str | int],
        rank: int = 0,
        world_size: int = 1,
        separator: int | None = None,
        trained_batches: Callable[[], int] | None = None,
    ) -> None:
        self._open_stream, self._batch_size, self._num_workers = open_stream, batch_size, num_workers
        self._streams = max(1, num_workers)
        self._rank, self._world_size, self._separator = rank, world_size, separator
        self._identity = {**identity, "ranks": world_size, "workers": self._streams, "batch_size": batch_size}
        self._trained_batches = trained_batches
        self._handed_out = 0
        self._begin([Position()] * self._streams, 0)

    def __iter__(self) -> Iterator[Batch]:
        # A generator: nothing starts before the first batch is asked for, since Lightning calls iter() just to probe.
        self._begin(self._positions(), self._batches())
        dataset = _Batches(self._open_stream, self._batch_size, self._rank, self._world_size, self._start, self._first)
        loader = DataLoader(
            dataset,
            batch_size=None,
            num_workers=self._num_workers,
            prefetch_factor=4 if self._num_workers else None,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # not the one the model draws from
        )
        for number, (tokens, position) in enumerate(loader, self._first):
            if tokens is None:  # a worker's exception would arrive wrapped in its traceback
                raise ValueError(position)
            self._handed_out += 1
            self._behind[number % self._streams].append((number, position))
            batch = {"tokens": tokens[:, :-1].contiguous(), "targets": tokens[:, 1:].contiguous()}
            yield batch if self._separator is None else with_documents(batch, self._separator)

    def state_dict(self) -> dict[str, Any]:
        """Batches trained on per rank, the position of every stream of every rank, and what they are positions in."""
        ours = [position.dump() for position in self._positions()]
        everyones = [ours]
        if self._world_size > 1:
            everyones = [[] for _ in range(self._world_size)]
            torch.distributed.all_gather_object(everyones, ours)
        return {"batches": self._batches(), "positions": everyones, **self._identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a position saved before.

        Raises ValueError when it was saved for other data, settings, or another number of ranks or workers.
        """
        for key, ours in self._identity.items():
            if state.get(key) != ours:
                raise ValueError(
                    f"cannot resume: the checkpoint was written with {key}={state.get(key)!r}, this run has {key}={ours!r}. "
                    "A stream goes on only with the data, ranks and workers of the checkpoint; start a new run otherwise."
                )
        self._begin([Position.parse(text) for text in state["positions"][self._rank]], int(state["batches"]))

    def _begin(self, positions: list[Position], batches: int) -> None:
        """Where the next iteration starts: a position per worker, and the number of its first batch."""
        self._start, self._first = positions, batches
        self._counted_from = self._count()
        self._behind: list[deque[tuple[int, str]]] = [deque() for _ in range(self._streams)]

    def _batches(self) -> int:
        return self._first + self._count() - self._counted_from

    def _positions(self) -> list[Position]:
        """Behind the last batch of each worker that was trained on; forgets those before it."""
        done, found = self._batches(), list(self._start)
        for worker, behind in enumerate(self._behind):
            while len(behind) > 1 and behind[1][0] < done:
                behind.popleft()
            if behind and behind[0][0] < done:
                found[worker] = Position.parse(behind[0][1])
        return found

    def _count(self) -> int:
        return self._handed_out if self._trained_batches is None else self._trained_batches()


class _Batches(IterableDataset[tuple[torch.Tensor | None, str]]):
    """In a worker: (int64 [B, T + 1], position behind it) of this worker's stream, for ever; (None, message) for data that cannot be read."""

    def __init__(
        self, open_stream: OpenStream, batch_size: int, rank: int, world_size: int, start: list[Position], first: int
    ) -> None:
        self._open_stream, self._batch_size = open_stream, batch_size
        self._rank, self._world_size, self._start, self._first = rank, world_size, start, first

    def __iter__(self) -> Iterator[tuple[torch.Tensor | None, str]]:
        info = get_worker_info()
        streams = len(self._start)
        # DataLoader asks its worker 0 first, and the next batch may be any worker's.
        worker = ((info.id if info else 0) + self._first) % streams
        stream = self._open_stream(self._rank * streams + worker, self._world_size * streams, self._start[worker])
        rows: list[Any] = []
        try:
            for tokens, position in stream:
                rows.append(tokens)
                if len(rows) == self._batch_size:
                    yield torch.from_numpy(np.stack(rows).astype(np.int64)), position.dump()
                    rows = []
        except (ValueError, OSError) as error:
            yield None, str(error)
