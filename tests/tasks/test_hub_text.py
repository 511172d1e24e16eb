"""Text from local files and from the hub: what is read, how it is split, and what is said when it cannot be."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from resbench.tasks import hub_text
from resbench.tasks.hub_text import HubText

SENTENCES = [f"sentence number {i} of this little corpus" for i in range(60)]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may reach for the network: reading local files must not, even to count the use."""

    def refuse(*arguments: object, **named: object) -> None:
        pytest.fail(f"network: {arguments}")

    monkeypatch.setattr("socket.getaddrinfo", refuse)


def make(tmp_path: Path, **arguments: Any) -> HubText:
    defaults = {"context_length": 8, "val_fraction": 0.2, "cache_dir": str(tmp_path / "cache")}
    task = HubText(**{**defaults, **arguments})
    task.prepare_data()
    task.setup("fit")
    return task


def texts(task: HubText) -> tuple[list[str], list[str]]:
    """The documents of train and validation of a byte-level task."""
    split = []
    for stream in (task._corpus.train, task._corpus.validation):
        joined = b"".join(bytes([token]) if token < 256 else b"\0" for token in stream.array.tolist())
        split.append(joined.decode().split("\0")[:-1])
    return split[0], split[1]


def write(path: Path, sentences: list[str], column: str = "text") -> str:
    """A file of the format its name says with one document per sentence."""
    if path.suffix == ".txt":
        path.write_text("\n\n".join(sentences))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({column: s, "number": i}) + "\n" for i, s in enumerate(sentences)))
    elif path.suffix == ".json":
        path.write_text(json.dumps([{column: s, "number": i} for i, s in enumerate(sentences)]))
    else:
        pq.write_table(pa.table({column: sentences, "number": list(range(len(sentences)))}), path)
    return str(path)


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".json", ".parquet"])
def test_every_format_gives_the_same_documents(tmp_path: Path, suffix: str) -> None:
    task = make(tmp_path, data_files=write(tmp_path / f"corpus{suffix}", SENTENCES))
    train, validation = texts(task)
    assert not set(train) & set(validation)
    assert sorted(train + validation) == sorted(SENTENCES)
    assert train == [sentence for sentence in SENTENCES if sentence in set(train)]
    # The hash of a document's content decides, so whatever the file, the same ones are held out.
    assert task.fingerprint == make(tmp_path, data_files=write(tmp_path / "reference.txt", SENTENCES)).fingerprint


def test_documents_of_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n\nthree\nfour\n")
    (tmp_path / "b.txt").write_text("held out text\n")
    expected = {
        "paragraph": ["one\ntwo", "three\nfour\n"],
        "line": ["one", "two", "three", "four"],
        "document": ["one\ntwo\n\nthree\nfour\n"],
    }
    for sample_by, documents in expected.items():
        files = {"data_files": str(tmp_path / "a.txt"), "val_data_files": str(tmp_path / "b.txt")}
        assert texts(make(tmp_path, sample_by=sample_by, **files))[0] == documents


def test_documents_of_both_splits_are_kept_out_of_train(tmp_path: Path) -> None:
    task = make(
        tmp_path,
        data_files=write(tmp_path / "train.jsonl", SENTENCES + SENTENCES),
        val_data_files=write(tmp_path / "validation.jsonl", SENTENCES[:10]),
    )
    assert texts(task) == (SENTENCES[10:], SENTENCES[:10])
    assert task.describe()["duplicates"] == len(SENTENCES) + 10


def test_several_files_and_patterns_in_a_fixed_order(tmp_path: Path) -> None:
    for name, part in (("b", SENTENCES[20:40]), ("a", SENTENCES[:20]), ("c", SENTENCES[40:])):
        write(tmp_path / f"part-{name}.parquet", part)
    by_pattern = make(tmp_path, data_files=str(tmp_path / "part-*.parquet"))
    by_name = make(tmp_path, data_files=[str(tmp_path / f"part-{name}.parquet") for name in "abc"])
    assert by_pattern.fingerprint == by_name.fingerprint
    assert by_pattern.describe()["n_files"] == 3
    train, validation = texts(by_pattern)
    assert sorted(train + validation) == sorted(SENTENCES)


def test_a_directory_of_the_hubs_layout_and_its_validation_split(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "train.jsonl", SENTENCES[:50])
    write(tmp_path / "set" / "validation.jsonl", SENTENCES[50:])
    for streaming in (True, False):
        task = make(tmp_path, path=str(tmp_path / "set"), streaming=streaming, cache_dir=str(tmp_path / str(streaming)))
        assert texts(task) == (SENTENCES[:50], SENTENCES[50:])
    held_out = make(tmp_path, path=str(tmp_path / "set"), split="validation", val_split="train")
    assert texts(held_out) == (SENTENCES[50:], SENTENCES[:50])
    with pytest.raises(ValueError, match=r"data\.init_args\.split='test': .* no such split; it has: train, validation"):
        make(tmp_path, path=str(tmp_path / "set"), split="test")
    with pytest.raises(ValueError, match=r"data\.init_args\.val_split='dev'"):
        make(tmp_path, path=str(tmp_path / "set"), val_split="dev")


def test_reading_stops_at_the_limits(tmp_path: Path) -> None:
    file = write(tmp_path / "corpus.jsonl", SENTENCES)
    train, _ = texts(make(tmp_path, data_files=file, max_train_bytes=500))
    # The document that reaches the limit is whole.
    assert 500 <= sum(map(len, train)) < 500 + max(map(len, SENTENCES))
    _, validation = texts(make(tmp_path, data_files=file, max_val_bytes=50, val_fraction=0.5))
    assert 50 <= sum(map(len, validation)) < 50 + max(map(len, SENTENCES))


def test_rows_without_text_and_lone_surrogates(tmp_path: Path) -> None:
    rows = pa.table({"text": [None, "", *SENTENCES]})
    pq.write_table(rows, tmp_path / "gaps.parquet")
    train, validation = texts(make(tmp_path, data_files=str(tmp_path / "gaps.parquet")))
    assert sorted(train + validation) == sorted(SENTENCES)


def test_the_cache_is_used_until_a_file_or_an_argument_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path(write(tmp_path / "corpus.jsonl", SENTENCES))
    first = make(tmp_path, data_files=str(file))
    reads = []
    original = hub_text.read_files
    monkeypatch.setattr(hub_text, "read_files", lambda *a: reads.append(1) or original(*a))
    assert make(tmp_path, data_files=str(file), batch_size=2).fingerprint == first.fingerprint
    assert not reads
    assert make(tmp_path, data_files=str(file), val_fraction=0.4).fingerprint != first.fingerprint
    write(file, [*SENTENCES, "one more"])
    assert make(tmp_path, data_files=str(file)).fingerprint != first.fingerprint
    assert len(reads) == 2


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    built = Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>"]
    built.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    )
    built.save(str(tmp_path / "tokenizer.json"))
    return str(tmp_path / "tokenizer.json")


def test_bits_per_byte_with_a_tokenizer_are_exact(tmp_path: Path, tokenizer: str) -> None:
    files = {
        "data_files": write(tmp_path / "train.jsonl", SENTENCES[:50]),
        "val_data_files": write(tmp_path / "validation.jsonl", [s + " é東🙂" for s in SENTENCES[50:]]),
    }
    # Windows of one token: each token but the first is scored once.
    task = make(tmp_path, tokenizer=tokenizer, context_length=1, val_sequences=10**6, **files)
    built = Tokenizer.from_file(tokenizer)
    encoded = [built.encode(s + " é東🙂").ids for s in SENTENCES[50:]]
    n_tokens = sum(map(len, encoded)) + len(encoded)
    n_bytes = sum(len((s + " é東🙂").encode()) for s in SENTENCES[50:])
    first_token_bytes = len(built.decode(encoded[0][:1]).encode())
    assert task.val_tokens == n_tokens
    assert task.vocab_size == 320
    assert task.bytes_per_token == (n_bytes - first_token_bytes) / (n_tokens - 1)
    assert task.bytes_per_token > 2  # the tokenizer knows the words of the sentences

    # The separator has its own id and is scored; as a target it stands for no bytes.
    separator = built.token_to_id("<|endoftext|>")
    targets = [t for batch in task.val_dataloader() for row in batch["targets"].tolist() for t in row]
    assert targets.count(separator) == len(encoded)


def test_the_tokenizer_is_part_of_the_fingerprint(tmp_path: Path, tokenizer: str) -> None:
    file = write(tmp_path / "corpus.jsonl", SENTENCES)
    by_bytes = make(tmp_path, data_files=file)
    by_words = make(tmp_path, data_files=file, tokenizer=tokenizer)
    assert by_bytes.fingerprint != by_words.fingerprint
    assert by_words.describe()["train_bytes"] == by_bytes.describe()["train_bytes"]


def test_separator_and_tokenizer_errors(tmp_path: Path, tokenizer: str) -> None:
    file = write(tmp_path / "corpus.jsonl", SENTENCES)
    with pytest.raises(ValueError, match=r"separator_token='</s>'.*<\|endoftext\|>"):
        make(tmp_path, data_files=file, tokenizer=tokenizer, separator_token="</s>")
    with pytest.raises(FileNotFoundError, match=r"data\.init_args\.tokenizer: no such file"):
        make(tmp_path, data_files=file, tokenizer=str(tmp_path / "missing.json"))
    with pytest.raises(ValueError, match=r"data\.init_args\.tokenizer: .* is not a tokenizer\.json"):
        make(tmp_path, data_files=file, tokenizer=file)


def test_missing_files_name_the_key_and_the_path(tmp_path: Path) -> None:
    file = write(tmp_path / "corpus.jsonl", SENTENCES)
    with pytest.raises(FileNotFoundError, match=r"data\.init_args\.data_files: no such file: .*missing\.txt"):
        make(tmp_path, data_files=[file, str(tmp_path / "missing.txt")])
    with pytest.raises(FileNotFoundError, match=r"data\.init_args\.val_data_files: no such file: .*\*\.txt"):
        make(tmp_path, data_files=file, val_data_files=str(tmp_path / "*.txt"))
    with pytest.raises(IsADirectoryError, match=r"data\.init_args\.data_files: .* is a directory"):
        make(tmp_path, data_files=str(tmp_path))
    with pytest.raises(ValueError, match=r"expected path .* or data_files"):
        make(tmp_path)


def test_the_format_must_be_known(tmp_path: Path) -> None:
    (tmp_path / "corpus.log").write_text("\n\n".join(SENTENCES))
    with pytest.raises(ValueError, match=r"data\.init_args\.format: cannot be told from the names of corpus\.log"):
        make(tmp_path, data_files=str(tmp_path / "corpus.log"))
    train, validation = texts(make(tmp_path, data_files=str(tmp_path / "corpus.log"), format="text"))
    assert sorted(train + validation) == sorted(SENTENCES)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_missing_column_lists_those_there_are(tmp_path: Path, suffix: str) -> None:
    file = write(tmp_path / f"corpus{suffix}", SENTENCES, column="content")
    with pytest.raises(
        ValueError, match=r"data\.init_args\.column='text': no such column in .*columns: content, number"
    ):
        make(tmp_path, data_files=file)
    with pytest.raises(ValueError, match=r"data\.init_args\.column='number': .* has int there.*text columns: content"):
        make(tmp_path, data_files=file, column="number")
    train, validation = texts(make(tmp_path, data_files=file, column="content"))
    assert sorted(train + validation) == sorted(SENTENCES)


def test_no_text_at_all(tmp_path: Path) -> None:
    for name in ("empty.txt", "empty.jsonl", "empty.parquet"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(ValueError, match=rf"no text found in .*{name}"):
            make(tmp_path, data_files=str(tmp_path / name))


def test_damaged_files_are_named(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.parquet", SENTENCES)
    truncated = tmp_path / "truncated.parquet"
    truncated.write_bytes(Path(whole).read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"data_files: cannot read .*truncated\.parquet as parquet"):
        make(tmp_path, data_files=[whole, str(truncated)])
    (tmp_path / "broken.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    with pytest.raises(ValueError, match=r"cannot read .*broken\.jsonl as json"):
        make(tmp_path, data_files=str(tmp_path / "broken.jsonl"))
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(ValueError, match=r"cannot read .*latin\.txt as text: .*utf-8"):
        make(tmp_path, data_files=str(tmp_path / "latin.txt"))
    assert not list((tmp_path / "cache" / "tokens").glob("*.building-*"))


def prepare_elsewhere(tmp_path: Path, arguments: dict[str, Any], **environment: str) -> tuple[str, float]:
    """What preparing a task says in a process of its own, for settings that libraries read when they are imported."""
    program = (
        "import json, sys, time\n"
        "from resbench.tasks.hub_text import HubText\n"
        "started = time.monotonic()\n"
        "try:\n"
        "    HubText(**json.loads(sys.argv[1])).prepare_data()\n"
        "    said = 'prepared'\n"
        "except Exception as error:\n"
        "    said = f'{type(error).__name__}: {error}'\n"
        "print(json.dumps([said, time.monotonic() - started]))\n"
    )
    arguments = {"cache_dir": str(tmp_path / "cache"), **arguments}
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    run = subprocess.run(
        [sys.executable, "-c", program, json.dumps(arguments)],
        env={**clean, "HF_HOME": str(tmp_path / "hf"), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    said, seconds = json.loads(run.stdout.splitlines()[-1])
    return said, seconds


def test_an_unreachable_hub_fails_at_once_and_says_what_to_do(tmp_path: Path) -> None:
    # Nothing listens on the discard port of this machine, so that the connection is refused as by an absent network.
    said, seconds = prepare_elsewhere(tmp_path, {"path": "someone/something"}, HF_ENDPOINT="http://127.0.0.1:9")
    assert said.startswith(
        "ConnectionError: data.init_args.path=someone/something: the Hugging Face hub cannot be reached"
    )
    for advice in ("HF_ENDPOINT", "HF_HUB_OFFLINE=1", "data.init_args.data_files", "python-source"):
        assert advice in said
    assert seconds < 30  # with the hub's own patience it would be minutes


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
def test_offline_mode_is_respected(tmp_path: Path, variable: str) -> None:
    said, seconds = prepare_elsewhere(tmp_path, {"path": "someone/something"}, **{variable: "1"})
    assert said.startswith("ConnectionError: data.init_args.path=someone/something: offline mode is on")
    assert "data.init_args.data_files" in said
    assert seconds < 30  # with the hub's own patience it would be minutes


def test_a_cached_corpus_needs_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": sentence} for sentence in SENTENCES]
    monkeypatch.setattr(hub_text, "open_dataset", lambda *arguments: {"train": rows})
    online = make(tmp_path, path="someone/something")
    monkeypatch.setattr(hub_text, "open_dataset", lambda *arguments: pytest.fail("asked the hub"))
    started = time.process_time()
    assert make(tmp_path, path="someone/something").fingerprint == online.fingerprint
    assert time.process_time() - started < 0.2


def test_a_name_that_is_no_name(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"data\.init_args\.path=no/such/place: no such directory, nor a name on the hub"
    ):
        make(tmp_path, path="no/such/place")
