"""Images on disk: decoded once into two arrays per split, checked on the way in."""

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resbench.tasks.corpus import SPLITS, Split


@dataclass(frozen=True)
class ImageSet:
    """An opened set of images.

    Attributes:
        images: uint8 [N, 3, H, W] per split, mapped from the disk.
        labels: int64 [N] per split.
        mean, std: float32 [3], of the train split's channels, in units of 0..255.
        fingerprint: sha256 of both splits.
        facts: counts, for the record of a run.
    """

    images: Mapping[Split, npt.NDArray[np.uint8]]
    labels: Mapping[Split, npt.NDArray[np.int64]]
    mean: npt.NDArray[np.float32]
    std: npt.NDArray[np.float32]
    fingerprint: str
    facts: dict[str, str | int]


def open_images(directory: Path, description: dict[str, Any]) -> ImageSet:
    """The images in a directory of the cache."""
    return ImageSet(
        {split: np.load(directory / f"{split}_images.npy", mmap_mode="r") for split in SPLITS},
        {split: np.load(directory / f"{split}_labels.npy") for split in SPLITS},
        np.array(description["mean"], dtype=np.float32),
        np.array(description["std"], dtype=np.float32),
        description["fingerprint"],
        description["facts"],
    )


class ImageWriter:
    """Collects decoded images in memory, then writes them; made for sets like CIFAR (60,000 of them are 180 MB).

    Images with equal pixels are kept once per split, and none of train is in validation, whichever came first.
    """

    def __init__(self, val_fraction: float) -> None:
        self._val_fraction = val_fraction
        self._kept: dict[Split, dict[bytes, tuple[npt.NDArray[np.uint8], int]]] = {split: {} for split in SPLITS}
        self.duplicates = 0

    def add(self, image: npt.NDArray[np.uint8], label: int, split: Split | None) -> None:
        """One image [3, H, W]; without a split a hash of its pixels decides."""
        digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
        if split is None:
            is_held_out = int.from_bytes(digest[:8], "little") < self._val_fraction * 2.0**64
            split = "validation" if is_held_out else "train"
        if digest in self._kept[split]:
            self.duplicates += 1
            return
        self._kept[split][digest] = image, label

    def counts(self) -> dict[Split, int]:
        """Images of each split so far."""
        return {split: len(kept) for split, kept in self._kept.items()}

    def finish(self, directory: Path) -> dict[str, Any]:
        """Write the arrays; the description `open_images` needs."""
        shared = self._kept["train"].keys() & self._kept["validation"].keys()
        for digest in shared:
            del self._kept["train"][digest]
        fingerprint = hashlib.sha256()
        sums = np.zeros((2, 3))
        pixels = 0
        for split in SPLITS:
            images = np.stack([image for image, _ in self._kept[split].values()])
            labels = np.array([label for _, label in self._kept[split].values()], dtype=np.int64)
            np.save(directory / f"{split}_images.npy", images)
            np.save(directory / f"{split}_labels.npy", labels)
            fingerprint.update(images.tobytes() + labels.tobytes())
            if split == "train":
                pixels = images.size // 3
                for chunk in np.array_split(images, max(1, len(images) // 1024)):
                    exact = chunk.astype(np.float64)
                    sums += np.stack([exact.sum((0, 2, 3)), np.square(exact).sum((0, 2, 3))])
        mean = sums[0] / pixels
        std = np.sqrt(np.maximum(sums[1] / pixels - mean**2, 1.0))  # a channel that never varies is left alone
        counts = {f"{split}_images": len(self._kept[split]) for split in SPLITS}
        return {
            "mean": mean.tolist(),
            "std": std.tolist(),
            "fingerprint": fingerprint.hexdigest(),
            "facts": {**counts, "duplicates": self.duplicates, "in_both_splits": len(shared)},
        }


def decoded(
    rows: Iterable[tuple[Mapping[str, Any], str]], image_column: str, label_column: str, side: int, n_classes: int
) -> Iterator[tuple[npt.NDArray[np.uint8], int]]:
    """(uint8 [3, side, side], label) of each row.

    Raises:
        ValueError: a column is missing, an image cannot be decoded or has another size, a label is not in range. It names file and row.
    """
    for number, (row, where) in enumerate(rows):
        for key, column in (("image_column", image_column), ("label_column", label_column)):
            if column not in row:
                columns = ", ".join(map(str, row)) or "none"
                raise ValueError(f"data.init_args.{key}={column!r}: no such column in {where}; its columns: {columns}")
        here = f"{where}, row {number}"
        image, label = _pixels(row[image_column], image_column, here), row[label_column]
        if image.shape[:2] != (side, side):
            height, width = image.shape[:2]
            fix = f"set data.init_args.image_size={height}" if height == width else "crop the images to squares"
            raise ValueError(
                f"data.init_args.image_size={side}: {here}: the image is {width} x {height} pixels (width x height). "
                f"All images must have one size: {fix}, or resize them beforehand"
            )
        if not isinstance(label, int) or not 0 <= label < n_classes:
            raise ValueError(
                f"data.init_args.label_column={label_column!r}: {here}: the label is {label!r}; "
                f"expected a whole number from 0 to {n_classes - 1} (data.init_args.n_classes={n_classes})"
            )
        yield np.ascontiguousarray(image.transpose(2, 0, 1)), label


def _pixels(value: Any, column: str, here: str) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, 3] of what `datasets` gives for an image: a PIL image, its file's bytes, or a dict that has them."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(value, Mapping):
        value = value.get("bytes")
    try:
        if isinstance(value, bytes):
            value = Image.open(io.BytesIO(value))
        if isinstance(value, Image.Image):
            return np.asarray(value.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(
            f"data.init_args.image_column={column!r}: {here}: the image cannot be decoded ({error}). Is the file whole?"
        ) from error
    raise ValueError(
        f"data.init_args.image_column={column!r}: {here} has {type(value).__name__} there; expected an image as `datasets` stores it"
    )
