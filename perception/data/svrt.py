# SPDX-License-Identifier: Apache-2.0
"""The Synthetic Visual Reasoning Test: 23 two-class problems on images of 128 x 128 pixels.

    images = svrt.Svrt(problem=1, split="train", size=500, seed=0)
    batch = images.get(np.arange(100))      # {"image": uint8 [100, 128, 128], "label": int32 [100]}

Paper is 255 and ink 0. Label 1: the rule of the problem holds; image k has label k mod 2. The
recipes lie in `svrt_problems`, how they are drawn in `svrt_scene` and `contours`.
"""

from __future__ import annotations

import os

import numpy as np

from perception.data import bitboard, image_set, streams
from perception.data.svrt_problems import PROBLEMS
from perception.data.svrt_scene import Canvas, Scene, render

SIZE = bitboard.SIZE
VERSION = 1  # raise when the images of a (problem, split, seed, index) change: old caches expire


class Svrt(image_set.ImageSet):
    """Images of one problem; see `image_set.ImageSet` for order, memory and disk cache."""

    def __init__(
        self,
        problem: int,
        split: str = "train",
        size: int = 500,
        seed: int = 0,
        *,
        shuffle: bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        workers: int = 0,
    ):
        """Args: problem 1 ... 23; the rest as `ImageSet`."""
        check_problem(problem)
        self.problem = problem
        super().__init__(
            ("svrt", problem), VERSION, split, size, seed,
            shuffle=shuffle, cache_dir=cache_dir, workers=workers,
        )  # fmt: skip

    def make(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Packed images uint8 [n, 2048] and labels; see `ImageSet.make`."""
        canvases = self._render(rows)
        return {
            "image": np.stack([bitboard.packed(c.ink) for c in canvases]),
            "label": _labels(rows).astype(np.int32),
        }

    def unpack(self, stored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Stored arrays as the arrays of a batch."""
        ink = np.unpackbits(stored["image"], axis=-1, bitorder="little")
        image = (255 * (1 - ink)).reshape(-1, SIZE, SIZE)
        return {"image": image, "label": stored["label"]}

    def scenes(self, rows: np.ndarray) -> list[Scene]:
        """What the images number `rows` of this split show."""
        rows = np.asarray(rows, np.int64)
        return [
            Scene(self.problem, int(label), tuple(canvas.parts), canvas.kind)
            for label, canvas in zip(_labels(rows), self._render(rows), strict=True)
        ]

    def _render(self, rows: np.ndarray) -> list[Canvas]:
        keys = streams.image_keys(self.seed, ("svrt", self.problem, self.split), rows)
        return render(PROBLEMS[self.problem], keys, _labels(rows))


def check_problem(problem: int) -> None:
    """Raises ValueError unless the problem is one of the 23."""
    if problem not in PROBLEMS:
        raise ValueError(f"SVRT has problems 1 ... {len(PROBLEMS)}, got {problem!r}")


def _labels(rows: np.ndarray) -> np.ndarray:
    return rows % 2
