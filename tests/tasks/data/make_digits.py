"""Makes digits-train.parquet and digits-test.parquet: 800 and 400 of the scans that scikit-learn ships; see README.md."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from sklearn.datasets import load_digits

HERE = Path(__file__).parent


def png(pixels: np.ndarray) -> bytes:
    """8 x 8 grey values 0..16 as a PNG of values 0..255."""
    file = io.BytesIO()
    Image.fromarray(np.round(pixels * 255 / 16).astype(np.uint8), "L").save(file, "PNG", optimize=True)
    return file.getvalue()


def write(name: str, images: np.ndarray, labels: np.ndarray) -> None:
    rows = [{"bytes": png(image), "path": None} for image in images]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(rows, kind), "label": pa.array(labels, pa.int64())})
    pq.write_table(table, HERE / name, compression="zstd")


if __name__ == "__main__":
    digits = load_digits()
    write("digits-train.parquet", digits.images[:800], digits.target[:800])
    write("digits-test.parquet", digits.images[-400:], digits.target[-400:])
