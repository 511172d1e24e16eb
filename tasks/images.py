"""Image classification on sets of small images that `datasets` can read: CIFAR-10 and CIFAR-100 of the hub, or local Parquet files."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from resbench.tasks.augment import crop_and_flip
from resbench.tasks.cache import FORMAT, default_cache_dir, load_or_build
from resbench.tasks.corpus import Split
from resbench.tasks.documents import local_files, open_dataset, read_rows
from resbench.tasks.image_set import ImageSet, ImageWriter, decoded, open_images
from resbench.tasks.loader import TrainLoader, for_trainer, pinned
from resbench.tasks.order import WindowOrder
from resbench.tasks.progress import build_progress
from resbench.tasks.task import Batch, Measures, Task


class ImageClassification(Task):
    """Images and their classes, from the hub (give `path`) or from local Parquet files (give `data_files`).

    Batches have ``images``, float32 [batch_size, 3, H, W] with each channel of the train split at mean 0 and variance 1 (grey images become three
    equal channels), and ``targets``, int64 [batch_size]. Training images are shifted by up to an eighth of their side (4 pixels of CIFAR's 32) and
    mirrored half of the time; each epoch visits every image once. An image counts as one token in budgets. Validation reports ``val/accuracy``.

    Args:
        path: name of a dataset on the hub, or a local directory that `datasets` can load.
        data_files: local Parquet files, or glob patterns.
        val_data_files: local Parquet files to validate on; without them a share of `data_files`, chosen by a hash of the pixels.
        image_column, label_column: columns of the image and of its class, a number.
        n_classes: number of classes.
        image_size: height and width of every image in pixels.
        config_name, revision: which configuration and which commit of the dataset on the hub.
        split, val_split: the splits to train and to validate on; with a `val_split` of null a share of `split`.
        augment: shift and mirror the training images.
        mirror: whether mirroring is part of that; not for digits or letters.
        batch_size: images per batch and process.
        val_images: images each validation runs on, evenly spaced over the split; null for all.
        cache_dir: where decoded images are kept. Default: $RESBENCH_CACHE, or ~/.cache/resbench.
        seed: fixes the order and the augmentation.
        num_workers: processes that make batches; 0 makes them in the training process. It does not change the batches.
        val_fraction: share held out for validation where there is no split for it.

    Raises:
        FileNotFoundError: a file does not exist.
        ConnectionError: the hub cannot be reached.
        ValueError: a value is out of range; no such dataset, split or column; a file that cannot be read; an image of another size.
    """

    name = "images"
    inputs = ("images",)

    def __init__(
        self,
        path: str | None = None,
        data_files: str | list[str] | None = None,
        val_data_files: str | list[str] | None = None,
        image_column: str = "image",
        label_column: str = "label",
        n_classes: int = 10,
        image_size: int = 32,
        config_name: str | None = None,
        revision: str | None = None,
        split: str = "train",
        val_split: str | None = "test",
        augment: bool = True,
        mirror: bool = True,
        batch_size: int = 128,
        val_images: int | None = None,
        cache_dir: str | None = None,
        seed: int = 0,
        num_workers: int = 0,
        val_fraction: float = 0.1,
    ) -> None:
        super().__init__()
        if path is None and not data_files:
            raise ValueError("data.init_args: expected path (a dataset of the hub) or data_files (local Parquet files)")
        least: dict[str, tuple[int | None, int]] = {"n_classes": (n_classes, 2), "image_size": (image_size, 1)}
        least |= {"batch_size": (batch_size, 1), "val_images": (val_images, 1), "num_workers": (num_workers, 0)}
        for key, (value, bound) in least.items():
            if value is not None and value < bound:
                raise ValueError(f"data.init_args.{key}={value}: expected at least {bound}")
        if not 0.0 < val_fraction < 1.0:
            raise ValueError(f"data.init_args.val_fraction={val_fraction}: expected a number between 0 and 1")
        self.path = None if data_files else path
        self.config_name, self.revision = config_name, revision
        self.split, self.val_split = split, val_split
        self.image_column, self.label_column = image_column, label_column
        self.vocab_size, self.context_length = n_classes, image_size
        self.augment, self.mirror = augment, mirror
        self.batch_size, self.val_images = batch_size, val_images
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir else default_cache_dir()
        self.seed, self.num_workers, self.val_fraction = seed, num_workers, val_fraction
        self.files: dict[Split, list[Path]] = {
            "train": local_files("data_files", data_files) if data_files else [],
            "validation": local_files("val_data_files", val_data_files) if val_data_files else [],
        }
        self._opened: ImageSet | None = None

    @property
    def tokens_per_example(self) -> int:
        return 1

    def prepare_data(self) -> None:
        """Decode the images if the cache does not have them; other processes that want them meanwhile wait."""
        self._open()

    def setup(self, stage: str | None = None) -> None:
        """Open the images; afterwards everything below is known."""
        self._open()

    def train_dataloader(self) -> TrainLoader:
        """Endless training batches of this rank, resumable."""
        images, labels = self._set.images["train"], self._set.labels["train"]
        padding = self.context_length // 8 if self.augment else 0
        batches = ImageBatches(
            images,
            labels,
            WindowOrder(len(labels), self.seed),
            self.batch_size,
            (self._set.mean, self._set.std),
            self.seed,
            padding,
            self.mirror and self.augment,
        )
        identity: dict[str, str | int] = {"data_fingerprint": self.fingerprint, "seed": self.seed}
        return for_trainer(self.trainer, batches, self.num_workers, identity)

    def val_dataloader(self) -> "ImageValidation":
        """The validation images in order, the same on every rank; the last batch may be smaller."""
        images, labels = self._set.images["validation"], self._set.labels["validation"]
        count = min(self.val_images or len(labels), len(labels))
        chosen = np.arange(count) * len(labels) // count
        return ImageValidation(images, labels, chosen, self.batch_size, (self._set.mean, self._set.std))

    def measures(self, logits: Tensor, batch: Batch) -> Measures:
        right = (logits.argmax(-1) == batch["targets"]).sum()
        return {"val/accuracy": (right, torch.tensor(len(logits), device=right.device))}

    def levels(self) -> dict[str, float]:
        """``chance_accuracy``: always naming the commonest class of the validation images."""
        counts = np.bincount(self._set.labels["validation"], minlength=self.vocab_size)
        return {"chance_accuracy": float(counts.max() / counts.sum())}

    @property
    def fingerprint(self) -> str:
        """sha256 of both splits' pixels and labels."""
        return self._set.fingerprint

    def describe(self) -> dict[str, str | int | float]:
        """What the data are, in plain values, for the record of a run."""
        source = self.path or ", ".join(map(str, self.files["train"][:10]))
        return {
            "task": self.name,
            "source": source,
            **({"revision": self.revision} if self.revision else {}),
            **self._set.facts,
            "n_classes": self.vocab_size,
            "image_size": self.context_length,
            **self.levels(),
            "fingerprint": self.fingerprint,
        }

    @property
    def _set(self) -> ImageSet:
        if self._opened is None:
            raise RuntimeError(f"{type(self).__name__}: the data are not open yet; call setup() first")
        return self._opened

    def _open(self) -> ImageSet:
        if self._opened is None:
            stamps = {
                split: [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
                for split, files in self.files.items()
            }
            parts = {
                "format": FORMAT,
                "source": [self.path, self.config_name, self.revision, self.split, self.val_split, stamps],
                "columns": [self.image_column, self.label_column, self.vocab_size, self.context_length],
                "val_fraction": self.val_fraction,
            }
            key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]
            self._opened = load_or_build(self.cache_dir, f"{self.name}-{key}", self._build, open_images)
        return self._opened

    def _build(self, directory: Path) -> dict[str, Any]:
        writer = ImageWriter(self.val_fraction)
        with build_progress(f"Decoding {self.name}", None) as advance:
            for rows, split in self._sources():
                for image, label in decoded(
                    rows, self.image_column, self.label_column, self.context_length, self.vocab_size
                ):
                    writer.add(image, label, split)
                    advance(image.nbytes)
        counts = writer.counts()
        if empty := [split for split in counts if not counts[split]]:
            raise ValueError(
                f"data.init_args: no {' and no '.join(empty)} images in {self.path or ', '.join(map(str, self.files['train'][:5]))}"
            )
        return writer.finish(directory)

    def _sources(self) -> Iterator[tuple[Iterator[tuple[dict[str, Any], str]], Split | None]]:
        """Rows with where they are from, and the split they are for; None where a hash decides."""
        if self.path is None:
            if self.files["validation"]:
                yield read_rows(self.files["validation"], "parquet"), "validation"
            yield read_rows(self.files["train"], "parquet"), "train" if self.files["validation"] else None
            return
        splits = open_dataset(self.path, self.config_name, self.revision, None, streaming=True)
        for key, name in (("split", self.split), ("val_split", self.val_split)):
            if name is not None and name not in splits:
                raise ValueError(
                    f"data.init_args.{key}={name!r}: {self.path} has no such split; it has: {', '.join(splits)}"
                )
        wanted: list[tuple[str, Split | None]] = [(self.split, None if self.val_split is None else "train")]
        if self.val_split is not None:
            wanted.insert(0, (self.val_split, "validation"))
        for name, split in wanted:
            yield _hub_rows(splits[name], f"{self.path} ({name})"), split


class Cifar10(ImageClassification):
    """CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images of 32 x 32 pixels in 10 classes.

    Args:
        path: its name on the hub; `data_files` and `val_data_files`, the same Parquet files on this machine, take its place.
    """

    name = "cifar10"

    def __init__(
        self, path: str = "uoft-cs/cifar10", image_column: str = "img", label_column: str = "label", **kwargs: Any
    ) -> None:
        super().__init__(path, image_column=image_column, label_column=label_column, n_classes=10, **kwargs)


class Cifar100(ImageClassification):
    """CIFAR-100 (Krizhevsky 2009): 50,000 training and 10,000 test images of 32 x 32 pixels in 100 classes.

    Args:
        path: its name on the hub; `data_files` and `val_data_files`, the same Parquet files on this machine, take its place.
    """

    name = "cifar100"

    def __init__(
        self, path: str = "uoft-cs/cifar100", image_column: str = "img", label_column: str = "fine_label", **kwargs: Any
    ) -> None:
        super().__init__(path, image_column=image_column, label_column=label_column, n_classes=100, **kwargs)


@dataclass
class ImageBatches:
    """Training images in a keyed order, augmented by position; see `resbench.tasks.loader.Batches`."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    order: WindowOrder
    batch_size: int
    statistics: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
    seed: int
    padding: int
    mirror: bool

    def __getitem__(self, position: int) -> Batch:
        positions = np.arange(position, position + self.batch_size, dtype=np.int64)
        chosen = self.order.at(positions)
        images = self.images[chosen]
        if self.padding or self.mirror:
            images = crop_and_flip(images, positions, self.seed, self.padding, self.mirror)
        return as_batch(images, self.labels[chosen], *self.statistics)


@dataclass
class ImageValidation:
    """The chosen images in batches, as they are; the last batch may be smaller."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    chosen: npt.NDArray[np.int64]
    batch_size: int
    statistics: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]

    def __len__(self) -> int:
        return -(-len(self.chosen) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.chosen), self.batch_size):
            part = self.chosen[start : start + self.batch_size]
            yield pinned(as_batch(self.images[part], self.labels[part], *self.statistics))


def _hub_rows(rows: Iterable[Mapping[str, Any]], where: str) -> Iterator[tuple[dict[str, Any], str]]:
    try:
        for row in rows:
            yield dict(row), where
    except Exception as error:  # network, decompression, schema: all libraries' own
        raise ConnectionError(f"reading {where} failed: {error}") from error


def as_batch(
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    mean: npt.NDArray[np.float32],
    std: npt.NDArray[np.float32],
) -> Batch:
    """Normalised images float32 [B, 3, H, W] and targets int64 [B]."""
    normal = (images.astype(np.float32) - mean[:, None, None]) / std[:, None, None]
    return {"images": torch.from_numpy(normal), "targets": torch.from_numpy(labels.copy())}
