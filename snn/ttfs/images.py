# SPDX-License-Identifier: Apache-2.0
"""Image data sets, their coding as lead times, and augmentation by global index.

A pixel of the range [p, q] becomes the lead time (pixel - p) / (q - p): bright is early.
"""

from __future__ import annotations

import dataclasses
import gzip
import importlib.util
import io
import lzma
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core import permute
from core.datasets import find_dataset

DATASETS = ("digits", "mnist", "fashion_mnist", "cifar10")
_FULL_FASHION = Path("/usr/share/datasets/fashion-mnist")  # Debian: dataset-fashion-mnist
_IDX_MAGIC = {2049: 1, 2051: 3}

# Mean, standard deviation and range of the normalised pixel of CIFAR-10 in both papers' code.
CIFAR10_MEAN, CIFAR10_STD, CIFAR10_RANGE = 120.707, 64.15, (-3.0, 3.0)


@dataclasses.dataclass(frozen=True)
class Images:
    """uint8 images [N, H, W, C] and labels [N] of each split; pixels with lead times 0 and 1.

    There are no validation images until `hold_out` sets some training images aside.
    """

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    white: float = 255
    note: str = ""
    black: float = 0
    validation: np.ndarray | None = None
    validation_labels: np.ndarray | None = None

    @property
    def coding(self) -> tuple[float, float]:
        """(black, white): the pixels that become the lead times 0 and 1."""
        return self.black, self.white

    def hold_out(self, count: int) -> Images:
        """The last `count` training images become validation images (0: none).

        Raises:
          ValueError: not fewer than there are training images.
        """
        if not 0 <= count < len(self.train):
            raise ValueError(f"validation: 0 to {len(self.train) - 1} images, got {count}")
        if not count:
            return self
        return dataclasses.replace(
            self,
            train=self.train[:-count],
            train_labels=self.train_labels[:-count],
            validation=self.train[-count:],
            validation_labels=self.train_labels[-count:],
        )

    def coded_for(self, extra: Mapping[str, Any]) -> Images:
        """The same images, coded as the network was trained or mapped (`extra` of its file).

        Raises:
          ValueError: the network's range of inputs does not hold the pixels of these images.
        """
        black, white = self.coding
        if "pixels" in extra:  # (pixel - mean) / std in [low, high]
            p = extra["pixels"]
            black, white = (p["mean"] + p["std"] * p[end] for end in ("low", "high"))
        elif "input_range" in extra:
            black, white = extra["input_range"]
        elif "white" in extra:
            black, white = extra.get("black", 0), extra["white"]
        if not (black <= self.black and white >= self.white):
            raise ValueError(
                f"the network codes inputs of the range [{black}, {white}], the images have pixels"
                f" of [{self.black}, {self.white}]"
            )
        return dataclasses.replace(self, black=black, white=white)


def load(name: str) -> Images:
    """Loads a data set of `DATASETS`.

    Raises:
      ValueError: unknown name. FileNotFoundError: not on this machine; says what to do.
    """
    if name not in DATASETS:
        raise ValueError(f"data set must be one of {DATASETS}, got {name!r}")
    if name == "digits":
        return _digits()
    if name == "cifar10":
        return _cifar10(find_dataset("cifar10"))
    full = name == "fashion_mnist" and "RWKVJAX_DATA" not in os.environ
    folder = _FULL_FASHION if full and _FULL_FASHION.is_dir() else find_dataset(name)
    parts = [
        read_idx(folder / f"{split}-{kind}-ubyte.gz")
        for split in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    ]
    note = f"{len(parts[0])} training and {len(parts[2])} test images"
    return Images(parts[0][..., None], parts[1], parts[2][..., None], parts[3], note=note)


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array of an IDX file in gzip."""
    data = gzip.decompress(path.read_bytes())
    head = np.frombuffer(data[:16], ">i4")
    if len(head) < 2 or int(head[0]) not in _IDX_MAGIC:
        raise ValueError(f"{path}: not an IDX file of unsigned bytes")
    rank = _IDX_MAGIC[int(head[0])]
    shape = tuple(int(n) for n in head[1 : 1 + rank])
    body = np.frombuffer(data, np.uint8, offset=4 * (1 + rank))
    if body.size != int(np.prod(shape)):
        raise ValueError(f"{path}: expected {shape}, found {body.size} bytes")
    return body.reshape(shape)


def _digits() -> Images:
    """scikit-learn's 8 x 8 digits; every fifth image is a test image.

    Its file is read as it lies: importing scikit-learn for a table takes two seconds.
    """
    spec = importlib.util.find_spec("sklearn")
    folder = Path((spec.submodule_search_locations or [""])[0]) if spec else Path()
    path = folder / "datasets" / "data" / "digits.csv.gz"
    if not spec or not path.is_file():
        raise FileNotFoundError("the digits come with scikit-learn: pip install scikit-learn")
    with gzip.open(path, "rt") as text:
        table = np.loadtxt(text, delimiter=",").astype(np.uint8)  # 64 pixels and the digit
    x, y = table[:, :64].reshape(-1, 8, 8, 1), table[:, 64]
    test = np.arange(len(y)) % 5 == 0
    return Images(x[~test], y[~test], x[test], y[test], white=16, note="8 x 8 digits")


def _cifar10(folder: Path) -> Images:
    """The complete set in its binary layout where it is there, else the JPEG subset."""
    if (folder / "test_batch.bin").is_file():
        names = [f"data_batch_{i}.bin" for i in range(1, 6)]
        pairs = [cifar10_records((folder / name).read_bytes()) for name in names]
        train, labels = (np.concatenate(part) for part in zip(*pairs, strict=True))
        test, test_labels = cifar10_records((folder / "test_batch.bin").read_bytes())
        return Images(train, labels, test, test_labels, note="complete")
    return _cifar10_jpeg(folder)


def _cifar10_jpeg(folder: Path) -> Images:
    """The JPEG subset, 8 000 training and 2 000 test images, in an order mixed once for all.

    The archive is sorted by class; held-out images at its end would be of one class only.
    """
    from PIL import Image

    names = (folder / "batches.meta.txt").read_text().split()
    splits: dict[str, list[tuple[np.ndarray, int]]] = {"train": [], "test": []}
    archive = folder / "cifar10_jpeg_8000train_2000test.tar.xz"
    with lzma.open(archive) as raw, tarfile.open(fileobj=io.BytesIO(raw.read())) as files:
        for member in files:
            parts = member.name.split("/")
            if not member.isfile() or parts[-3] not in splits:
                continue
            content = files.extractfile(member)
            assert content is not None
            image = np.asarray(Image.open(io.BytesIO(content.read())).convert("RGB"))
            splits[parts[-3]].append((image, names.index(parts[-2])))
    for pairs in splits.values():
        mixed = np.random.default_rng(0).permutation(len(pairs))
        pairs[:] = [pairs[i] for i in mixed]
    stack = lambda split: np.stack([x for x, _ in splits[split]])
    labels = lambda split: np.array([y for _, y in splits[split]], np.uint8)
    note = "JPEG subset, 8 000 training and 2 000 test images"
    return Images(stack("train"), labels("train"), stack("test"), labels("test"), note=note)


def cifar10_records(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, 32, 32, 3] and labels [N] of records in the original binary layout."""
    if not data or len(data) % 3073:
        raise ValueError(f"CIFAR-10 records have 3073 bytes each, got {len(data)} bytes")
    rows = np.frombuffer(data, np.uint8).reshape(-1, 3073)
    return rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), rows[:, 0]


def encode(pixels: Any, low: float, high: float) -> Any:
    """Lead times of pixels in [low, high].

    Raises:
      ValueError: a pixel outside the range: its spike would fall outside the input window.
    """
    if not high > low:
        raise ValueError(f"pixel range must be (low, high) with low < high, got ({low}, {high})")
    found = float(np.min(pixels)), float(np.max(pixels))
    if not (found[0] >= low and found[1] <= high):
        raise ValueError(f"input: pixel range is [{low}, {high}], found {found[0]} to {found[1]}")
    return (pixels - low) / (high - low)


# --- augmentation -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random changes of training images.

    Attributes:
      shift: largest translation, in pixels.
      rotate: largest rotation, in degrees.
      zoom: largest relative change of size.
      flip: mirror half of the images.
    """

    shift: float = 0.0
    rotate: float = 0.0
    zoom: float = 0.0
    flip: bool = False

    @property
    def none(self) -> bool:
        """True if nothing is changed."""
        return not (self.shift or self.rotate or self.zoom or self.flip)


def uniforms(indices: np.ndarray, seed: int, count: int) -> np.ndarray:
    """Numbers in [0, 1) that depend on (index, seed) only, [len(indices), count] (splitmix64)."""
    z: Any
    with np.errstate(over="ignore"):
        z = indices.astype(np.uint64)[:, None] * np.uint64(count)
        z = z + np.arange(count, dtype=np.uint64) + np.uint64(seed) * np.uint64(0xD1B54A32D192ED03)
        z = (z + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))) / 2.0**64


class ImageSource:
    """Batches {"image": uint8 [n, H, W, C], "label": int32 [n]}, reshuffled every epoch."""

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        seed: int | None = 0,
        augment: Augment | None = None,
    ):
        """Args: arrays; seed of order and augmentation (None: given order); what to change."""
        if len(images) != len(labels) or len(images) < 1:
            raise ValueError(f"{len(images)} images and {len(labels)} labels")
        self._images, self._labels = images, labels.astype(np.int32)
        self._seed, self._augment = seed, augment or Augment()

    def __len__(self) -> int:
        return len(self._images)

    def get(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """See `core.data.Source.get`."""
        indices = np.asarray(indices, np.int64)
        rows = permute.order(indices, len(self), self._seed)
        images = self._images[rows]
        if not self._augment.none:
            draws = uniforms(indices, (self._seed or 0) + 1, 6)
            images = distort(images, draws, self._augment)
        return {"image": images, "label": self._labels[rows]}


def distort(images: np.ndarray, draws: np.ndarray, how: Augment) -> np.ndarray:
    """Applies translation, rotation, zoom (bilinear, zeros outside) and mirroring."""
    n, height, width, _ = images.shape
    if how.flip:
        images = np.where(draws[:, 0, None, None, None] < 0.5, images[:, :, ::-1], images)
    if not (how.shift or how.rotate or how.zoom):
        return images
    centred = 2.0 * draws - 1.0
    if not (how.rotate or how.zoom):
        return _shifted(images, np.round(how.shift * centred[:, 3:5]).astype(np.int64))
    angle = np.deg2rad(how.rotate) * centred[:, 1]
    zoom = 1.0 + how.zoom * centred[:, 2]
    y, x = np.mgrid[:height, :width].astype(np.float64)
    y, x = y[None] - (height - 1) / 2, x[None] - (width - 1) / 2
    move = how.shift * centred[:, 3:5]
    cos, sin = (np.cos(angle) / zoom)[:, None, None], (np.sin(angle) / zoom)[:, None, None]
    rows = cos * y - sin * x + (height - 1) / 2 + move[:, 0, None, None]
    columns = sin * y + cos * x + (width - 1) / 2 + move[:, 1, None, None]
    padded = np.pad(images, ((0, 0), (1, 2), (1, 2), (0, 0)))
    rows, columns = np.clip(rows, -1, height) + 1, np.clip(columns, -1, width) + 1
    top, left = rows.astype(np.int64), columns.astype(np.int64)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    k = np.arange(n)[:, None, None]
    a, b = padded[k, top, left], padded[k, top, left + 1]
    c, d = padded[k, top + 1, left], padded[k, top + 1, left + 1]
    upper, lower = a + (b - a.astype(np.float64)) * right, c + (d - c.astype(np.float64)) * right
    return np.round(upper + (lower - upper) * down).astype(np.uint8)


def _shifted(images: np.ndarray, move: np.ndarray) -> np.ndarray:
    """Translation by whole pixels, which stay sharp; move [n, 2] is where (row, column) 0 reads."""
    n, height, width, _ = images.shape
    edge = int(np.abs(move).max())
    padded = np.pad(images, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    rows = np.arange(height) + edge + move[:, :1]
    columns = np.arange(width) + edge + move[:, 1:]
    return padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
