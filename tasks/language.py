"""Language modelling on packed tokens: what all text tasks share, whatever their documents are.

A task turns documents into two token streams, once per machine (`resbench.tasks.cache`), and serves windows of them
(`resbench.tasks.loader`). Two numbers make losses comparable: the validation bytes a scored token stands for, which turn a
loss per token into bits per byte, and the bits per byte of a model that knows nothing but how often each token occurs in
train: a model has learned something only below that line.
"""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from resbench.tasks.cache import FORMAT, default_cache_dir, load_or_build
from resbench.tasks.corpus import Corpus, CorpusWriter, DocumentSink, Split
from resbench.tasks.encoding import ByteEncoding, Encoding
from resbench.tasks.held_out import HeldOut, ValidationScout
from resbench.tasks.loader import TrainLoader, ValidationLoader, WindowBatches, for_trainer, windows_in
from resbench.tasks.order import WindowOrder
from resbench.tasks.progress import build_progress
from resbench.tasks.task import Task


class LanguageTask(Task):
    """Next-token prediction on a corpus; subclasses say where its documents come from.

    Batches are dicts of CPU tensors ``tokens`` and ``targets``, int64 [batch_size, context_length]; the target of a token is
    the one after it. All targets are scored, the separator that ends each document too: knowing where a text ends is part of
    knowing the text, though it adds no bytes. Attention crosses documents, unless `document_masks` adds ``documents``, int64 of
    the same shape (see `with_documents`).

    Args:
        context_length: tokens per sequence.
        batch_size: sequences per batch and process.
        val_sequences: sequences each validation runs on, taken evenly from all of the validation data: the same ones for
            every model. All there are, if there are fewer.
        cache_dir: where tokens are kept between runs. Default: $RESBENCH_CACHE, or ~/.cache/resbench.
        seed: fixes the order of the training sequences.
        num_workers: processes that load batches; 0 loads them in the training process. It does not change the batches.
        val_fraction: share of the documents held out for validation where the source has no validation split of its own.
        document_masks: keep attention within documents. Costs speed: masked attention has no flash kernel.

    Raises:
        ValueError: a value is out of range; on `setup`, train or validation data are shorter than one sequence.
    """

    name = "language"
    limits: Mapping[Split, int | None]
    """Most bytes of documents each split takes; what is missing has no limit."""

    def __init__(
        self,
        context_length: int = 256,
        batch_size: int = 16,
        val_sequences: int = 64,
        cache_dir: str | None = None,
        seed: int = 0,
        num_workers: int = 0,
        val_fraction: float = 0.05,
        document_masks: bool = False,
    ) -> None:
        super().__init__()
        at_least = {"context_length": (context_length, 1), "batch_size": (batch_size, 1)}
        at_least |= {"val_sequences": (val_sequences, 1), "num_workers": (num_workers, 0)}
        for key, (value, least) in at_least.items():
            if value < least:
                raise ValueError(f"data.init_args.{key}={value}: expected at least {least}")
        if not 0.0 < val_fraction < 1.0:
            raise ValueError(f"data.init_args.val_fraction={val_fraction}: expected a number between 0 and 1")
        self.context_length = context_length
        self.batch_size = batch_size
        self.val_sequences = val_sequences
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir else default_cache_dir()
        self.seed = seed
        self.num_workers = num_workers
        self.val_fraction = val_fraction
        self.document_masks = document_masks
        self.inputs = ("tokens", "documents") if document_masks else ("tokens",)
        self.limits = {}
        self.decontaminate: int | None = None
        self._opened: Corpus | None = None

    # What a subclass says about its documents.

    @abstractmethod
    def recipe(self) -> dict[str, Any]:
        """All the corpus depends on, as far as it can be told without reading the documents; JSON values."""

    @abstractmethod
    def collect(self, corpus: DocumentSink) -> None:
        """Add every document to the corpus, in an order that does not change from run to run."""

    @abstractmethod
    def source(self) -> dict[str, str | int | float]:
        """Where the documents come from, for the record of a run."""

    @cached_property
    def encoding(self) -> Encoding:
        """How documents become tokens: bytes, unless a subclass says otherwise."""
        return ByteEncoding()

    def expected_bytes(self) -> int | None:
        """Bytes of documents `collect` will add, if known, for the progress bar."""
        return None

    # What Lightning calls.

    def prepare_data(self) -> None:
        """Build the corpus if the cache has none; other processes that want it meanwhile wait."""
        self._open()

    def setup(self, stage: str | None = None) -> None:
        """Open the corpus; afterwards everything below is known."""
        corpus = self._open()
        for split, stream in (("train", corpus.train), ("validation", corpus.validation)):
            if windows_in(len(stream), self.context_length) < 1:
                raise ValueError(
                    f"{self.name}: the {split} data have {len(stream)} tokens, fewer than one sequence needs "
                    f"({self.context_length + 1}). Use more text, a smaller data.init_args.context_length, or another "
                    f"data.init_args.val_fraction (now {self.val_fraction})."
                )

    def train_dataloader(self) -> TrainLoader:
        """Endless training batches of this rank, resumable."""
        stream = self._corpus.train
        order = WindowOrder(windows_in(len(stream), self.context_length), self.seed)
        identity: dict[str, str | int] = {
            "data_fingerprint": self.fingerprint,
            "context_length": self.context_length,
            "seed": self.seed,
        }
        batches = WindowBatches(stream, order, self.context_length, self.batch_size, self._separator)
        return for_trainer(self.trainer, batches, self.num_workers, identity)

    def val_dataloader(self) -> ValidationLoader:
        """The validation sequences, in a fixed order, the same on every rank."""
        return ValidationLoader(
            self._corpus.validation, self._val_windows, self.context_length, self.batch_size, self._separator
        )

    @property
    def _separator(self) -> int | None:
        return self.encoding.separator if self.document_masks else None

    # What is known of the data.

    @property
    def vocab_size(self) -> int:  # type: ignore[override]
        """Token ids are below it; known before `setup`."""
        return self.encoding.vocab_size

    @property
    def fingerprint(self) -> str:
        """sha256 of the encoding and of both splits' tokens: equal exactly if two runs had the same data."""
        return self._corpus.fingerprint

    @property
    def train_tokens(self) -> int:
        """Tokens of the train split, separators included."""
        return len(self._corpus.train)

    @property
    def val_tokens(self) -> int:
        """Tokens of the validation split, separators included; `val_dataloader` serves a sample of them."""
        return len(self._corpus.validation)

    @property
    def bytes_per_token(self) -> float:
        """Bytes of text per scored token of the validation sequences; bits per byte = loss / ln 2 / bytes_per_token."""
        return self._validation_sums[0] / self._validation_sums[1]

    @property
    def unigram_bits_per_byte(self) -> float:
        """Bits per byte, on the validation sequences, of predicting each token by its frequency in train.

        Counts are smoothed by adding one to each, so that an unseen token costs a finite number of bits.
        """
        return self._validation_sums[2] / self._validation_sums[0]

    def describe(self) -> dict[str, str | int | float]:
        """What the data are, in plain values, for the record of a run."""
        return {
            "task": self.name,
            **self.source(),
            **self._corpus.facts,
            "encoding": self.encoding.identity,
            "vocab_size": self.vocab_size,
            "train_tokens": self.train_tokens,
            "val_tokens": self.val_tokens,
            "val_sequences": len(self._val_windows),
            "context_length": self.context_length,
            "bytes_per_token": self.bytes_per_token,
            "unigram_bits_per_byte": self.unigram_bits_per_byte,
            "fingerprint": self.fingerprint,
        }

    @property
    def _corpus(self) -> Corpus:
        if self._opened is None:
            raise RuntimeError(f"{type(self).__name__}: the data are not open yet; call setup() first")
        return self._opened

    def _open(self) -> Corpus:
        if self._opened is None:
            parts = {
                "format": FORMAT,
                "encoding": self.encoding.identity,
                "val_fraction": self.val_fraction,
                "recipe": self.recipe(),
            }
            key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]
            self._opened = load_or_build(self.cache_dir, f"{self.name}-{key}", self._build)
        return self._opened

    def _build(self, directory: Path) -> dict[str, Any]:
        with build_progress(f"Reading {self.name}", self.expected_bytes()) as advance:
            held_out: HeldOut | None = None
            if self.decontaminate is not None:
                # Which documents validate must be known before the first training document is judged.
                scout = ValidationScout(self.val_fraction, self.limits, self.decontaminate)
                self.collect(scout)
                held_out = scout.held_out
            corpus = CorpusWriter(directory, self.encoding, self.val_fraction, self.limits, advance, held_out)
            try:
                self.collect(corpus)
                return corpus.finish()
            finally:
                corpus.close()

    @cached_property
    def _val_windows(self) -> "np.ndarray[Any, np.dtype[np.int64]]":
        """Window indices of the validation sequences, evenly spaced over the split."""
        available = windows_in(self.val_tokens, self.context_length)
        count = min(self.val_sequences, available)
        return np.arange(count, dtype=np.int64) * available // count

    @cached_property
    def _validation_sums(self) -> tuple[int, int, float]:
        """Bytes, scored tokens, and bits under the unigram model, over the validation sequences."""
        counts = self._corpus.train_counts
        bits = -np.log2((counts + 1) / (counts.sum() + len(counts)))
        n_bytes, n_bits = 0, 0.0
        for window in self._val_windows.tolist():
            scored = slice(window * self.context_length + 1, (window + 1) * self.context_length + 1)
            n_bytes += int(self._corpus.validation_bytes.array[scored].sum(dtype=np.int64))
            n_bits += float(bits[self._corpus.validation.array[scored]].sum())
        return n_bytes, len(self._val_windows) * self.context_length, n_bits
