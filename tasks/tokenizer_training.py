"""A byte-level BPE tokenizer trained on a sample of the training documents, once per machine (Sennrich et al. 2016, arXiv 1508.07909)."""

import logging
import re
import tempfile
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path

from filelock import FileLock

log = logging.getLogger(__name__)

SMALLEST = 257
"""All bytes, and the separator."""


def bpe_size(tokenizer: str) -> int | None:
    """The vocabulary that ``bpe:SIZE`` asks for; None for anything else. Raises ValueError for a size that is no number or too small."""
    if not tokenizer.startswith("bpe:"):
        return None
    size = tokenizer.removeprefix("bpe:")
    if not re.fullmatch("[0-9]+", size) or int(size) < SMALLEST:
        raise ValueError(
            f"data.init_args.tokenizer={tokenizer!r}: expected bpe:SIZE with a vocabulary of at least {SMALLEST}, as in bpe:32768"
        )
    return int(size)


def trained_tokenizer(
    folder: Path, key: str, size: int, separator: str, documents: Callable[[], Iterable[bytes]], sample_bytes: int
) -> Path:
    """The tokenizer.json called ``key``, trained if the folder has none, while other processes wait for it.

    ``documents`` are read until ``sample_bytes`` of them; fewer tokens than ``size`` come out when the sample has nothing more to merge.
    Raises ValueError when there are no documents.
    """
    path = folder / f"{key}.json"
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{key}.lock", mode=0o644):
        if not path.is_file():
            _train(path, size, separator, documents(), sample_bytes)
    return path


def _train(path: Path, size: int, separator: str, documents: Iterable[bytes], sample_bytes: int) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    sample, taken = [], 0
    for document in documents:
        sample.append(document.decode("utf-8", errors="replace"))
        taken += len(document)
        if taken >= sample_bytes:
            break
    if not sample:
        raise ValueError("data.init_args.tokenizer: there are no documents to train a tokenizer on")
    log.warning("training a tokenizer of %d tokens on %.1f MB", size, taken / 1e6)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[separator],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(chain(sample), trainer, length=len(sample))
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".partial", delete=False, encoding="utf-8") as file:
        file.write(tokenizer.to_str())
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)
