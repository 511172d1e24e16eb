"""Decontamination: training documents that share a run of n words with the validation documents are left out.

As in Brown et al. 2020 (GPT-3, arXiv 2005.14165, appendix C): words are lower-case runs of letters, digits and non-ASCII characters, n is 13 there.
Documents shorter than n words are compared as a whole. A run is kept as 64 bits, so a false match costs a document once in about 10^12 runs.
"""

import re
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

WORD = re.compile(rb"[\w\x80-\xff]+")
FILTER_BITS = 24
"""The first look is at a table of 2^24 bits by a part of the hash; only what it lets through is searched for."""

Hashes = npt.NDArray[np.uint64]


class NgramSet:
    """The runs of ``n`` words of some documents."""

    def __init__(self, n: int, hashes: Hashes | None = None) -> None:
        self.n = n
        self._parts: list[Hashes] = [] if hashes is None else [hashes]
        self._sorted: Hashes | None = None
        self._filter = np.zeros(0, dtype=bool)

    def add(self, document: bytes) -> None:
        """Remember a document's runs."""
        self._parts.append(ngrams(document, self.n))
        self._sorted = None

    def overlaps(self, document: bytes) -> bool:
        """Whether the document shares a run with any document added."""
        known = self.hashes()
        asked = ngrams(document, self.n)
        asked = asked[self._filter[asked >> np.uint64(64 - FILTER_BITS)]]
        if not len(asked) or not len(known):
            return False
        at = np.minimum(np.searchsorted(known, asked), len(known) - 1)
        return bool((known[at] == asked).any())

    def hashes(self) -> Hashes:
        """All runs, sorted, each once."""
        if self._sorted is None:
            self._sorted = np.unique(np.concatenate([np.empty(0, dtype=np.uint64), *self._parts]))
            self._parts = [self._sorted]
            self._filter = np.zeros(1 << FILTER_BITS, dtype=bool)
            self._filter[self._sorted >> np.uint64(64 - FILTER_BITS)] = True
        return self._sorted

    def save(self, path: Path) -> None:
        """Write the runs to a file that `load` reads."""
        np.save(path, self.hashes())

    @classmethod
    def load(cls, path: Path, n: int) -> "NgramSet":
        """The runs in a file."""
        return cls(n, np.load(path))


def ngrams(document: bytes, n: int) -> Hashes:
    """Hashes of all runs of n words; of a shorter document, the hash of all its words."""
    words = WORD.findall(document.lower())
    codes = np.fromiter(map(zlib.crc32, words), dtype=np.uint64, count=len(words))
    if not len(codes):
        return codes
    n = min(n, len(codes))
    powers = np.full(n, 0x9E3779B97F4A7C15, dtype=np.uint64)
    powers[0] = 1
    runs = np.lib.stride_tricks.sliding_window_view(codes, n) @ np.multiply.accumulate(powers)  # wraps
    runs ^= runs >> np.uint64(31)
    return (runs * np.uint64(0xBF58476D1CE4E5B9)) ^ np.uint64(n)
