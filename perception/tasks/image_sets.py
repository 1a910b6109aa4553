# SPDX-License-Identifier: Apache-2.0
"""Data sets of visual reasoning by name, and whole images as a source of training examples.

svrt/1 ... svrt/23               SVRT problems
svrt_ood/original, svrt_ood/lines, ...   SVRT problem 1 and its out-of-distribution families
art/same_different/95, ...       ART tasks; the number of glyphs held out for testing
clevr_lite/rmts/standard, ...    rendered stand-in for CLEVR-ART; the shapes of the test objects
clevr_art/rmts, ...              the original, from the data set "clevr_art" (`core.datasets`)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core import datasets, permute
from core.data import Source
from perception.data import image_set

ImageSet = image_set.ImageSet


def open_set(name: str, split: str, size: int, seed: int = 0, workers: int = 0) -> ImageSet:
    """The set of that name; images are drawn when first read, and kept in the user's cache.

    Args:
      name: see the module.
      split: "train", "validation" or "test".
      size: number of problems; smaller sets are the beginning of larger ones.
      seed: of the images.
      workers: processes that draw; 0 draws in this one.

    Raises:
      ValueError: an unknown name, or a set without such a split.
      FileNotFoundError: the pictures of "clevr_art" are not there.
    """
    kind, *rest = name.split("/")
    common: dict[str, Any] = {
        "split": split,
        "size": size,
        "seed": seed,
        "cache_dir": image_set.default_cache_dir(),
        "workers": workers,
    }
    if kind == "svrt" and len(rest) == 1 and rest[0].isdigit():
        from perception.data import svrt

        return svrt.Svrt(problem=int(rest[0]), **common)
    if kind == "svrt_ood" and len(rest) == 1:
        from perception.data import svrt_ood

        return svrt_ood.SvrtOod(family=rest[0], **common)
    if kind in ("art", "art_unicode") and len(rest) == 2 and rest[1].isdigit():
        from perception.data import art, glyphs

        own = glyphs.unicode_glyphs() if kind == "art_unicode" else None
        return art.Art(task=rest[0], held_out=int(rest[1]), glyphs=own, **common)
    if kind == "clevr_lite" and len(rest) == 2:
        from perception.data import clevr_lite

        return clevr_lite.ClevrLite(task=rest[0], shapes=rest[1], **common)
    if kind == "clevr_art" and len(rest) == 1:
        from perception.data import clevr_lite

        folder = datasets.find_dataset("clevr_art")
        return clevr_lite.ClevrArt(folder, rest[0], split, size, seed)
    raise ValueError(
        "a data set is named svrt/PROBLEM, svrt_ood/FAMILY, art/TASK/HELD_OUT,"
        f" art_unicode/TASK/HELD_OUT, clevr_lite/TASK/SHAPES or clevr_art/TASK, got {name!r}"
    )


def candidates(images: np.ndarray, grey: bool) -> np.ndarray:
    """Images [B, H, H(, 3)] or [B, P, H, H(, 3)] as uint8 [B, P, H, H, C]; C = 1 if `grey`."""
    colour = images.shape[-1] == 3
    if images.ndim - colour == 3:
        images = images[:, None]
    if not colour:
        return images[..., None]
    return images.mean(axis=-1, keepdims=True).round().astype(np.uint8) if grey else images


def flip(images: np.ndarray, which: int) -> np.ndarray:
    """Images [..., H, H, C] mirrored left-right if bit 0 is set, and top-bottom if bit 1 is."""
    if which & 1:
        images = images[..., ::-1, :]
    return images[..., ::-1, :, :] if which & 2 else images


def flips_of(indices: np.ndarray, seed: int) -> np.ndarray:
    """One of the four flips for each position of the training stream, [n] int64 in 0 ... 3."""
    salt = np.uint64(permute.derive_seed(seed, "flips"))
    return (permute.mix64(np.asarray(indices).astype(np.uint64) ^ salt) & np.uint64(3)).astype(int)


class Reader:
    """Which image, in which flip, comes at a position of the stream of examples.

    In training every epoch is shuffled anew and each example flipped at random; otherwise the
    images come once, in order.
    """

    def __init__(
        self,
        size: int,
        train: bool,
        flips: bool,
        seed: int,
        recombine: float = 0.0,
        splice: float = 0.0,
    ):
        """Describes a stream.

        Args:
          size: images.
          train: shuffle, and all that follows.
          flips: draw flips.
          seed: of all that is drawn.
          recombine: share of the examples of label 0 that are changed by `donors`.
          splice: share of the examples of label 0 that are changed by `halves`.
        """
        self.size, self.train, self.flips, self.seed = size, train, flips and train, seed
        self.recombine = recombine if train else 0.0
        self.splice = splice if train else 0.0

    def __call__(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(rows, flips) for positions of the stream; ValueError for a negative one."""
        indices = np.asarray(indices, np.int64)
        rows = permute.order(indices, self.size, self.seed if self.train else None)
        none = np.zeros(len(indices), int)
        return rows, flips_of(indices, self.seed) if self.flips else none

    def donors(self, indices: np.ndarray, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Which image the contents come from at each position: [n], mostly `rows`.

        A share `recombine` of the examples of label 0 receive the contents of any image at
        their own places: what and where do not belong together, so that the rule does not hold,
        though the contents may look as if it did.
        """
        if not self.recombine:
            return rows
        drawn = self._draw(indices, "recombine", 2)
        others = (drawn[1] * self.size).astype(rows.dtype)
        return np.where((drawn[0] < self.recombine) & (labels == 0), others, rows)

    def halves(
        self, indices: np.ndarray, labels: np.ndarray, ones: np.ndarray, steps: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Two images for each position, and how many fixations come from the first.

        A share `splice` of the examples of label 0 begin with the scan path of one image of label 1
        and end with that of another: each part looks as if the rule held, but not with the other.

        Args:
          indices: positions of the stream, [n].
          labels: of the examples there, [n].
          ones: images of label 1, at least two.
          steps: number T of fixations.

        Returns:
          (first images, second images, cuts in T/4 ... 3T/4), each [n]; -1 where nothing changes.
        """
        drawn = self._draw(indices, "splice", 4)
        changed = (drawn[0] < self.splice) & (labels == 0)
        low = max(steps // 4, 1)
        one = (drawn[1] * len(ones)).astype(int)
        other = (one + 1 + (drawn[2] * (len(ones) - 1)).astype(int)) % len(ones)
        first, second = ones[one], ones[other]
        cuts = low + (drawn[3] * (steps - 2 * low + 1)).astype(int)
        return tuple(np.where(changed, x, -1) for x in (first, second, cuts))  # type: ignore

    def _draw(self, indices: np.ndarray, name: str, count: int) -> np.ndarray:
        """Uniform numbers in [0, 1) [count, n], functions of seed, name and position."""
        at = np.asarray(indices).astype(np.uint64)
        salts = [permute.derive_seed(self.seed, f"{name} {i}") for i in range(count)]
        bits = [permute.mix64(at ^ np.uint64(salt)) >> np.uint64(11) for salt in salts]
        return np.stack(bits).astype(np.float64) * 2.0**-53


class WholeImages(Source):
    """Examples "image" uint8 [B, P, H, H, C] and "label" [B], for networks that see all at once."""

    def __init__(self, images: ImageSet, reader: Reader, grey: bool):
        """Args: images: the set; reader: their order; grey: as in `candidates`."""
        self._images, self._reader, self._grey = images, reader, grey

    def __len__(self) -> int:
        return len(self._images)

    def get(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """See `Source.get`."""
        rows, flips = self._reader(indices)
        batch = self._images.rows(rows)
        images = candidates(batch["image"], self._grey)
        if self._reader.flips:
            images = np.stack([flip(x, which) for x, which in zip(images, flips, strict=True)])
        return {"image": images, "label": batch["label"]}
