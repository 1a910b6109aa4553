# SPDX-License-Identifier: Apache-2.0
"""Relational match to sample and identity rules with solids on a floor: clevr-art-lite.

    train = clevr_lite.ClevrLite(task="rmts", split="train", size=10_000, seed=0)

A simply rendered stand-in for CLEVR-ART (T. Webb et al., "Systematic visual reasoning through
object-centric relational abstraction", 2023) with its objects, colours and layout: no feature of a
test object occurs in training. Results on it are not comparable with published ones.
`ClevrArt` reads the original pictures where they are at hand.
"""

from __future__ import annotations

import hashlib
import math
import os
import pathlib
from typing import NamedTuple

import numpy as np

from perception.data import art, image_set, solids, streams

VERSION = 1
SIZE = 128
_SCALE = 13.0  # pixels per unit of length

COLOURS = {
    "gray": (87, 87, 87),
    "red": (173, 35, 35),
    "blue": (42, 75, 215),
    "green": (29, 105, 20),
    "brown": (129, 74, 25),
    "purple": (129, 38, 192),
    "cyan": (41, 208, 208),
    "yellow": (255, 238, 51),
}


class Solid(NamedTuple):
    """One object: its features as in CLEVR."""

    colour: str
    shape: str
    size: float
    material: str


TRAIN_OBJECTS = tuple(
    Solid(colour, "cube", size, "rubber")
    for colour in ("cyan", "brown", "green", "gray")
    for size in (0.3, 0.5)
)
# Objects of the test sets: the standard one, and two with other shapes.
TEST_SHAPES = {
    "standard": ("cylinder", "sphere"),
    "sphere_pyramid": ("sphere", "pyramid"),
    "torus_pyramid": ("torus", "pyramid"),
}
_PLACES = {
    "rmts": tuple((x, y) for x in (2.8, -2.8) for y in (1.4, -1.4)),
    "identity": tuple((x, y) for x in (2.8, -2.8) for y in (2.8, 0.0, -2.8)),
}


def test_objects(shapes: str = "standard") -> tuple[Solid, ...]:
    """The eight objects of a test set, see `TEST_SHAPES`."""
    if shapes not in TEST_SHAPES:
        raise ValueError(f"shapes must be one of {', '.join(TEST_SHAPES)}, got {shapes!r}")
    return tuple(
        Solid(colour, shape, 0.7, "metal")
        for colour in ("yellow", "purple", "blue", "red")
        for shape in TEST_SHAPES[shapes]
    )


class ClevrLite(image_set.ImageSet):
    """Problems of one task; see `image_set.ImageSet` for order, memory and disk cache."""

    def __init__(
        self,
        task: str,
        split: str = "train",
        size: int = 10_000,
        seed: int = 0,
        *,
        shapes: str = "standard",
        shuffle: bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        workers: int = 0,
    ):
        """Describes a set.

        Args:
          task: "rmts" (4 objects, 2 images per problem) or "identity" (6 objects, 4 images).
          split: "train" and "validation" use the training objects, "test" the others.
          size, seed, shuffle, cache_dir, workers: as `ImageSet`.
          shapes: of the test objects, see `TEST_SHAPES`.

        Raises:
          ValueError: an unknown task or kind of shapes.
        """
        if task not in _PLACES:
            raise ValueError(f"task must be one of {', '.join(_PLACES)}, got {task!r}")
        test = test_objects(shapes)
        if split != "test" and shapes != "standard":
            raise ValueError(f"shapes={shapes!r} is a test set, got split {split!r}")
        self.task = task
        self.objects = test if split == "test" else TRAIN_OBJECTS
        super().__init__(
            ("clevr_lite", task, shapes), VERSION, split, size, seed,
            shuffle=shuffle, cache_dir=cache_dir, workers=workers,
        )  # fmt: skip

    def problems(self, rows: np.ndarray) -> list[art.Problem]:
        """The problems number `rows`; glyph numbers stand for `self.objects`."""
        names = ("clevr_lite", self.task, self.split)
        return art.numbered_problems(
            self.task, np.arange(len(self.objects)), self.seed, names, rows
        )

    def make(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Images uint8 [n, P, 128, 128, 3] and labels int32 [n]; see `ImageSet.make`."""
        problems = self.problems(rows)
        keys = streams.image_keys(self.seed, ("clevr_lite", self.task, self.split), rows)
        images = [
            self._draw_problem(p, streams.Stream(int(k)))
            for p, k in zip(problems, keys, strict=True)
        ]
        return {"image": np.stack(images), "label": np.array([p.label for p in problems], np.int32)}

    def _draw_problem(self, problem: art.Problem, rng: streams.Stream) -> np.ndarray:
        turn, light = math.radians(rng.integer(135, 149)), rng.integer(0, solids.LIGHTS - 1)
        c, s = math.cos(turn), math.sin(turn)
        floor = []
        for x, y in _PLACES[self.task]:
            x, y = x + rng.real(-0.1, 0.1), y + rng.real(-0.1, 0.1)
            floor.append(np.array([c * x - s * y, s * x + c * y, 0.0]))
        return np.stack([self._draw_panel(panel, floor, light) for panel in problem.panels])

    def _draw_panel(self, names: list[int], floor: list[np.ndarray], light: int) -> np.ndarray:
        picture = solids.floor_picture(SIZE)
        placed = []
        for name, place in zip(names, floor, strict=True):
            thing = self.objects[name]
            x = SIZE / 2 + _SCALE * float(place @ solids.RIGHT)
            y = SIZE / 2 + 6 - _SCALE * 4 / 3 * float(place @ solids.UP)
            phase = int(x % 1 * solids.PHASES), int(y % 1 * solids.PHASES)
            item = solids.sprite(thing.shape, thing.size, light, phase, _SCALE)
            placed.append((float(place @ solids.BACK), item, int(y), int(x), thing))
        for _, item, row, column, _ in placed:
            solids.paste_shade(picture, item, row, column)
        for _, item, row, column, thing in sorted(placed, key=lambda p: p[0]):  # far ones first
            colour = np.array(COLOURS[thing.colour], np.float32)
            solids.paste(picture, item, row, column, colour, thing.material == "metal")
        return np.rint(np.clip(picture, 0, 255)).astype(np.uint8)


class ClevrArt(image_set.ImageSet):
    """The original CLEVR-ART pictures, where a user has them.

    Expected below `folder`: rmts_images or idrules_images with train_ood and test_ood (or
    test_ood_<variant>), each holding prob_<k>/CLEVR_<m>.png, and RMTS_ood_<split>.npz or
    identity_rules_ood_<split>.npz with the answers `y`.
    """

    _FOLDERS = {
        "rmts": ("rmts_images", "RMTS", 2),
        "identity": ("idrules_images", "identity_rules", 4),
    }

    def __init__(
        self,
        folder: str | os.PathLike[str],
        task: str,
        split: str = "train",
        size: int | None = None,
        seed: int = 0,
        *,
        variant: str = "",
        shuffle: bool | None = None,
    ):
        """Opens a set.

        Args:
          folder: see the class.
          task: "rmts" or "identity".
          split: "train" or "test".
          size: number of problems, the first ones; by default all.
          seed: of the order of a shuffled set.
          variant: suffix of the folder of another test set.
          shuffle: see `ImageSet`.

        Raises:
          FileNotFoundError: a folder or the file of answers is missing.
          ValueError: an unknown task or split, fewer problems than asked for, or answers that do
            not fit.
        """
        if task not in self._FOLDERS or split not in ("train", "test"):
            raise ValueError(
                f"need task rmts or identity, split train or test; got {task}, {split}"
            )
        name, prefix, self._panels = self._FOLDERS[task]
        root = pathlib.Path(folder) / name
        self._images = root / f"{split}_ood{variant}"
        answers = root / f"{prefix}_ood_{split}.npz"
        for path in (self._images, answers):
            if not path.exists():
                raise FileNotFoundError(f"no CLEVR-ART {task} {split} set: {path} is missing")
        with np.load(answers, allow_pickle=False) as stored:
            self._labels = np.asarray(stored["y"]).astype(np.int32)
        # prob_<k> belongs to answer k; some numbers may be absent.
        self._numbers = sorted(int(p.name[5:]) for p in self._images.glob("prob_*"))
        size = len(self._numbers) if size is None else size
        if size > len(self._numbers) or not self._numbers:
            raise ValueError(f"{self._images} holds {len(self._numbers)} problems, wanted {size}")
        if self._labels.ndim == 2 and self._labels.shape[1] == 1:
            self._labels = self._labels[:, 0]
        shape, wrong = self._labels.shape, (self._labels < 0) | (self._labels >= self._panels)
        if len(shape) != 1 or self._numbers[-1] >= len(self._labels) or wrong.any():
            raise ValueError(
                f"{answers} must hold one answer in 0 ... {self._panels - 1} for each problem up to"
                f" number {self._numbers[-1]}, got shape {shape}, values {np.unique(self._labels)}"
            )
        # Glimpses are kept under this name: other pictures need another one.
        place = hashlib.blake2b(str(self._images.resolve()).encode(), digest_size=4).hexdigest()
        super().__init__(("clevr_art", task, place), VERSION, split, size, seed, shuffle=shuffle)

    def make(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Images uint8 [n, P, 128, 128, 3] and labels int32 [n]; see `ImageSet.make`."""
        from PIL import Image

        numbers = [self._numbers[row] for row in rows]
        images = np.zeros((len(rows), self._panels, SIZE, SIZE, 3), np.uint8)
        for i, number in enumerate(numbers):
            for panel in range(self._panels):
                with Image.open(self._images / f"prob_{number}" / f"CLEVR_{panel}.png") as picture:
                    small = picture.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
                    images[i, panel] = np.asarray(small)
        return {"image": images, "label": self._labels[numbers]}
