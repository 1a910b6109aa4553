# SPDX-License-Identifier: Apache-2.0
"""The visual oddity task: six frames, five follow a geometric concept, one breaks it.

    riddles = oddity.Oddity(riddle=3, split="train", seed=0)
    batch = riddles.get(np.arange(32))
    # {"image": uint8 [32, 6, 100, 100], "label": int32 [32], "riddle": int32 [32]}

45 riddles after S. Dehaene et al., "Core knowledge of geometry in an Amazonian indigene group",
Science 311 (2006), with the quantities of S. Woźniak et al., "On the visual analytic intelligence
of neural networks", Nature Communications 14 (2023). The label is the position of the odd frame.

What gives the answer away in the published images is mended unless `leaks=True`: marks and holes
are as bright as their frame's background instead of pure white, and every figure has the riddle's
ink, also where the published generator draws black.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from perception.data import image_set, oddity_relations, raster, streams
from perception.data.oddity_figures import RIDDLES
from perception.data.oddity_shapes import SIDE, Shape
from perception.data.streams import Stream

VERSION = 2
FRAMES = 6
SIZES = {"train": 2_560, "validation": 640, "test": 640}
COMBINED_SIZES = {"train": 72_000, "validation": 18_000, "test": 18_000}
_TOGETHER = 4  # riddles rendered by one call: their frames stay in the cache
SEEDS = range(10)  # the published number of repetitions

FAMILIES: dict[str, tuple[int, ...]] = {
    "colour_orientation": (0, 1),
    "euclidean_geometry": tuple(range(2, 10)),
    "geometrical_figures": tuple(range(10, 19)),
    "symmetrical_figures": tuple(range(19, 22)),
    "chiral_figures": tuple(range(22, 26)),
    "metric_properties": tuple(range(26, 33)),
    "transformations": tuple(range(33, 41)),
    "topology": tuple(range(41, 45)),
}
NAMES = (
    *("colour", "orientation", "straight line", "curved line", "point on a line"),
    *("point in line", "parallel lines", "secant lines", "right angle, cross", "right angle, T"),
    *("quadrilateral", "trapezoid", "parallelogram", "rectangle", "square", "equilateral triangle"),
    *("right triangle", "circle", "convex figure", "vertical axis", "horizontal axis"),
    *("oblique axis", "disc flag, upright", "stick flag, upright", "disc flag, turned"),
    *("stick flag, turned", "distance", "equal gaps", "growing gaps", "centre of a circle"),
    *("centre of a quadrilateral", "middle of a segment", "fixed proportion", "translation"),
    *("homothety, orientation", "homothety, size", "mirror, horizontal axis"),
    *("mirror, vertical axis", "mirror, oblique axis", "point symmetry", "rotation", "inside"),
    *("closure", "connectedness", "holes"),
)


@dataclasses.dataclass(frozen=True)
class Scene:
    """One riddle: its number, the odd position, ink grey, backgrounds and figures of each frame."""

    riddle: int
    label: int
    ink: int
    backgrounds: tuple[int, ...]
    frames: tuple[tuple[Shape, ...], ...]


class Oddity(image_set.ImageSet):
    """Riddles of one or more kinds; see `image_set.ImageSet` for order, memory and disk cache."""

    def __init__(
        self,
        riddle: int | str | Sequence[int] = "all",
        split: str = "train",
        size: int | None = None,
        seed: int = 0,
        *,
        without: str | Sequence[int] = (),
        resolution: int = 100,
        contrast: float = 1.0,
        leaks: bool = False,
        shuffle: bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        workers: int = 0,
    ):
        """Describes a set.

        Args:
          riddle: a number 0 ... 44, several, the name of a family (`FAMILIES`), or "all". Of
            several riddles each problem draws one, uniformly.
          split: "train", "validation" or "test".
          size: number of problems; by default the published `SIZES`, or `COMBINED_SIZES` for more
            than one riddle.
          seed: `SEEDS` are the published repetitions.
          without: riddles or a family held out: train on "all" without "topology", test on
            "topology".
          resolution: pixels per side of a frame, at least 16; 100 as published.
          contrast: how far the odd frame deviates, 0.5 ... 3 times the published amount, for the
            riddles where the deviation has a size. Below 1 is harder, above 1 easier.
          leaks: keep the published giveaways, see the module docstring.
          shuffle, cache_dir, workers: as `ImageSet`.

        Raises:
          ValueError: an argument out of range, or nothing left to draw.
        """
        held_out = set(riddle_numbers(without)) if without != () else set()
        self.riddles = tuple(r for r in riddle_numbers(riddle) if r not in held_out)
        if not self.riddles:
            raise ValueError(f"no riddle is left of {riddle!r} without {without!r}")
        if resolution < 16:
            raise ValueError(f"resolution must be at least 16 pixels, got {resolution}")
        if not 0.5 <= contrast <= 3:
            raise ValueError(f"contrast must be in 0.5 ... 3, got {contrast}")
        self.resolution, self.contrast, self.leaks = resolution, contrast, leaks
        if size is None:
            size = (SIZES if len(self.riddles) == 1 else COMBINED_SIZES).get(split, 1)
        self._names: tuple[int | str, ...] = ("oddity", *self.riddles)
        details = f"{resolution}px", f"contrast{contrast:g}", "leaks" if leaks else "mended"
        super().__init__(
            (*self._names, *details), VERSION, split, size, seed,
            shuffle=shuffle, cache_dir=cache_dir, workers=workers,
        )  # fmt: skip

    def scenes(self, rows: np.ndarray) -> list[Scene]:
        """What the problems number `rows` of this split show."""
        keys = streams.image_keys(self.seed, [*self._names, self.split], rows)
        return [_scene(Stream(int(key)), self.riddles, self.contrast) for key in keys]

    def make(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Images uint8 [n, 6, R, R], labels and riddles; see `ImageSet.make`."""
        scenes = self.scenes(rows)
        return {
            "image": draw(scenes, self.resolution, self.leaks),
            "label": np.array([s.label for s in scenes], np.int32),
            "riddle": np.array([s.riddle for s in scenes], np.int32),
        }


def riddle_numbers(what: int | str | Sequence[int]) -> tuple[int, ...]:
    """Riddle numbers of a number, several numbers, a family or "all".

    Raises:
      ValueError: no such riddle or family.
    """
    if isinstance(what, str):
        if what == "all":
            return tuple(range(len(RIDDLES)))
        if what not in FAMILIES:
            raise ValueError(f"families are all, {', '.join(FAMILIES)}; got {what!r}")
        return FAMILIES[what]
    numbers = (what,) if isinstance(what, (int, np.integer)) else tuple(what)
    for number in numbers:
        if number not in RIDDLES:
            raise ValueError(f"riddles are numbered 0 ... {len(RIDDLES) - 1}, got {number!r}")
    return tuple(int(n) for n in numbers)


def family_of(riddle: int) -> str:
    """The family that a riddle belongs to."""
    return next(name for name, members in FAMILIES.items() if riddle in members)


def _scene(rng: Stream, riddles: Sequence[int], contrast: float) -> Scene:
    number = rng.pick(riddles)
    draw_given = oddity_relations.GIVEN.get(number)
    given = draw_given(rng) if draw_given else {}
    ink = rng.integer(0, 60)
    label = rng.integer(0, FRAMES - 1)
    frames = []
    for place in range(FRAMES):
        shapes = None
        while shapes is None:
            shapes = RIDDLES[number](rng, place == label, given, contrast)
        frames.append(tuple(shapes))
    backgrounds = tuple(rng.integer(235, 255) for _ in range(FRAMES))
    return Scene(number, label, ink, backgrounds, tuple(frames))


def draw(scenes: Sequence[Scene], resolution: int = 100, leaks: bool = False) -> np.ndarray:
    """Renders riddles: uint8 [n, 6, resolution, resolution]."""
    groups = []
    for begin in range(0, len(scenes), _TOGETHER):
        part = scenes[begin : begin + _TOGETHER]
        frames = [f for scene in part for f in _layers(scene, resolution / SIDE, leaks)]
        paper = np.concatenate([scene.backgrounds for scene in part])
        groups.append(raster.paint(frames, paper, resolution, resolution))
    return np.concatenate(groups).reshape(len(scenes), FRAMES, resolution, resolution)


def _layers(scene: Scene, scale: float, leaks: bool) -> list[list[raster.Layer]]:
    """What is painted on each frame of a riddle."""
    frames = []
    for shapes, background in zip(scene.frames, scene.backgrounds, strict=True):
        tones = {
            "ink": scene.ink,
            "black": 0 if leaks else scene.ink,
            "paper": 255 if leaks else background,
        }
        layers: list[raster.Layer] = []
        for shape in shapes:
            polygons, grey = shape.polygons(scale), float(tones[shape.tone])
            if layers and layers[-1].grey == grey:  # figures of one tone are painted at once
                layers[-1].polygons.extend(polygons)
            else:
                layers.append(raster.Layer(polygons, grey))
        frames.append(layers)
    return frames
