"""One worker's endless stream of packed sequences from rows that `datasets` reads, with a position that can be resumed exactly.

Rows come in groups; the documents of a group are filtered, encoded and appended to a buffer; sequences are cut from the buffer a block at a time and
leave the block in a keyed order. A position is the reader's state before the last group it read, how many tokens of that group were used up, the
number of the block and the sequences taken from it: resuming reads the block again, whatever its size, and nothing before it.
"""

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from resbench.tasks.order import WindowOrder

GROUP = 64
"""Rows read, filtered and encoded together: enough to keep a tokenizer busy."""

Tokens = npt.NDArray[Any]


class Rows(Protocol):
    """Documents in groups, with a reader's state: `resbench.tasks.documents.SharedRows`."""

    def iter(self, batch_size: int) -> Iterator[list[bytes]]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass
class Position:
    """Where a stream is; plain values."""

    epoch: int = 0
    rows: dict[str, Any] | None = None
    """State of the reader before the group that `skip` is in; None for the beginning."""
    skip: int = 0
    """Tokens of that group that earlier blocks used up."""
    block: int = 0
    taken: int = 0
    """Sequences of the block that were handed out."""

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def parse(text: str) -> "Position":
        return Position(**json.loads(text))


class PackedStream:
    """Iterates over (sequence of T + 1 tokens, position behind it) for ever, epoch after epoch.

    Args:
        open_rows: opens this worker's share of the data at its beginning.
        encode: the tokens of a group of documents, a separator after each document; documents it does not want it leaves out.
        context_length: T. A sequence's last token is the next one's first.
        block: sequences shuffled together.
        seed: of the order within blocks.
        position: where to begin.

    Raises ValueError, on iteration, when a whole epoch has no tokens.
    """

    def __init__(
        self,
        open_rows: Callable[[], Rows],
        encode: Callable[[list[bytes]], Tokens],
        context_length: int,
        block: int,
        seed: int,
        position: Position,
    ) -> None:
        self._open_rows, self._encode = open_rows, encode
        self._length, self._block, self._seed = context_length, block, seed
        self._start = position

    def __iter__(self) -> Iterator[tuple[Tokens, Position]]:
        start, needed = self._start, self._block * self._length + 1
        groups = self._groups(start.epoch, start.rows)
        epoch, rows, used, block, taken = start.epoch, start.rows, start.skip, start.block, start.taken
        skip = start.skip
        tail: Tokens = np.empty(0, dtype=np.uint16)
        while True:
            begins = Position(epoch, rows, used, block)
            parts, have = [tail], len(tail)
            while have < needed:
                epoch, rows, group = next(groups)
                used, skip, group = skip, 0, group[skip:]
                parts.append(group)
                have += len(group)
            buffer = np.concatenate(parts)
            order = WindowOrder(self._block, self._seed).at(np.arange(self._block) + block * self._block)
            for i in range(taken, self._block):
                at = int(order[i]) * self._length
                yield buffer[at : at + self._length + 1], replace(begins, taken=i + 1)
            # Groups are read only while tokens are wanting, so what is left over is the end of the last one.
            tail = buffer[needed - 1 :]
            used += len(parts[-1]) - len(tail)
            block, taken = block + 1, 0

    def _groups(self, epoch: int, state: dict[str, Any] | None) -> Iterator[tuple[int, dict[str, Any] | None, Tokens]]:
        """(epoch, the reader's state before the group, its tokens)."""
        while True:
            rows = self._open_rows()
            whole, found = state is None, 0
            if state is not None:
                rows.load_state_dict(copy.deepcopy(state))
            for group in rows.iter(GROUP):
                behind = copy.deepcopy(rows.state_dict())
                tokens = self._encode(group)
                found += len(tokens)
                if len(tokens):
                    yield epoch, state, tokens
                state = behind
            if whole and not found:
                raise ValueError(
                    "data.init_args: a part of the data has no text to train on; use fewer workers or more data"
                )
            epoch, state = epoch + 1, None
