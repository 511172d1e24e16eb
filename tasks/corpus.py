"""A corpus on disk: packed token streams of two splits, what they were made of, and the writer that makes them."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from resbench.tasks.encoding import Encoding
from resbench.tasks.held_out import HeldOut, digest, hash_holds_out, key

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")

FLUSH_BYTES = 1 << 20
"""Documents are encoded and written this many bytes at a time: enough to keep a tokenizer's threads busy."""


@dataclass
class MappedArray:
    """A one-dimensional array in a file, mapped on first use in each process, so that workers share it for free."""

    path: Path
    dtype: str
    length: int
    _map: npt.NDArray[Any] | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return self.length

    @property
    def array(self) -> npt.NDArray[Any]:
        if self._map is None:
            # An empty file cannot be mapped.
            self._map = np.memmap(self.path, self.dtype, "r") if self.length else np.empty(0, self.dtype)
        return self._map

    def __getstate__(self) -> dict[str, Any]:
        # A pickled memmap is a copy of the whole file.
        return {**self.__dict__, "_map": None}


@dataclass(frozen=True)
class Corpus:
    """An opened corpus.

    Attributes:
        train, validation: token ids in document order, a separator after each document; uint16 or uint32.
        validation_bytes: UTF-8 bytes each validation token stands for; uint8 or uint32.
        train_counts: [vocab_size] int64, how often each id occurs in train.
        vocab_size: ids are below it.
        fingerprint: sha256 of the encoding and of both splits' tokens.
        facts: numbers and names about the corpus: documents, bytes, duplicates...
    """

    train: MappedArray
    validation: MappedArray
    validation_bytes: MappedArray
    train_counts: npt.NDArray[np.int64]
    vocab_size: int
    fingerprint: str
    facts: dict[str, str | int]
    held_out_fraction: float = 0.0
    """Share of all documents that a hash held out; 0 where the source has a validation split of its own."""

    @property
    def directory(self) -> Path:
        """Where its files are."""
        return self.train.path.parent


class DocumentSink(Protocol):
    """What a task adds its documents to."""

    documents: Any
    """Documents kept so far, by split."""

    def add(self, document: bytes, split: Split | None = None) -> object: ...
    def is_full(self, split: Split) -> bool: ...


class CorpusWriter:
    """Deduplicates documents, gives each a split, encodes them and appends them to the files of a corpus.

    Documents that are equal byte for byte are kept once. A document given no split gets it from its content's hash, so
    that it is on the same side in every corpus, whatever else is in it.

    Args:
        directory: existing, empty; the files are written there.
        encoding: turns documents into ids.
        val_fraction: expected share of the documents without a split that go to validation.
        limits: documents for a split that has reached its limit of bytes are dropped.
        on_document: told the length in bytes of each document offered.
        held_out: the validation documents, found in a pass before this one; training documents that overlap with them are dropped.
    """

    def __init__(
        self,
        directory: Path,
        encoding: Encoding,
        val_fraction: float,
        limits: Mapping[Split, int | None] | None = None,
        on_document: Callable[[int], None] | None = None,
        held_out: HeldOut | None = None,
    ) -> None:
        self._directory = directory
        self._encoding = encoding
        self._val_fraction = val_fraction
        self._limits: Mapping[Split, int | None] = limits or {}
        self._on_document = on_document
        self._scouted = held_out
        self._held_out = HeldOut() if held_out is None else held_out
        self._by_hash = False
        self._seen: set[bytes] = set()
        self._pending: dict[Split, list[bytes]] = {split: [] for split in SPLITS}
        self._pending_bytes: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        self._files = {split: (directory / f"{split}.bin").open("wb") for split in SPLITS}
        self._bytes_file = (directory / "validation_bytes.bin").open("wb")
        self._digests = {split: hashlib.sha256() for split in SPLITS}
        self._tokens: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        self._train_counts = np.zeros(encoding.vocab_size, dtype=np.int64)
        self._dtype = "<u2" if encoding.vocab_size <= 1 << 16 else "<u4"
        # A byte-level token is one byte; a tokenizer's may be a long run of spaces.
        self._count_dtype = "<u1" if encoding.identity == "bytes" else "<u4"
        self.documents: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        self.bytes: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        self.duplicates = 0
        self.contaminated = 0

    def add(self, document: bytes, split: Split | None = None) -> Split | None:
        """Append one document of UTF-8; the split it went to, or None if it is empty, was seen before or has no room."""
        if self._on_document is not None:
            self._on_document(len(document))
        if not document:
            return None
        digested = digest(document)
        if digested in self._seen:
            self.duplicates += 1
            return None
        if split is None:
            self._by_hash = True
            split = "validation" if hash_holds_out(digested, self._val_fraction) else "train"
        if self.is_full(split):
            return None
        if self._scouted is not None:
            known = key(digested) in self._scouted.documents
            if split == "validation" and not known:  # behind the point the first pass reached
                return None
            if split == "train" and self._scouted.excludes(document):
                self.contaminated += 1
                return None
        elif split == "validation":
            self._held_out.add(document)
        self._seen.add(digested)
        self._pending[split].append(document)
        self._pending_bytes[split] += len(document)
        self.documents[split] += 1
        self.bytes[split] += len(document)
        if self._pending_bytes[split] >= FLUSH_BYTES:
            self._flush(split)
        return split

    def is_full(self, split: Split) -> bool:
        """Whether the split has reached its limit of bytes."""
        limit = self._limits.get(split)
        return limit is not None and self.bytes[split] >= limit

    def finish(self) -> dict[str, Any]:
        """Write what is pending and close the files; the description that `open_corpus` needs."""
        for split in SPLITS:
            self._flush(split)
        self.close()
        np.save(self._directory / "train_counts.npy", self._train_counts)
        self._held_out.save(self._directory)
        identity = json.dumps([self._encoding.identity, self._encoding.vocab_size, self._encoding.separator])
        fingerprint = hashlib.sha256(identity.encode())
        for split in SPLITS:
            fingerprint.update(self._digests[split].digest())
        facts = {f"{split}_{what}": getattr(self, what)[split] for what in ("documents", "bytes") for split in SPLITS}
        return {
            "vocab_size": self._encoding.vocab_size,
            "fingerprint": fingerprint.hexdigest(),
            "token_dtype": self._dtype,
            "count_dtype": self._count_dtype,
            "tokens": self._tokens,
            "facts": {**facts, "duplicates": self.duplicates, "contaminated": self.contaminated},
            "held_out_fraction": self._val_fraction if self._by_hash else 0.0,
        }

    def close(self) -> None:
        """Close the files without finishing them."""
        for file in (*self._files.values(), self._bytes_file):
            file.close()

    def _flush(self, split: Split) -> None:
        documents, self._pending[split], self._pending_bytes[split] = self._pending[split], [], 0
        if not documents:
            return
        ids, counts = self._encoding.encode(documents, count_bytes=split == "validation")
        raw = ids.astype(self._dtype, copy=False).tobytes()
        self._files[split].write(raw)
        self._digests[split].update(raw)
        self._tokens[split] += len(ids)
        if split == "train":
            self._train_counts += np.bincount(ids, minlength=len(self._train_counts))
        if counts is not None:
            self._bytes_file.write(counts.astype(self._count_dtype).tobytes())


def open_corpus(directory: Path, description: dict[str, Any]) -> Corpus:
    """The corpus whose files are in `directory`, from what `CorpusWriter.finish` said about it."""
    tokens, dtype = description["tokens"], description["token_dtype"]
    return Corpus(
        train=MappedArray(directory / "train.bin", dtype, tokens["train"]),
        validation=MappedArray(directory / "validation.bin", dtype, tokens["validation"]),
        validation_bytes=MappedArray(
            directory / "validation_bytes.bin", description["count_dtype"], tokens["validation"]
        ),
        train_counts=np.load(directory / "train_counts.npy"),
        vocab_size=description["vocab_size"],
        fingerprint=description["fingerprint"],
        facts=description["facts"],
        held_out_fraction=description["held_out_fraction"],
    )
