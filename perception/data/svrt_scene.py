# SPDX-License-Identifier: Apache-2.0
"""Scenes of the Synthetic Visual Reasoning Test and the engine that draws many of them at once.

The recipe of a problem (`svrt_problems`) is a Python generator: it yields requests for figures
(new contours, or known ones under a linear map), receives their stamps, and returns a filled
`Canvas`, or None where the layout failed and shapes and positions are to be drawn again. `render`
runs the recipes of a batch of images side by side and serves all their requests together, so that
the costly part, refining contours, is vectorised although every image follows its own path.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Sequence

import numpy as np

from perception.data import bitboard, streams
from perception.data.bitboard import Stamp
from perception.data.contours import IDENTITY, Contour, draw_contours, make_contours

Matrix = tuple[float, float, float, float]
ATTEMPTS = 100_000  # a recipe that fails this often in a row cannot succeed
_ACTIVE = 512  # recipes that run side by side


@dataclasses.dataclass(frozen=True)
class New:
    """Request of a new contour with points at hole <= r <= radius (pixels)."""

    radius: float
    hole: float


@dataclasses.dataclass(frozen=True)
class Again:
    """Request of a known contour under a linear map."""

    figure: Figure
    matrix: Matrix
    scale: float = 1.0
    angle: float = 0.0
    mirrored: bool = False


@dataclasses.dataclass(frozen=True)
class Figure:
    """A drawn contour: its stamp, which shape it is, and how it differs from that shape.

    shape: number of the contour within its scene. scale, angle (radians), mirrored: what was done
    to it, the mirror first (for reflections `angle` is twice the direction of the kept axis).
    """

    stamp: Stamp
    contour: Contour
    shape: int
    scale: float = 1.0
    angle: float = 0.0
    mirrored: bool = False

    def flipped(self) -> Figure:
        """Its left-right mirror image, pixel by pixel."""
        return dataclasses.replace(self, stamp=self.stamp.mirrored(), mirrored=not self.mirrored)


@dataclasses.dataclass(frozen=True)
class Part:
    """One figure of a scene: shape number, centre (x, y) in pixels, transform (see `Figure`), and
    its pixels as a bitboard."""

    shape: int
    x: int
    y: int
    scale: float
    angle: float
    mirrored: bool
    ink: int = dataclasses.field(repr=False)

    def mask(self) -> np.ndarray:
        """bool [128, 128]: where this figure inks the image."""
        return bitboard.to_array(self.ink).reshape(bitboard.SIZE, bitboard.SIZE).astype(bool)


@dataclasses.dataclass(frozen=True)
class Scene:
    """What an image shows: problem 1..23, label (1: the rule holds), its parts, and for labels
    that arise in two ways (problems 8 and 23) which of them it is."""

    problem: int
    label: int
    parts: tuple[Part, ...]
    kind: str


class Canvas:
    """An image in the making. `ink` are its black pixels, `blocked` where no ink may be added."""

    def __init__(self) -> None:
        self.ink = 0
        self.blocked = 0
        self.parts: list[Part] = []
        self.kind = ""

    def fits(self, figure: Figure, x: int, y: int) -> bool:
        """Whether the figure keeps a white pixel to the frame and to all other figures."""
        stamp = figure.stamp
        return stamp.inside(x, y) and not (stamp.at(x, y) & self.blocked)

    def put(self, figure: Figure, x: int, y: int, *, touching: bool = False) -> bool:
        """Draws the figure where it fits and says whether it did; `touching` figures only have to
        keep clear of the frame."""
        if not (figure.stamp.inside(x, y) if touching else self.fits(figure, x, y)):
            return False
        ink = figure.stamp.at(x, y)
        self.ink |= ink
        self.blocked = bitboard.grow8(self.ink)
        transform = figure.scale, figure.angle, figure.mirrored
        self.parts.append(Part(figure.shape, x, y, *transform, ink))
        return True

    def put_anywhere(
        self, rng: streams.Stream, figure: Figure, tries: int = 100, forbidden: int = 0
    ) -> bool:
        """Draws the figure at a uniform position where it fits and meets no `forbidden` pixel."""
        for _ in range(tries):
            x, y = rng.integer(0, 127), rng.integer(0, 127)
            if self.fits(figure, x, y) and not figure.stamp.at(x, y) & forbidden:
                return self.put(figure, x, y)
        return False

    def put_on(self, rng: streams.Stream, figure: Figure, centres: int) -> bool:
        """Draws the figure at one of `centres` (a bitboard), False where there is none."""
        found = bitboard.positions(centres)
        if not len(found):
            return False
        x, y = (int(v) for v in found[rng.integer(0, len(found) - 1)])
        return self.put(figure, x, y)

    def put_all(self, figures: Sequence[Figure], centres: Sequence[tuple[int, int]]) -> bool:
        """Draws each figure at its centre; False as soon as one does not fit."""
        return all(self.put(f, x, y) for f, (x, y) in zip(figures, centres, strict=True))


Recipe = Generator[list[New | Again], list[Figure], Canvas | None]
RecipeFunction = Callable[[streams.Stream, int], Recipe]


class _Run:
    """One image on its way through its recipe."""

    def __init__(self, recipe: RecipeFunction, key: int, label: int):
        self._recipe, self._key, self._label = recipe, key, label
        self._rng = streams.Stream(key)
        self._attempts = 0
        self._contours = 0
        self.canvas: Canvas | None = None
        self._start()

    def _start(self) -> None:
        self._attempts += 1
        if self._attempts > ATTEMPTS:
            raise RuntimeError(f"no layout found in {ATTEMPTS} attempts (image key {self._key})")
        self._generator = self._recipe(self._rng, self._label)
        self._shapes = 0
        self.wants = next(self._generator)

    def contour_counter(self) -> int:
        """Numbers the contours asked for, over all attempts."""
        self._contours += 1
        return self._contours

    def receive(self, figures: list[Figure]) -> None:
        """Hands over what the recipe waits for and runs it to its next request or its end."""
        try:
            self.wants = self._generator.send(figures)
        except StopIteration as end:
            self.canvas = end.value
            if self.canvas is None:
                self._start()

    def shape_number(self) -> int:
        """Numbers the contours of this attempt from 0."""
        self._shapes += 1
        return self._shapes - 1


def render(recipe: RecipeFunction, keys: np.ndarray, labels: np.ndarray) -> list[Canvas]:
    """Runs one recipe for many images.

    Args:
      recipe: generator function (stream, label) -> canvas.
      keys: uint64 [n], see `streams.image_keys`; canvas k depends on keys[k] and labels[k] only.
      labels: int [n].
    """
    canvases: list[Canvas] = []
    for begin in range(0, len(keys), _ACTIVE):
        chunk = slice(begin, begin + _ACTIVE)
        runs = [
            _Run(recipe, int(k), int(y)) for k, y in zip(keys[chunk], labels[chunk], strict=True)
        ]
        waiting = runs
        while waiting:
            _serve(waiting, keys[chunk])
            waiting = [run for run in waiting if run.canvas is None]
        canvases += [run.canvas for run in runs if run.canvas is not None]
    return canvases


def _serve(runs: list[_Run], keys: np.ndarray) -> None:
    """Answers the present requests of all runs with one call each of the two slow functions."""
    fresh = [(run, want) for run in runs for want in run.wants if isinstance(want, New)]
    contours: list[Contour] = []
    if fresh:
        owners = np.array([run._key for run, _ in fresh], np.uint64)
        numbers = np.array([run.contour_counter() for run, _ in fresh], np.uint64)
        contours = make_contours(
            streams.child_keys(owners, numbers),
            np.array([want.radius for _, want in fresh]),
            np.array([want.hole for _, want in fresh]),
        )
    new = iter(contours)
    jobs: list[tuple[Contour, Matrix]] = []
    for run in runs:
        for want in run.wants:
            if isinstance(want, New):
                jobs.append((next(new), IDENTITY))
            else:
                jobs.append((want.figure.contour, want.matrix))
    stamps = iter(draw_contours([c for c, _ in jobs], [m for _, m in jobs]))
    done = iter(jobs)
    for run in runs:
        figures = []
        for want in run.wants:
            stamp, (contour, _) = next(stamps), next(done)
            if isinstance(want, New):
                figures.append(Figure(stamp, contour, run.shape_number()))
            else:
                shape, transform = want.figure.shape, (want.scale, want.angle, want.mirrored)
                figures.append(Figure(stamp, contour, shape, *transform))
        run.receive(figures)
