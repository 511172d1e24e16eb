"""Corpora: what the writer keeps, where it puts it, and what the fingerprint stands for."""

import pickle
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from resbench.tasks import corpus as corpus_module
from resbench.tasks.corpus import Corpus, CorpusWriter, Split, open_corpus
from resbench.tasks.encoding import ByteEncoding


def write(directory: Path, documents: Iterable[tuple[bytes, Split | None]], val_fraction: float = 0.3) -> Corpus:
    directory.mkdir()
    writer = CorpusWriter(directory, ByteEncoding(), val_fraction)
    for document, split in documents:
        writer.add(document, split)
    return open_corpus(directory, writer.finish())


def documents_of(stream: np.ndarray) -> list[bytes]:
    """A token stream taken apart at its separators."""
    assert stream[-1] == 256
    ends = np.flatnonzero(stream == 256)
    starts = np.concatenate([[0], ends[:-1] + 1])
    return [bytes(stream[s:e].astype(np.uint8)) for s, e in zip(starts, ends, strict=True)]


def numbered(n: int) -> list[tuple[bytes, Split | None]]:
    return [(b"document %d" % i, None) for i in range(n)]


def test_each_document_is_once_in_one_split_in_the_given_order(tmp_path: Path) -> None:
    offered = [*numbered(400), *numbered(400), (b"", None)]
    corpus = write(tmp_path / "c", offered)
    train, validation = documents_of(corpus.train.array), documents_of(corpus.validation.array)
    assert not set(train) & set(validation)
    assert len(train) + len(validation) == 400
    in_order = [document for document, _ in numbered(400)]
    assert train == [d for d in in_order if d in set(train)]
    # Binomial with n = 400 and p = 0.3: mean 120, standard deviation 9.2.
    assert abs(len(validation) - 120) < 5 * 9.2
    assert corpus.facts["duplicates"] == 400
    assert corpus.facts["train_documents"] == len(train)
    assert corpus.facts["validation_bytes"] == sum(map(len, validation))


def test_a_documents_split_does_not_depend_on_the_others(tmp_path: Path) -> None:
    small = documents_of(write(tmp_path / "small", numbered(100)).validation.array)
    large = documents_of(write(tmp_path / "large", reversed(numbered(300))).validation.array)
    assert set(small) == set(large) & {document for document, _ in numbered(100)}


def test_a_document_of_both_source_splits_stays_where_it_came_first(tmp_path: Path) -> None:
    both: list[tuple[bytes, Split | None]] = [(b"same", "validation"), (b"same", "train"), (b"other", "train")]
    corpus = write(tmp_path / "c", both)
    assert documents_of(corpus.train.array) == [b"other"]
    assert documents_of(corpus.validation.array) == [b"same"]


def test_fingerprint_changes_exactly_with_the_tokens_and_their_split(tmp_path: Path) -> None:
    plain: list[tuple[bytes, Split | None]] = [(b"ab", "train"), (b"cd", "train"), (b"ef", "validation")]
    base = write(tmp_path / "base", plain).fingerprint
    assert write(tmp_path / "again", plain).fingerprint == base
    assert write(tmp_path / "duplicate", [*plain, (b"ab", "train")]).fingerprint == base
    others: list[list[tuple[bytes, Split | None]]] = [
        [(b"ax", "train"), (b"cd", "train"), (b"ef", "validation")],
        [(b"cd", "train"), (b"ab", "train"), (b"ef", "validation")],
        [(b"ab", "train"), (b"cd", "validation"), (b"ef", "validation")],
        [(b"abcd", "train"), (b"ef", "validation")],
    ]
    prints = {write(tmp_path / f"other{i}", other).fingerprint for i, other in enumerate(others)}
    assert len(prints) == len(others)
    assert base not in prints


def test_flushing_in_pieces_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write(tmp_path / "whole", numbered(50))
    monkeypatch.setattr(corpus_module, "FLUSH_BYTES", 30)
    pieces = write(tmp_path / "pieces", numbered(50))
    assert pieces.fingerprint == whole.fingerprint
    assert np.array_equal(pieces.train_counts, whole.train_counts)
    assert np.array_equal(pieces.validation_bytes.array, whole.validation_bytes.array)


def test_train_counts_are_the_tokens_counted(tmp_path: Path) -> None:
    corpus = write(tmp_path / "c", [(b"aab", "train"), (b"zzz", "validation"), (b"b", "train")])
    assert dict(
        zip(*np.nonzero([corpus.train_counts])[1:], corpus.train_counts[corpus.train_counts > 0], strict=True)
    ) == {
        ord("a"): 2,
        ord("b"): 2,
        256: 2,
    }


def test_limits_stop_a_split_after_the_document_that_reaches_them(tmp_path: Path) -> None:
    writer = CorpusWriter(tmp_path, ByteEncoding(), 0.5, limits={"train": 5, "validation": None})
    assert [writer.add(d, "train") for d in (b"abc", b"def", b"ghi")] == ["train", "train", None]
    assert writer.is_full("train")
    assert not writer.is_full("validation")
    assert writer.add(b"ghi", "validation") == "validation"
    assert writer.finish()["tokens"] == {"train": 8, "validation": 4}


def test_a_mapped_array_travels_to_workers_without_its_content(tmp_path: Path) -> None:
    corpus = write(tmp_path / "c", [(bytes(10**5), "train"), (b"x", "validation")])
    assert len(corpus.train.array) == 10**5 + 1
    pickled = pickle.dumps(corpus.train)
    assert len(pickled) < 1000
    assert np.array_equal(pickle.loads(pickled).array, corpus.train.array)
