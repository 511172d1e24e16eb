"""Image sets: what is read, normalised, augmented by position, and refused. The images are real: scans of digits (tests/tasks/data/README.md)."""

import io
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from resbench.tasks.augment import crop_and_flip, random_bits
from resbench.tasks.images import Cifar10, Cifar100, ImageClassification

DATA = Path(__file__).parent / "data"


@pytest.fixture
def make(tmp_path: Path) -> Any:
    def task(kind: type[ImageClassification] = ImageClassification, **arguments: Any) -> ImageClassification:
        defaults: dict[str, Any] = {
            "data_files": str(DATA / "digits-train.parquet"),
            "val_data_files": str(DATA / "digits-test.parquet"),
            "image_size": 8,
            "batch_size": 32,
            "cache_dir": str(tmp_path / "cache"),
        }
        made = kind(**{**defaults, **arguments})
        made.prepare_data()
        made.setup("fit")
        return made

    return task


def write(path: Path, images: list[Any], labels: list[Any], column: str = "image") -> str:
    """A Parquet file as `datasets` writes one."""
    rows = []
    for image in images:
        if isinstance(image, np.ndarray):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            image = file.getvalue()
        rows.append({"bytes": image, "path": None})
    pq.write_table(pa.table({column: rows, "label": labels}), path)
    return str(path)


def colours(count: int, side: int = 8, seed: int = 0) -> list[Any]:
    return list(np.random.default_rng(seed).integers(256, size=(count, side, side, 3), dtype=np.uint8))


def test_the_digits_are_digits(make: Any) -> None:
    task = make()
    described = task.describe()
    assert described["train_images"] == 800
    assert described["validation_images"] == 400
    batches = list(task.val_dataloader())
    assert len(batches) == len(task.val_dataloader()) == 13
    images, labels = (torch.cat([batch[name] for batch in batches]) for name in ("images", "targets"))
    assert images.shape == (400, 3, 8, 8)
    assert images.dtype == torch.float32
    assert torch.equal(images[:, 0], images[:, 2])  # grey
    assert set(labels.tolist()) == set(range(10))
    # The nearest class mean of train, a classifier of the nineteenth century, is right in 8 of 10 cases: labels belong to images.
    train = task._set.images["train"].astype(np.float32)
    means = np.stack([train[task._set.labels["train"] == digit].mean(0) for digit in range(10)])
    normal = (means - task._set.mean[:, None, None]) / task._set.std[:, None, None]
    nearest = torch.cdist(images.flatten(1), torch.from_numpy(normal).flatten(1)).argmin(1)
    assert (nearest == labels).float().mean() > 0.8
    assert task.levels()["chance_accuracy"] == pytest.approx(np.bincount(labels).max() / 400)
    assert task.tokens_per_example == 1


def test_channels_of_train_have_mean_zero_and_variance_one(make: Any, tmp_path: Path) -> None:
    dark = [(image * np.array([0.2, 0.5, 1.0])).astype(np.uint8) for image in colours(60)]
    file = write(tmp_path / "c.parquet", dark, [i % 10 for i in range(60)])
    task = make(data_files=file, val_data_files=None, augment=False, batch_size=1)
    train = task.describe()["train_images"]
    images = torch.cat([batch["images"] for batch in islice(task.train_dataloader(), train)])
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(images.square().mean((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)


def test_an_epoch_visits_every_image_once_with_its_label(make: Any) -> None:
    task = make(augment=False, batch_size=50)
    seen = {}
    for batch in islice(task.train_dataloader(), 16):
        for image, label in zip(batch["images"], batch["targets"].tolist(), strict=True):
            seen[image.numpy().tobytes()] = label
    stored = {}
    for image, label in zip(task._set.images["train"], task._set.labels["train"].tolist(), strict=True):
        normal = (image.astype(np.float32) - task._set.mean[:, None, None]) / task._set.std[:, None, None]
        stored[normal.tobytes()] = label
    assert seen == stored
    assert len(seen) == 800


def test_crops_are_shifts_and_flips_are_mirrors() -> None:
    images = np.arange(1, 1 + 400 * 3 * 8 * 8, dtype=np.int64).reshape(400, 3, 8, 8)
    moved = crop_and_flip(images, np.arange(400), 7, 2, True)  # type: ignore[arg-type]
    found = set()
    for image, result in zip(images, moved, strict=True):
        padded = np.pad(image, ((0, 0), (2, 2), (2, 2)))
        (match,) = [
            (down, right, flipped)
            for down in range(5)
            for right in range(5)
            for flipped in (False, True)
            if np.array_equal(padded[:, down : down + 8, right : right + 8][:, :, :: -1 if flipped else 1], result)
        ]
        found.add(match)
    assert len(found) == 50  # all 5 x 5 shifts, mirrored and not, among 400
    assert np.array_equal(crop_and_flip(images, np.arange(400), 7, 0, False), images)  # type: ignore[arg-type]


def test_bits_are_even_and_differ_by_position_and_seed() -> None:
    bits = random_bits(np.arange(20000), 3)
    shares = [((bits >> np.uint64(k)) & np.uint64(1)).mean() for k in range(64)]
    assert max(abs(share - 0.5) for share in shares) < 0.5 / np.sqrt(20000) * 5
    assert len(set(bits.tolist())) == 20000
    assert (bits != random_bits(np.arange(20000), 4)).all()


def test_augmentation_is_of_the_position_not_of_the_batch_or_the_worker(make: Any) -> None:
    def images(batches: int, **arguments: Any) -> torch.Tensor:
        return torch.cat([batch["images"] for batch in islice(make(**arguments).train_dataloader(), batches)])

    alone = images(30)
    assert torch.equal(images(15, batch_size=64), alone)
    assert torch.equal(images(30, num_workers=2), alone)
    assert not torch.equal(images(30, seed=1), alone)
    again = make().train_dataloader()
    again.load_state_dict({**again.state_dict(), "sequences": 27 * 32})
    assert torch.equal(next(iter(again))["images"], alone[27 * 32 : 28 * 32])
    plain = images(30, augment=False)
    assert plain.shape == alone.shape
    assert not torch.equal(plain, alone)


def test_images_of_validation_are_not_trained_on(make: Any, tmp_path: Path) -> None:
    pictures = colours(30)
    train = write(tmp_path / "t.parquet", pictures, [0, 1] * 15)
    held_out = write(tmp_path / "v.parquet", [*pictures[:4], *colours(6, seed=1)], [0, 1] * 5)
    task = make(data_files=train, val_data_files=held_out)
    assert task.describe()["in_both_splits"] == 4
    assert task.describe()["train_images"] == 26
    by_hash = make(data_files=train, val_data_files=None, val_fraction=0.3)
    counts = by_hash.describe()
    assert counts["train_images"] + counts["validation_images"] == 30
    assert counts["validation_images"] >= 3


def test_the_cache_is_used_and_follows_the_files(make: Any, tmp_path: Path) -> None:
    train = write(tmp_path / "t.parquet", colours(20), [0] * 20)
    first = make(data_files=train, val_fraction=0.4, val_data_files=None).fingerprint
    assert make(data_files=train, val_fraction=0.4, val_data_files=None).fingerprint == first
    write(tmp_path / "t.parquet", colours(20, seed=5), [0] * 20)
    assert make(data_files=train, val_fraction=0.4, val_data_files=None).fingerprint != first


def test_cifar_has_its_columns_and_classes(make: Any, tmp_path: Path) -> None:
    file = write(tmp_path / "c.parquet", colours(40, side=32), list(range(10)) * 4, column="img")
    task = make(Cifar10, data_files=file, val_data_files=None, image_size=32, val_fraction=0.4)
    assert (task.vocab_size, task.context_length, task.path) == (10, 32, None)
    hundred = Cifar100()
    assert (hundred.vocab_size, hundred.label_column, hundred.path) == (100, "fine_label", "uoft-cs/cifar100")
    assert (hundred.split, hundred.val_split) == ("train", "test")


# What can be wrong with the data.


@pytest.mark.parametrize(
    ("images", "labels", "arguments", "message"),
    [
        ([*colours(3), *colours(1, side=9)], [0] * 4, {}, r"=8: .*t\.parquet, row 3: the image is 9 x 9 pixels .* set data\.init_args\.image_size=9"),
        ([np.zeros((8, 10), dtype=np.uint8)], [0], {}, r"row 0: the image is 10 x 8 pixels \(width x height\).* crop the images to squares"),
        (colours(2), [0, 10], {}, r"label_column='label': .*row 1: the label is 10; expected a whole number from 0 to 9"),
        (colours(2), ["cat", "dog"], {}, "the label is 'cat'; expected a whole number"),
        (colours(2), [0, 1], {"image_column": "img"}, r"image_column='img': no such column in .*t\.parquet; its columns: image, label"),
        (colours(2), [0, 1], {"label_column": "fine_label"}, "label_column='fine_label': no such column"),
        (colours(2), [0, 1], {"image_column": "label", "label_column": "label"}, "has int there; expected an image"),
        ([b"\x89PNG not really"], [0], {}, r"row 0: the image cannot be decoded .* Is the file whole\?"),
    ],
)  # fmt: skip
def test_bad_rows_are_named(
    make: Any, tmp_path: Path, images: list[Any], labels: list[Any], arguments: dict[str, Any], message: str
) -> None:
    file = write(tmp_path / "t.parquet", images, labels)
    with pytest.raises(ValueError, match=message):
        make(data_files=file, **arguments)
    assert not list((tmp_path / "cache" / "tokens").glob("*.building*"))
    assert not [path for path in (tmp_path / "cache" / "tokens").iterdir() if path.is_dir()]


def test_a_file_that_is_cut_short_is_named(make: Any, tmp_path: Path) -> None:
    whole = (DATA / "digits-train.parquet").read_bytes()
    (tmp_path / "half.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cannot read .*half\.parquet as parquet: .*Is it whole"):
        make(data_files=str(tmp_path / "half.parquet"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data_files": None}, r"expected path .* or data_files"),
        ({"n_classes": 1}, "n_classes=1: expected at least 2"),
        ({"batch_size": 0}, "batch_size=0: expected at least 1"),
        ({"val_fraction": 1.5}, "val_fraction=1.5: expected a number between 0 and 1"),
    ],
)
def test_impossible_settings_are_refused(make: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**arguments)
