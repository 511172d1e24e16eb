"""What generated tasks share: examples by position, disjoint train and validation sets, accuracy by difficulty.

Examples are made in blocks of `BLOCK`; block b is a function of (seed, b) alone, so that any position of the endless training stream can be asked
for, by any rank or worker, and resuming is exact. An example belongs to train or to validation by a hash of its tokens: one example in
`HELD_OUT_OF` is held out whatever generated it, so the two sets are disjoint by construction, not by luck.
"""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from resbench.tasks.loader import TrainLoader, for_trainer, pinned
from resbench.tasks.task import Batch, Measures, Task

BLOCK = 64
"""Examples generated together: enough to make the vectorised generators cheap, few enough that a small batch wastes little."""

HELD_OUT_OF = 8
"""One example in so many is a validation example."""

MOST_ROUNDS = 100
"""Rounds of generating a block before giving up; one or two are usual."""

SIMULATED = 2000
"""Examples that a chance level is measured on where it has no closed form."""

IGNORED = -100

Ints = npt.NDArray[np.int64]


class Examples(NamedTuple):
    """``tokens`` and ``targets`` [N, T]; ``difficulty`` [N, T], of each scored target (anything where the target is -100)."""

    tokens: Ints
    targets: Ints
    difficulty: Ints

    def rows(self, chosen: Any) -> "Examples":
        return Examples(self.tokens[chosen], self.targets[chosen], self.difficulty[chosen])


class GeneratedTask(Task):
    """A task without data: every example is generated, exactly and from the seed.

    Batches have ``tokens``, ``targets`` (-100 where nothing is asked) and ``difficulty``, int64 [batch_size, context_length]. Validation reports
    ``val/accuracy`` and, for each difficulty that occurs, ``val/accuracy/<difficulty_name>_<value>``; the share of scored targets whose logit is the
    largest. `levels` says what guessing reaches and what can be reached at all.

    Args:
        context_length: tokens per sequence.
        batch_size: sequences per batch and process.
        val_sequences: validation sequences, the same ones for every model and every seed.
        seed: fixes the training sequences.
        num_workers: processes that generate batches; 0 generates them in the training process. It does not change the batches.

    Raises ValueError for a value out of range.
    """

    difficulty_name: ClassVar[str] = "difficulty"

    def __init__(
        self,
        context_length: int = 128,
        batch_size: int = 64,
        val_sequences: int = 512,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        least = {"context_length": (context_length, 2), "batch_size": (batch_size, 1)}
        least |= {"val_sequences": (val_sequences, 1), "num_workers": (num_workers, 0)}
        self.require(least)
        self.context_length, self.batch_size = context_length, batch_size
        self.val_sequences, self.seed, self.num_workers = val_sequences, seed, num_workers

    # What a subclass says.

    @abstractmethod
    def generate(self, rng: np.random.Generator, count: int) -> Examples:
        """``count`` independent examples. Uses nothing random but ``rng``."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All that `generate` depends on; JSON values."""

    @property
    @abstractmethod
    def chance(self) -> float:
        """Accuracy of the best guess that does not solve the task (the class says which guess that is)."""

    def simulated(self) -> Examples:
        """Examples for the chance levels that have no closed form: always the same, and enough for two digits."""
        return self.generate(np.random.default_rng(0), SIMULATED)

    ceiling = 1.0
    """Accuracy of a model that has learned everything."""

    # What the harness asks.

    def train_dataloader(self) -> TrainLoader:
        """Endless training batches of this rank, resumable."""
        batches = GeneratedBatches(self, self.seed, self.batch_size)
        return for_trainer(
            self.trainer, batches, self.num_workers, {"data_fingerprint": self.fingerprint, "seed": self.seed}
        )

    def val_dataloader(self) -> "GeneratedValidation":
        """The validation sequences, the same on every rank."""
        return GeneratedValidation(self)

    def measures(self, logits: Tensor, batch: Batch) -> Measures:
        targets, difficulty = batch["targets"], batch["difficulty"]
        scored = targets != IGNORED
        right = (logits.argmax(-1) == targets) & scored
        found: Measures = {"val/accuracy": (right.sum(), scored.sum())}
        for value in torch.unique(difficulty[scored]).tolist():
            chosen = scored & (difficulty == value)
            found[f"val/accuracy/{self.difficulty_name}_{value}"] = ((right & chosen).sum(), chosen.sum())
        return found

    def levels(self) -> dict[str, float]:
        return {"chance_accuracy": self.chance, "ceiling_accuracy": self.ceiling}

    @property
    def fingerprint(self) -> str:
        """Equal exactly if two runs had the same generator with the same settings; of the examples of block 0 too."""
        described = json.dumps({"task": self.name, **self.settings(), "context_length": self.context_length})
        first = draw(self, 0, 0, held_out=True)
        return hashlib.sha256(described.encode() + first.tokens.tobytes() + first.targets.tobytes()).hexdigest()

    def describe(self) -> dict[str, str | int | float]:
        """What the data are, in plain values, for the record of a run."""
        settings = {
            key: value if isinstance(value, int | float) else str(value) for key, value in self.settings().items()
        }
        return {
            "task": self.name,
            "source": f"generated: {self.name}",
            **settings,
            "context_length": self.context_length,
            "vocab_size": self.vocab_size,
            "val_sequences": self.val_sequences,
            **self.levels(),
            "fingerprint": self.fingerprint,
        }

    @staticmethod
    def require(least: dict[str, tuple[int, int]]) -> None:
        """Raise ValueError for the first of ``name: (value, least)`` that is too small."""
        for key, (value, bound) in least.items():
            if value < bound:
                raise ValueError(f"data.init_args.{key}={value}: expected at least {bound}")


def held_out(tokens: Ints) -> npt.NDArray[np.bool_]:
    """Which rows of [N, T] are validation examples: a keyed polynomial hash of the tokens, 64 bits, well mixed."""
    powers = _odd_powers(tokens.shape[1])
    hashed = (tokens.astype(np.uint64) + np.uint64(1)) @ powers  # wraps
    hashed ^= hashed >> np.uint64(32)
    hashed *= np.uint64(0xD6E8FEB86659FD93)
    hashed ^= hashed >> np.uint64(32)
    return hashed % np.uint64(HELD_OUT_OF) == 0


def draw(task: GeneratedTask, seed: int, block: int, *, held_out: bool) -> Examples:
    """The `BLOCK` examples of one block of one split."""
    entropy = [seed, block, int(held_out), *task.name.encode()]
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))
    wanted, parts = BLOCK, list[Examples]()
    share = 1 / HELD_OUT_OF if held_out else 1 - 1 / HELD_OUT_OF
    while wanted > 0:
        made = task.generate(rng, int(wanted / share) + 8)
        kept = made.rows(np.flatnonzero(_held_out(made.tokens) == held_out)[:wanted])
        parts.append(kept)
        wanted -= len(kept.tokens)
        if len(parts) > MOST_ROUNDS:
            raise ValueError(
                f"{task.name}: with these settings there are too few different examples to hold some out for validation; "
                f"raise data.init_args.context_length (now {task.context_length})"
            )
    return Examples(*(np.concatenate(column) for column in zip(*parts, strict=True)))


_held_out = held_out  # the name is an argument's above


class GeneratedBatches:
    """Training examples by position (see `resbench.tasks.loader.Batches`); the last blocks made are kept, for batches that share one."""

    def __init__(self, task: GeneratedTask, seed: int, batch_size: int) -> None:
        self._task, self._seed, self.batch_size = task, seed, batch_size
        self._kept: dict[int, Examples] = {}

    def __getitem__(self, position: int) -> Batch:
        first, last = position // BLOCK, (position + self.batch_size - 1) // BLOCK
        self._kept = {
            block: self._kept.get(block) or draw(self._task, self._seed, block, held_out=False)
            for block in range(first, last + 1)
        }
        start = position - first * BLOCK
        return as_batch(_joined(self._kept.values()).rows(slice(start, start + self.batch_size)))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}


class GeneratedValidation:
    """The validation sequences in batches; the last may be smaller."""

    def __init__(self, task: GeneratedTask) -> None:
        self._task = task

    def __len__(self) -> int:
        return -(-self._task.val_sequences // self._task.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        count, size = self._task.val_sequences, self._task.batch_size
        examples = _joined(draw(self._task, 0, block, held_out=True) for block in range(-(-count // BLOCK)))
        for start in range(0, count, size):
            yield pinned(as_batch(examples.rows(slice(start, min(start + size, count)))))


def as_batch(examples: Examples) -> Batch:
    """Tensors under the names of the fields."""
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in examples._asdict().items()}


def _joined(parts: Any) -> Examples:
    return Examples(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _odd_powers(length: int) -> npt.NDArray[np.uint64]:
    """1, g, g^2, ... modulo 2^64 for a large odd g."""
    powers = np.full(length, 0x9E3779B97F4A7C15, dtype=np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)


def octave(distance: Ints) -> Ints:
    """The power of two at or above a number >= 1: 1, 2, 4, 4, 8, ...; how lengths are grouped."""
    return np.left_shift(1, np.ceil(np.log2(np.maximum(distance, 1))).astype(np.int64))
