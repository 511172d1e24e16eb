"""Language modelling on a corpus that is read while training, so that its size does not matter: sharded, packed, decontaminated, resumable."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from resbench.tasks.corpus import DocumentSink, Split
from resbench.tasks.documents import open_part
from resbench.tasks.encoding import Encoding
from resbench.tasks.held_out import HeldOut
from resbench.tasks.hub_text import HubText
from resbench.tasks.loader import finished_batches, rank_and_world_size
from resbench.tasks.stream import PackedStream, Position, Rows, Tokens
from resbench.tasks.stream_loader import StreamLoader


class StreamedText(HubText):
    """Text from the hub or local files, streamed: validation data and a sample of train are cached, training reads the source itself.

    Every rank and worker reads its own part: whole files where there are at least as many as ranks times workers, and every k-th row otherwise.
    Sequences are cut from the documents of a part in their order and shuffled within blocks. A run resumes at the exact sequence. Documents that
    are held out for validation, or share a run of `decontaminate` words with a validation document, are never trained on. Documents that occur
    twice in train are trained on twice: nothing remembers them.

    Args:
        path: name of a dataset on the hub; this and all that is not below is as for `text`.
        max_train_bytes: size of the sample of train that trains a tokenizer (``bpe:SIZE``) and counts token frequencies. Training is not limited.
        max_val_bytes: size of the validation data. Without a validation split the source is read until there are so many, at `val_fraction` of it.
        shuffle_block: sequences of a part that are shuffled together; they are held in memory, and read again when a run is resumed.
        decontaminate: words in a run shared with a validation document that disqualify a training document; null looks for equal documents only.
    """

    name = "text-stream"

    def __init__(
        self,
        path: str | None = None,
        max_train_bytes: int | None = 20_000_000,
        shuffle_block: int = 1024,
        decontaminate: int | None = 13,
        **kwargs: Any,
    ) -> None:
        super().__init__(path, max_train_bytes=max_train_bytes, decontaminate=decontaminate, **kwargs)
        if shuffle_block < 1:
            raise ValueError(f"data.init_args.shuffle_block={shuffle_block}: expected at least 1")
        self.shuffle_block = shuffle_block

    def train_dataloader(self) -> StreamLoader:  # type: ignore[override]
        """Endless training batches of this rank, resumable with the same ranks and workers."""
        identity: dict[str, str | int] = {
            "data_fingerprint": self.fingerprint,
            "context_length": self.context_length,
            "shuffle_block": self.shuffle_block,
            "seed": self.seed,
        }
        return StreamLoader(
            self.opener(),
            self.batch_size,
            self.num_workers,
            identity,
            *rank_and_world_size(),
            separator=self.encoding.separator if self.document_masks else None,
            trained_batches=finished_batches(self.trainer),
        )

    def has_enough(self, corpus: DocumentSink, split: Split | None) -> bool:
        # The sample of train may be small; validation is not to be cut short with it.
        return corpus.is_full("train" if split is None else split) and (
            split is not None or corpus.is_full("validation")
        )

    def opener(self) -> "StreamOpener":
        """Opens one of the streams of training data, in whatever process."""
        hub = None if self.path is None else (self.path, self.config_name, self.revision, self.data_files, self.split)
        corpus = self._corpus
        return StreamOpener(
            partial(open_part, self.files["train"], self.format, self.sample_by, hub, self.column),
            self.encoding,
            HeldOut.open(corpus.directory, corpus.held_out_fraction, self.decontaminate),
            self.context_length,
            self.shuffle_block,
            self.seed,
        )


@dataclass
class StreamOpener:
    """See `resbench.tasks.stream_loader.OpenStream`."""

    open_part: Callable[[int, int], Rows]
    encoding: Encoding
    held_out: HeldOut
    context_length: int
    shuffle_block: int
    seed: int

    def __call__(self, index: int, count: int, position: Position) -> PackedStream:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # workers are the parallelism; forked ones warn otherwise
        rows = partial(self.open_part, index, count)
        return PackedStream(rows, self._encode, self.context_length, self.shuffle_block, self.seed + index, position)

    def _encode(self, documents: list[bytes]) -> Tokens:
        kept = [document for document in documents if document and not self.held_out.excludes(document)]
        return self.encoding.encode(kept, count_bytes=False)[0]
