"""From the bytes of documents to token ids, and how many bytes each token stands for."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TokenIds = npt.NDArray[Any]
"""One-dimensional, uint16 or uint32."""


class Encoding(Protocol):
    """What a corpus needs to know of a tokenizer."""

    vocab_size: int
    separator: int
    """Id of the token that ends each document."""
    identity: str
    """Equal for two encodings exactly if they turn every document into the same ids."""

    def encode(self, documents: list[bytes], count_bytes: bool) -> tuple[TokenIds, npt.NDArray[np.uint32] | None]:
        """Concatenated ids of the documents, a separator after each, and with `count_bytes` the bytes per id.

        The byte counts of a document's ids add up to its length in UTF-8; a separator's count is zero.
        """


class ByteEncoding:
    """One token per byte; 256 separates documents."""

    vocab_size = 257
    separator = 256
    identity = "bytes"

    def encode(self, documents: list[bytes], count_bytes: bool) -> tuple[TokenIds, npt.NDArray[np.uint32] | None]:
        ids = np.full(sum(map(len, documents)) + len(documents), self.separator, dtype=np.uint16)
        start = 0
        for document in documents:
            ids[start : start + len(document)] = np.frombuffer(document, dtype=np.uint8)
            start += len(document) + 1
        return ids, (ids != self.separator).astype(np.uint32) if count_bytes else None


class TokenizerEncoding:
    """A tokenizer saved by Hugging Face's `tokenizers` as one JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a tokenizer, or has no token called `separator_token`.
    """

    def __init__(self, path: str, separator_token: str) -> None:
        file = Path(path).expanduser()
        if not file.is_file():
            raise FileNotFoundError(
                f"data.init_args.tokenizer: no such file: {path}. Give the path of a tokenizer.json, or `bytes`."
            )
        self._tokenizer = _load(file)
        ids = self._tokenizer.get_vocab(with_added_tokens=True)
        if separator_token not in ids:
            added = [token.content for token in self._tokenizer.get_added_tokens_decoder().values()]
            known = ", ".join(repr(token) for token in added) or "none; add one to the tokenizer first"
            raise ValueError(
                f"data.init_args.separator_token={separator_token!r}: {path} has no such token. "
                f"Its special and added tokens are: {known}"
            )
        self.separator = ids[separator_token]
        self.vocab_size = max(ids.values()) + 1
        self.identity = f"tokenizer {hashlib.sha256(file.read_bytes()).hexdigest()} separator {separator_token}"
        # A stored truncation or padding would cut documents or fill them up, and special tokens spelled out in a
        # document's text must stay text: only this class may place a separator.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True

    def encode(self, documents: list[bytes], count_bytes: bool) -> tuple[TokenIds, npt.NDArray[np.uint32] | None]:
        texts = [document.decode("utf-8", errors="replace") for document in documents]
        dtype = np.uint16 if self.vocab_size <= 1 << 16 else np.uint32
        separator = np.array([self.separator], dtype=dtype)
        ids: list[TokenIds] = []
        counts: list[npt.NDArray[np.uint32]] = []
        # Without offsets, which only the byte counts need, encoding is about twice as fast.
        encode = self._tokenizer.encode_batch if count_bytes else self._tokenizer.encode_batch_fast
        for text, encoded in zip(texts, encode(texts, add_special_tokens=False), strict=True):
            ids += [np.asarray(encoded.ids, dtype=dtype), separator]
            if count_bytes:
                counts += [_bytes_per_id(text, encoded.offsets), np.zeros(1, dtype=np.uint32)]
        empty = np.empty(0, dtype=dtype)
        return np.concatenate([empty, *ids]), np.concatenate([*counts]) if count_bytes and counts else None


def _load(file: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the Rust side raises bare Exception
        raise ValueError(
            f"data.init_args.tokenizer: {file} is not a tokenizer.json of the `tokenizers` library: {error}"
        ) from error


def _bytes_per_id(text: str, offsets: list[tuple[int, int]]) -> npt.NDArray[np.uint32]:
    """UTF-8 bytes of `text` that each id adds: from the end of the ids before it to its own end.

    Characters a tokenizer skips (spaces, say) count for the id after them, or at the end for the last id; of the ids
    that share one character the first gets all its bytes. So the counts add up to the document, whatever the tokenizer.
    """
    if not offsets:
        return np.empty(0, dtype=np.uint32)
    points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    widths = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
    position = np.concatenate([[0], np.cumsum(widths)])
    ends = np.maximum.accumulate(np.asarray(offsets, dtype=np.int64)[:, 1])
    ends[-1] = len(points)
    return np.diff(position[ends], prepend=0).astype(np.uint32)
