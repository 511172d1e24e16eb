"""Tokens and the bytes they stand for."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from resbench.tasks.encoding import ByteEncoding, TokenizerEncoding

TEXTS = [
    "the cat sat on the mat",
    "naïve café, 東京 and 🙂🙂 too",
    "  spaces   and\n\ttabs  ",
    "the end<|end|>of the cat",
]


@pytest.fixture
def byte_level(tmp_path: Path) -> str:
    """A byte-level BPE tokenizer, of the kind GPT-2 has, trained on TEXTS."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXTS[:3], trainers.BpeTrainer(vocab_size=300, special_tokens=["<|end|>"], initial_alphabet=alphabet)
    )
    # As many published tokenizers have it: documents would be cut at 8 tokens if this were obeyed.
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return str(tmp_path / "tokenizer.json")


@pytest.fixture
def lossy(tmp_path: Path) -> str:
    """A tokenizer that lower-cases, drops spaces and knows few words."""
    tokenizer = Tokenizer(models.WordLevel({"the": 0, "cat": 1, "<unk>": 2, "</s>": 9}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "lossy.json"))
    return str(tmp_path / "lossy.json")


def test_bytes_are_tokens_and_256_ends_a_document() -> None:
    ids, counts = ByteEncoding().encode([b"a\xff", b"", b"\x00"], count_bytes=True)
    assert ids.tolist() == [97, 255, 256, 256, 0, 256]
    assert counts is not None
    assert counts.tolist() == [1, 1, 0, 0, 1, 0]


def test_bytes_per_id_of_a_byte_level_tokenizer_are_those_of_its_tokens(byte_level: str) -> None:
    encoding = TokenizerEncoding(byte_level, "<|end|>")
    documents = [text.encode() for text in TEXTS]
    ids, counts = encoding.encode(documents, count_bytes=True)
    assert counts is not None
    ends = np.flatnonzero(ids == encoding.separator)
    assert len(ends) == len(documents)  # the separator spelled out in the last text is text
    assert (counts[ends] == 0).all()
    of_document = np.add.reduceat(counts, np.concatenate([[0], ends[:-1] + 1]))
    assert of_document.tolist() == [len(document) for document in documents]
    # In ASCII text a token's characters are its bytes, so that they can be read off the vocabulary.
    vocabulary = Tokenizer.from_file(byte_level)
    first = slice(0, ends[0])
    assert counts[first].tolist() == [len(vocabulary.id_to_token(int(i)) or "") for i in ids[first]]


def test_decoding_gives_the_documents_back(byte_level: str) -> None:
    encoding = TokenizerEncoding(byte_level, "<|end|>")
    ids, _ = encoding.encode([text.encode() for text in TEXTS], count_bytes=False)
    pieces = np.split(ids, np.flatnonzero(ids == encoding.separator) + 1)[:-1]
    assert [Tokenizer.from_file(byte_level).decode(piece[:-1].tolist()) for piece in pieces] == TEXTS


def test_bytes_add_up_for_a_tokenizer_that_loses_text_too(lossy: str) -> None:
    encoding = TokenizerEncoding(lossy, "</s>")
    ids, counts = encoding.encode(["The  cat é 東 ".encode(), b"  "], count_bytes=True)
    assert counts is not None
    # the | two spaces and cat | a space and two bytes | a space, three bytes and the last space | end; nothing but an end
    assert ids.tolist() == [0, 1, 2, 2, 9, 9]
    assert counts.tolist() == [3, 5, 3, 5, 0, 0]


def test_vocabulary_covers_the_largest_id(lossy: str) -> None:
    assert TokenizerEncoding(lossy, "</s>").vocab_size == 10


def test_identity_is_the_tokenizers_content_and_the_separator(lossy: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.json"
    copy.write_bytes(Path(lossy).read_bytes())
    base = TokenizerEncoding(lossy, "</s>").identity
    assert TokenizerEncoding(str(copy), "</s>").identity == base
    assert TokenizerEncoding(lossy, "<unk>").identity != base
    content = json.loads(copy.read_text())
    content["normalizer"] = None
    copy.write_text(json.dumps(content))
    assert TokenizerEncoding(str(copy), "</s>").identity != base


def test_missing_separator_lists_the_candidates(byte_level: str) -> None:
    with pytest.raises(ValueError, match=r"data\.init_args\.separator_token='</s>'.*'<\|end\|>'"):
        TokenizerEncoding(byte_level, "</s>")


def test_missing_and_invalid_tokenizers_name_the_key_and_the_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data\.init_args\.tokenizer: no such file: .*none\.json"):
        TokenizerEncoding(str(tmp_path / "none.json"), "x")
    (tmp_path / "bad.json").write_text('{"model": 3}')
    with pytest.raises(ValueError, match=r"data\.init_args\.tokenizer: .*bad\.json is not a tokenizer"):
        TokenizerEncoding(str(tmp_path / "bad.json"), "x")
