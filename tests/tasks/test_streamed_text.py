"""Streaming while training: every row once, resumed at the exact sequence by ranks and workers, nothing of validation in train."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from resbench.tasks.held_out import digest, hash_holds_out
from resbench.tasks.hub_text import HubText
from resbench.tasks.overlap import NgramSet, ngrams
from resbench.tasks.stream import GROUP, PackedStream, Position
from resbench.tasks.streamed_text import StreamedText

FILES, ROWS = 4, 150


def document(file: int, row: int) -> str:
    return f"[{file}.{row}] " + " ".join(f"w{(file * 7919 + row * 104729 + k * k) % 9973}" for k in range(row % 40 + 1))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four Parquet files of 150 documents, no two alike, and one of ten documents to validate on."""
    folder = tmp_path_factory.mktemp("shards")
    for file in range(FILES):
        texts = [document(file, row) for row in range(ROWS)]
        pq.write_table(pa.table({"text": texts, "n": list(range(ROWS))}), folder / f"{file}.parquet", row_group_size=40)
    pq.write_table(pa.table({"text": [document(9, row) for row in range(10, 20)]}), folder / "validation.parquet")
    return folder


@pytest.fixture
def make(shards: Path, tmp_path: Path) -> Any:
    def task(**arguments: Any) -> StreamedText:
        defaults: dict[str, Any] = {
            "data_files": str(shards / "[0-9].parquet"),
            "val_data_files": str(shards / "validation.parquet"),
            "cache_dir": str(tmp_path / "cache"),
            "context_length": 16,
            "batch_size": 4,
            "shuffle_block": 10,
            "max_train_bytes": 5000,
        }
        made = StreamedText(**{**defaults, **arguments})
        made.prepare_data()
        made.setup("fit")
        return made

    return task


def rows_of(batches: Any, count: int) -> list[list[int]]:
    return [row for batch in islice(batches, count) for row in batch["tokens"].tolist()]


def texts(task: StreamedText, index: int, count: int) -> list[str]:
    stream = task.opener()(index, count, Position())
    found: list[str] = []
    for number, _, tokens in stream._groups(0, None):
        if number > 0:
            return found
        found += bytes(np.where(tokens < 256, tokens, 10).astype(np.uint8)).decode().split("\n")[:-1]
    raise AssertionError


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])  # six parts of four files: by rows
def test_the_parts_of_all_ranks_and_workers_hold_every_document_once(make: Any, count: int) -> None:
    parts = [texts(make(), index, count) for index in range(count)]
    assert sorted(text for part in parts for text in part) == sorted(
        document(f, r) for f in range(FILES) for r in range(ROWS)
    )
    assert min(map(len, parts)) > 0.9 * FILES * ROWS / count - 40


def test_an_epoch_of_sequences_is_the_text_shuffled_within_blocks(make: Any) -> None:
    task = make()
    stream = iter(task.opener()(0, 1, Position()))
    blocks = [[next(stream)[0] for _ in range(10)] for _ in range(8)]
    flat = np.concatenate(
        [tokens for number, _, tokens in islice(task.opener()(0, 1, Position())._groups(0, None), 12) if number == 0]
    )
    for b, block in enumerate(blocks):
        in_order = [flat[(10 * b + i) * 16 : (10 * b + i) * 16 + 17] for i in range(10)]
        assert sorted(map(bytes, block)) == sorted(map(bytes, in_order))
        assert [bytes(s) for s in block] != [bytes(s) for s in in_order]


@pytest.mark.parametrize(("workers", "stop"), [(0, 1), (0, 7), (0, 23), (0, 1500), (2, 7), (2, 12)])
def test_a_run_goes_on_at_the_exact_sequence(make: Any, workers: int, stop: int) -> None:
    whole = rows_of(make(num_workers=workers).train_dataloader(), stop + 8)
    first = make(num_workers=workers).train_dataloader()
    assert rows_of(first, stop) == whole[: 4 * stop]
    state = json.loads(json.dumps(first.state_dict()))  # as a file would hold it
    assert state["batches"] == stop
    again = make(num_workers=workers).train_dataloader()
    again.load_state_dict(state)
    assert rows_of(again, 8) == whole[4 * stop :]


def test_batches_trained_on_count_and_not_those_fetched_ahead(make: Any) -> None:
    trained = 0
    loader = make(num_workers=2).train_dataloader()
    loader._trained_batches = lambda: trained
    loader._begin([Position()] * 2, 0)
    whole = []
    for batch in islice(loader, 9):
        whole.append(batch["tokens"].tolist())
        trained = max(0, len(whole) - 2)  # the trainer is two batches behind what it fetched
    state = loader.state_dict()
    assert state["batches"] == 7
    again = make(num_workers=2).train_dataloader()
    again.load_state_dict(state)
    assert [batch["tokens"].tolist() for batch in islice(again, 2)] == whole[7:9]


def test_workers_share_the_data_between_them(make: Any) -> None:
    batches = list(islice(make(num_workers=2).train_dataloader(), 6))
    alone = [rows_of(_alone(make(), index), 3) for index in range(2)]
    assert [b["tokens"].tolist() for b in batches[0::2]] == [alone[0][i : i + 4] for i in (0, 4, 8)]
    assert [b["tokens"].tolist() for b in batches[1::2]] == [alone[1][i : i + 4] for i in (0, 4, 8)]


def _alone(task: StreamedText, index: int) -> Any:
    rows = [
        torch.from_numpy(tokens[:-1].astype(np.int64)) for tokens, _ in islice(task.opener()(index, 2, Position()), 12)
    ]
    return ({"tokens": torch.stack(rows[i : i + 4])} for i in range(0, 12, 4))


def test_targets_are_the_next_tokens_and_documents_are_numbered(make: Any) -> None:
    batch = next(iter(make(document_masks=True).train_dataloader()))
    assert torch.equal(batch["tokens"][:, 1:], batch["targets"][:, :-1])
    separators = batch["tokens"] == 256
    assert separators.any()
    assert torch.equal(batch["documents"], separators.long().cumsum(1))


def test_another_number_of_workers_is_refused(make: Any) -> None:
    state = make().train_dataloader().state_dict()
    with pytest.raises(ValueError, match="written with workers=1, this run has workers=2"):
        make(num_workers=2).train_dataloader().load_state_dict(state)


# Decontamination.


def test_ngrams_are_runs_of_words() -> None:
    assert len(ngrams(b"the cat sat on the mat", 4)) == 3
    assert ngrams(b"The cat, sat -- ON the mat!", 4).tolist() == ngrams(b"the cat sat on the mat", 4).tolist()
    assert len(set(ngrams("über den Wolken über den".encode(), 2).tolist())) == 3  # one run of two occurs twice
    assert len(ngrams(b"one two", 5)) == 1
    assert len(ngrams(b"...", 5)) == 0


def test_overlap_is_a_shared_run_and_nothing_less() -> None:
    known = NgramSet(3)
    known.add(b"a quick brown fox jumps")
    known.add(b"two words")
    assert known.overlaps(b"See: the QUICK BROWN FOX!")
    assert not known.overlaps(b"a quick fox jumps brown")
    assert known.overlaps(b"two words")
    assert not known.overlaps(b"two words more")  # the short document matches as a whole only
    assert not NgramSet(3).overlaps(b"anything at all here")


def test_overlap_agrees_with_sets_of_tuples() -> None:
    rng = np.random.default_rng(0)
    documents = [b" ".join(b"%d" % word for word in rng.integers(12, size=30)) for _ in range(60)]
    known, slow = NgramSet(4), set[tuple[bytes, ...]]()
    for doc in documents[:10]:
        known.add(doc)
        slow |= set(zip(*(doc.split()[i:] for i in range(4)), strict=False))
    expected = [bool(slow & set(zip(*(doc.split()[i:] for i in range(4)), strict=False))) for doc in documents[10:]]
    assert [known.overlaps(doc) for doc in documents[10:]] == expected
    assert 5 < sum(expected) < 45


SENTENCE = "here are thirteen words in a row that no other document has at all today"


@pytest.mark.parametrize("streamed", [True, False])
def test_no_training_document_shares_a_run_with_validation(shards: Path, tmp_path: Path, streamed: bool) -> None:
    clean = [document(1, row) for row in range(60)]
    pq.write_table(
        pa.table({"text": [*clean, f"prefix {SENTENCE.upper()} suffix", SENTENCE[:30]]}), tmp_path / "t.parquet"
    )
    pq.write_table(pa.table({"text": [document(9, 3), SENTENCE, clean[7]]}), tmp_path / "v.parquet")
    kind = StreamedText if streamed else HubText
    arguments: dict[str, Any] = {
        "data_files": str(tmp_path / "t.parquet"),
        "val_data_files": str(tmp_path / "v.parquet"),
    }
    task = kind(**arguments, decontaminate=13, context_length=8, cache_dir=str(tmp_path / "cache"))
    task.prepare_data()
    task.setup("fit")
    expected = sorted({*clean, SENTENCE[:30]} - {clean[7]})
    if isinstance(task, StreamedText):
        assert sorted(texts(task, 0, 1)) == expected
    else:
        train = bytes(np.where(task._corpus.train.array < 256, task._corpus.train.array, 10).astype(np.uint8)).decode()
        assert sorted(train.split("\n")[:-1]) == expected
    assert task.describe()["contaminated"] == 1  # the one with the sentence in it
    assert task.describe()["duplicates"] == 1  # the one that is in both
    assert task.describe()["validation_documents"] == 3


def test_without_a_validation_split_a_hash_holds_documents_out_of_the_stream(make: Any) -> None:
    task = make(val_data_files=None, val_fraction=0.2, max_train_bytes=10**6, decontaminate=None)
    everything = [document(f, r) for f in range(FILES) for r in range(ROWS)]
    expected = sorted(text for text in everything if not hash_holds_out(digest(text.encode()), 0.2))
    assert sorted(texts(task, 0, 1)) == expected
    assert 0.7 * len(everything) < len(expected) < 0.9 * len(everything)
    assert task.describe()["validation_documents"] == len(everything) - len(expected)


def test_validation_is_not_cut_short_with_the_sample_of_train(make: Any) -> None:
    small = make(val_data_files=None, val_fraction=0.2, max_train_bytes=200, max_val_bytes=8000).describe()
    assert 200 <= small["train_bytes"] < 1000
    assert small["validation_bytes"] >= 8000


# A tokenizer of one's own.


def test_a_tokenizer_is_trained_once_and_has_the_size_asked_for(make: Any, tmp_path: Path) -> None:
    task = make(tokenizer="bpe:400")
    assert task.vocab_size == 400
    (file,) = (tmp_path / "cache" / "tokenizers").glob("*.json")
    written = file.stat().st_mtime_ns
    tokens = next(iter(task.train_dataloader()))["tokens"]
    assert tokens.max() < 400
    assert (tokens > 257).any()  # merges are used
    from tokenizers import Tokenizer

    decoded = Tokenizer.from_file(str(file)).decode(tokens[0].tolist(), skip_special_tokens=True)
    assert decoded in " ".join(document(f, r) for f in range(FILES) for r in range(ROWS)) or "[" in decoded
    again = make(tokenizer="bpe:400")
    assert again.fingerprint == task.fingerprint
    assert file.stat().st_mtime_ns == written
    # the tokenizer has fewer bytes to say the same
    assert task.bytes_per_token > 1.5


@pytest.mark.parametrize("asked", ["bpe:", "bpe:12", "bpe:lots"])
def test_an_impossible_vocabulary_is_refused(make: Any, asked: str) -> None:
    with pytest.raises(ValueError, match=r"data\.init_args\.tokenizer=.*expected bpe:SIZE"):
        make(tokenizer=asked)


# What can be wrong with the data.


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_is_cut_short_is_named(make: Any, shards: Path, tmp_path: Path, workers: int) -> None:
    whole = (shards / "0.parquet").read_bytes()
    (tmp_path / "0.parquet").write_bytes(whole)
    (tmp_path / "1.parquet").write_bytes(whole[: len(whole) // 2])
    task = make(data_files=str(tmp_path / "[01].parquet"), num_workers=workers, max_train_bytes=500)
    with pytest.raises(ValueError, match=r"reading .*1\.parquet failed: .*[Pp]arquet"):
        for _ in islice(task.train_dataloader(), 5000):
            pass


def test_a_missing_column_is_named_with_those_there_are(make: Any) -> None:
    with pytest.raises(ValueError, match=r"column='body': no such column in .*parquet; its columns: text"):
        make(column="body")


def test_a_part_without_text_is_an_error_and_not_an_endless_wait() -> None:
    class Nothing:
        def iter(self, batch_size: int) -> Any:
            assert batch_size == GROUP
            return iter([[b"", b""]])

        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state: dict[str, Any]) -> None: ...

    stream = PackedStream(Nothing, lambda documents: np.empty(0, dtype=np.uint16), 8, 4, 0, Position())
    with pytest.raises(ValueError, match="no text to train on"):
        next(iter(stream))
