"""Language modelling on any text that `datasets` can read: a dataset of the Hugging Face hub, or local files."""

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from resbench.tasks.corpus import DocumentSink, Split
from resbench.tasks.documents import (
    Format,
    format_of,
    local_files,
    open_dataset,
    read_files,
    read_split,
    validation_name,
)
from resbench.tasks.encoding import ByteEncoding, Encoding, TokenizerEncoding
from resbench.tasks.held_out import digest, hash_holds_out
from resbench.tasks.language import LanguageTask
from resbench.tasks.tokenizer_training import bpe_size, trained_tokenizer

TOKENIZER_SAMPLE_BYTES = 20_000_000


class HubText(LanguageTask):
    """Text from the Hugging Face hub (give `path`), or from local text, JSON or Parquet files (give `data_files`).

    Each row, or each paragraph, line or file of text, is a document; equal documents are kept once. Validation documents are
    those of the source's own validation split, if it has one, and otherwise a share of all, chosen by a hash of their content.
    Tokens are cached: once built they are used without the hub or the files being read again.

    Args:
        path: name of a dataset on the hub, or a local directory that `datasets` can load. HF_HUB_OFFLINE=1 uses what
            `datasets` has in its cache.
        data_files: local files, or glob patterns; with `path`, files of that dataset.
        val_data_files: local files that hold the validation documents.
        format: of local files; default: what their names say (.txt .md, .json .jsonl, .parquet).
        column: which column or JSON field has the text.
        sample_by: what a document is in a text file: the whole file, a paragraph (blank lines end it), or a line.
        config_name: which configuration of the dataset, where it has several.
        revision: branch, tag or commit of the dataset on the hub; a commit pins the data.
        split: which split of the dataset to train on.
        val_split: which split to validate on; default: validation, valid, val or dev if there is one.
        streaming: read from the hub no more than is needed, rather than download the dataset first.
        tokenizer: `bytes` (257 tokens), the path of a tokenizer.json of the `tokenizers` library, or `bpe:SIZE`, a byte-level BPE of that many tokens
            trained on the first 20 MB of the training documents and kept in the cache.
        separator_token: the token of that tokenizer that ends each document.
        max_train_bytes: stop after the document that reaches this many bytes of train text; null for no limit.
        max_val_bytes: the same for validation.
        decontaminate: leave out training documents that share a run of so many words with a validation document (13 is usual); the source is then
            read twice. Null compares whole documents only.

    Raises:
        FileNotFoundError: a file of `data_files`, or the tokenizer, does not exist.
        ConnectionError: the hub cannot be reached.
        ValueError: no such dataset, split, column or separator; a file that cannot be read; no text.
    """

    name = "text"

    def __init__(
        self,
        path: str | None = None,
        data_files: str | list[str] | None = None,
        val_data_files: str | list[str] | None = None,
        format: Format | None = None,
        column: str = "text",
        sample_by: Literal["document", "paragraph", "line"] = "paragraph",
        config_name: str | None = None,
        revision: str | None = None,
        split: str = "train",
        val_split: str | None = None,
        streaming: bool = True,
        tokenizer: str = "bytes",
        separator_token: str = "<|endoftext|>",
        max_train_bytes: int | None = 100_000_000,
        max_val_bytes: int | None = 5_000_000,
        decontaminate: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if path is None and not data_files:
            raise ValueError(
                "data.init_args: expected path (a dataset of the hub) or data_files (local files); both are missing"
            )
        for key, limit in (("max_train_bytes", max_train_bytes), ("max_val_bytes", max_val_bytes)):
            if limit is not None and limit < 1:
                raise ValueError(f"data.init_args.{key}={limit}: expected at least 1, or null for no limit")
        if path is not None and val_data_files:
            raise ValueError("data.init_args.val_data_files: only for local files; with path, use val_split")
        if decontaminate is not None and decontaminate < 1:
            raise ValueError(
                f"data.init_args.decontaminate={decontaminate}: expected at least 1 word, or null for whole documents"
            )
        self.decontaminate = decontaminate
        self._bpe_size = bpe_size(tokenizer)
        self.path, self.data_files = path, data_files
        self.column, self.sample_by = column, sample_by
        self.config_name, self.revision = config_name, revision
        self.split, self.val_split = split, val_split
        self.streaming = streaming
        self.tokenizer, self.separator_token = tokenizer, separator_token
        self.limits = {"train": max_train_bytes, "validation": max_val_bytes}
        self.files: dict[Split, list[Path]] = {"train": [], "validation": []}
        self.format: Format = "text"
        if path is None:
            assert data_files
            self.files["train"] = local_files("data_files", data_files)
            self.files["validation"] = local_files("val_data_files", val_data_files) if val_data_files else []
            self.format = format or format_of(self.files["train"] + self.files["validation"])

    @cached_property
    def encoding(self) -> Encoding:
        if self.tokenizer == "bytes":
            return ByteEncoding()
        if self._bpe_size is None:
            return TokenizerEncoding(self.tokenizer, self.separator_token)
        parts = {"source": self._source(), "val_fraction": self.val_fraction, "separator": self.separator_token}
        key = hashlib.sha256(json.dumps([self.tokenizer, parts], sort_keys=True).encode()).hexdigest()[:20]
        file = trained_tokenizer(
            self.cache_dir / "tokenizers",
            f"bpe-{key}",
            self._bpe_size,
            self.separator_token,
            self._training_documents,
            TOKENIZER_SAMPLE_BYTES,
        )
        encoding = TokenizerEncoding(str(file), self.separator_token)
        encoding.vocab_size = self._bpe_size  # the model's, whether or not the sample had that many merges to give
        return encoding

    @property
    def vocab_size(self) -> int:  # type: ignore[override]
        """Token ids are below it; known before `setup`, and before a tokenizer is trained."""
        return self._bpe_size or self.encoding.vocab_size

    def _training_documents(self) -> Iterator[bytes]:
        """Those that are not held out; not yet decontaminated, since that is done to whole corpora."""
        for documents, split in self._sources():
            for document in documents if split != "validation" else ():
                if split == "train" or not hash_holds_out(digest(document), self.val_fraction):
                    yield document

    def recipe(self) -> dict[str, Any]:
        return {**self._source(), "limits": self.limits, "decontaminate": self.decontaminate}

    def _source(self) -> dict[str, Any]:
        """Which documents there are; JSON values."""
        shared = {"column": self.column}
        if self.path is None:
            stamps = {split: [_stamp(file) for file in files] for split, files in self.files.items()}
            return {**shared, "files": stamps, "format": self.format, "sample_by": self.sample_by}
        directory = Path(self.path)
        return {
            **shared,
            "path": self.path,
            "directory": [_stamp(f) for f in sorted(directory.resolve().rglob("*")) if f.is_file()],
            "data_files": self.data_files,
            "config_name": self.config_name,
            "revision": self.revision,
            "splits": [self.split, self.val_split],
        }

    def source(self) -> dict[str, str | int | float]:
        if self.path is None:
            files = [str(file) for file in self.files["train"] + self.files["validation"]]
            return {"source": ", ".join(files[:10]) + (", ..." if len(files) > 10 else ""), "n_files": len(files)}
        facts = {"config_name": self.config_name, "revision": self.revision, "split": self.split}
        return {"source": self.path, **{key: value for key, value in facts.items() if value is not None}}

    def expected_bytes(self) -> int | None:
        known = [limit for limit in self.limits.values() if limit is not None]
        return sum(known) if self.path and len(known) == len(self.limits) else None

    def collect(self, corpus: DocumentSink) -> None:
        # Validation first: a document that is in both splits of the source is then kept out of train.
        for documents, split in self._sources():
            for document in documents:
                corpus.add(document, split)
                if self.has_enough(corpus, split):
                    break
        if not any(corpus.documents.values()):
            raise ValueError(
                f"data.init_args: no text found in {self.path or ', '.join(map(str, self.files['train'][:5]))}"
            )

    def has_enough(self, corpus: DocumentSink, split: Split | None) -> bool:
        """Whether the rest of a source, whose documents are for ``split`` or (None) for either by their hash, need not be read."""
        return corpus.is_full(split or "train")

    def _sources(self) -> Iterator[tuple[Iterator[bytes], Split | None]]:
        """Streams of documents and the split each is for; None where a document's hash decides."""
        if self.path is None:
            held_out = self.files["validation"]
            if held_out:
                yield read_files(held_out, self.format, self.column, self.sample_by), "validation"
            yield (
                read_files(self.files["train"], self.format, self.column, self.sample_by),
                "train" if held_out else None,
            )
            return
        splits = open_dataset(self.path, self.config_name, self.revision, self.data_files, self.streaming)
        for key, name in (("split", self.split), ("val_split", self.val_split)):
            if name is not None and name not in splits:
                raise ValueError(
                    f"data.init_args.{key}={name!r}: {self.path} has no such split; it has: {', '.join(splits)}"
                )
        val_split = self.val_split or validation_name(splits, self.split)
        if val_split is not None:
            yield read_split(splits[val_split], self.column, f"{self.path} ({val_split})"), "validation"
        train: Split | None = "train" if val_split is not None else None
        yield read_split(splits[self.split], self.column, f"{self.path} ({self.split})"), train


def _stamp(file: Path) -> tuple[str, int, int]:
    """What tells a file from another, or from itself before it was changed, without reading it."""
    stat = file.stat()
    return str(file), stat.st_size, stat.st_mtime_ns
