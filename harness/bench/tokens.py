"""Random tokens in a real loader: benchmark shapes need vocabularies and lengths that no corpus at hand has."""

import hashlib
from pathlib import Path

import numpy as np

from resbench.tasks.corpus import MappedArray
from resbench.tasks.loader import TrainLoader, ValidationLoader, WindowBatches, for_trainer, windows_in
from resbench.tasks.order import WindowOrder
from resbench.tasks.task import Task


class RandomTokens(Task):
    """Independent tokens whose frequencies fall as one over their rank, in a file that the language tasks' loader reads.

    Parameters
    ----------
    folder: where the file goes.
    vocab_size: ids are below it; at most 65536.
    context_length: tokens per sequence.
    batch_size: sequences per batch and process.
    sequences: sequences in the file; training goes round.
    val_sequences: of them, how many a validation runs on.
    seed: of the tokens and of their order.
    """

    name = "random-tokens"

    def __init__(
        self,
        folder: str,
        vocab_size: int = 50304,
        context_length: int = 1024,
        batch_size: int = 64,
        sequences: int = 512,
        val_sequences: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for key, value in {"vocab_size": vocab_size, "sequences": sequences, "val_sequences": val_sequences}.items():
            if value < 1 or (key == "vocab_size" and value > 2**16):
                raise ValueError(
                    f"data.init_args.{key}={value}: expected at least 1, and at most 65536 tokens of vocabulary"
                )
        self.folder = Path(folder)
        self.vocab_size, self.context_length, self.batch_size = vocab_size, context_length, batch_size
        self.sequences, self.val_sequences, self.seed = sequences, val_sequences, seed

    @property
    def fingerprint(self) -> str:
        """Of what the tokens depend on."""
        facts = (self.vocab_size, self.context_length, self.sequences, self.seed)
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    @property
    def _stream(self) -> MappedArray:
        return MappedArray(
            self.folder / f"{self.fingerprint[:16]}.bin", "uint16", self.sequences * self.context_length + 1
        )

    def prepare_data(self) -> None:
        stream = self._stream
        if not stream.path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            uniform = np.random.default_rng(self.seed).random(stream.length)
            # P(id < k) = ln(1 + k) / ln(1 + V), inverted.
            ids = np.exp(uniform * np.log(self.vocab_size + 1.0)) - 1.0
            np.minimum(ids, self.vocab_size - 1).astype("uint16").tofile(stream.path)

    def train_dataloader(self) -> TrainLoader:
        stream = self._stream
        order = WindowOrder(windows_in(len(stream), self.context_length), self.seed)
        windows = WindowBatches(stream, order, self.context_length, self.batch_size)
        return for_trainer(self.trainer, windows, 0, {"data_fingerprint": self.fingerprint})

    def val_dataloader(self) -> ValidationLoader:
        windows = np.arange(min(self.val_sequences, self.sequences), dtype=np.int64)
        return ValidationLoader(self._stream, windows, self.context_length, self.batch_size)
