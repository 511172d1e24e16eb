"""What must never be trained on: the validation documents, documents a hash holds out, and whatever shares a run of words with validation."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from resbench.tasks.overlap import NgramSet

FILES = ("validation_documents.npy", "validation_ngrams.npy")


def digest(document: bytes) -> bytes:
    """16 bytes that stand for a document's content."""
    return hashlib.blake2b(document, digest_size=16).digest()


def hash_holds_out(digested: bytes, fraction: float) -> bool:
    """Whether a document without a split is for validation: a share of ``fraction``, by its content alone."""
    return int.from_bytes(digested[:8], "little") < fraction * 2.0**64


@dataclass
class HeldOut:
    """What a training document is compared with.

    Attributes:
        documents: first 64 bits of the digests of validation documents.
        fraction: of all documents, held out by hash; 0 where the source has a validation split.
        ngrams: runs of words of validation documents; None to compare whole documents only.
    """

    documents: set[int] = field(default_factory=set)
    fraction: float = 0.0
    ngrams: NgramSet | None = None

    def add(self, document: bytes) -> None:
        """A validation document."""
        self.documents.add(key(digest(document)))
        if self.ngrams is not None:
            self.ngrams.add(document)

    def excludes(self, document: bytes) -> bool:
        """Whether a document must not be trained on."""
        digested = digest(document)
        if hash_holds_out(digested, self.fraction) or key(digested) in self.documents:
            return True
        return self.ngrams is not None and self.ngrams.overlaps(document)

    def save(self, directory: Path) -> None:
        """Write the sets beside a corpus; `fraction` and n are kept by whoever opens them."""
        np.save(directory / FILES[0], np.array(sorted(self.documents), dtype=np.uint64))
        if self.ngrams is not None:
            self.ngrams.save(directory / FILES[1])

    @classmethod
    def open(cls, directory: Path, fraction: float, n: int | None) -> "HeldOut":
        """What `save` wrote."""
        documents = set(np.load(directory / FILES[0]).tolist())
        return cls(documents, fraction, NgramSet.load(directory / FILES[1], n) if n is not None else None)


class ValidationScout:
    """Takes documents as a `CorpusWriter` does and remembers those it would validate on; a first pass over the source."""

    def __init__(self, val_fraction: float, limits: Mapping[Any, int | None], n: int) -> None:
        self.held_out = HeldOut(ngrams=NgramSet(n))
        self._val_fraction, self._limits = val_fraction, limits
        self._bytes = {"train": 0, "validation": 0}
        self._given = False
        self.documents: dict[str, int] = {"train": 0, "validation": 0}

    def add(self, document: bytes, split: str | None = None) -> None:
        """One document, with its split or without."""
        self._given |= split == "train"
        if not document:
            return
        if split is None:
            split = "validation" if hash_holds_out(digest(document), self._val_fraction) else "train"
        if not self.is_full(split):
            self._bytes[split] += len(document)
            self.documents[split] += 1
            if split == "validation":
                self.held_out.add(document)

    def is_full(self, split: str) -> bool:
        """Whether further documents of a split make no difference: training documents the source itself marks as such do not."""
        limit = self._limits.get(split)
        return (split == "train" and self._given) or (limit is not None and self._bytes[split] >= limit)


def key(digested: bytes) -> int:
    """The first 64 bits of a digest."""
    return int.from_bytes(digested[:8], "little")
