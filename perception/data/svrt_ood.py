# SPDX-License-Identifier: Apache-2.0
"""Same or different in other styles than the training images: 13 families beside SVRT problem 1.

    test = svrt_ood.SvrtOod(family="arrows", split="test", seed=0)

Each image shows two figures on white paper, 128 x 128 RGB; label 1: they are equal up to
translation (image k has label k mod 2). Families after G. Puebla, J. Bowers, "Can deep
convolutional neural networks support relational reasoning in the same-different task?", Journal
of Vision 22 (2022), with the sizes that the GAP experiments use. "original" is problem 1 itself.
Figures keep a white pixel between them and to the frame, and neither lies inside the other; the
pieces of a scrambled figure count as one figure.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import numpy as np

from perception.data import bitboard, image_set, streams
from perception.data.bitboard import Stamp
from perception.data.streams import Stream
from perception.data.svrt_problems import PROBLEMS
from perception.data.svrt_scene import render

VERSION = 1
SIZE = bitboard.SIZE
SIZES = {"train": 28_000, "validation": 5_600, "test": 5_600}

Pair = tuple[Stamp, Stamp, int]  # two figures, and how far their centres keep from the frame


class SvrtOod(image_set.ImageSet):
    """Images of one family; see `image_set.ImageSet` for order, memory and disk cache."""

    def __init__(
        self,
        family: str,
        split: str = "test",
        size: int | None = None,
        seed: int = 0,
        *,
        shuffle: bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        workers: int = 0,
    ):
        """Describes a set.

        Args:
          family: "original" or one of `FAMILIES`.
          split: "train" and "validation" only for families in `TRAINABLE`.
          size: number of images; by default `SIZES[split]`.
          seed, shuffle, cache_dir, workers: as `ImageSet`.

        Raises:
          ValueError: an unknown family, or one that has no such split.
        """
        if family != "original" and family not in FAMILIES:
            raise ValueError(f"family must be original, {', '.join(FAMILIES)}; got {family!r}")
        if split != "test" and family not in TRAINABLE:
            raise ValueError(f"family {family!r} is for testing only, got split {split!r}")
        self.family = family
        size = SIZES.get(split, 1) if size is None else size
        super().__init__(
            ("svrt_ood", family), VERSION, split, size, seed,
            shuffle=shuffle, cache_dir=cache_dir, workers=workers,
        )  # fmt: skip

    def make(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Packed ink [n, 2048], its colour [n, 3] and labels; see `ImageSet.make`."""
        keys = streams.image_keys(self.seed, ("svrt_ood", self.family, self.split), rows)
        labels = rows % 2
        colours = np.zeros((len(rows), 3), np.uint8)
        if self.family == "original":
            inks = [canvas.ink for canvas in render(PROBLEMS[1], keys, labels)]
        else:
            inks = []
            for i, (key, label) in enumerate(zip(keys, labels, strict=True)):
                rng = Stream(int(key))
                inks.append(_draw(FAMILIES[self.family], rng, bool(label)))
                if self.family == "random_colour":
                    colours[i] = [rng.integer(0, 255) for _ in range(3)]
        return {
            "image": np.stack([bitboard.packed(ink) for ink in inks]),
            "colour": colours,
            "label": labels.astype(np.int32),
        }

    def unpack(self, stored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Stored arrays as {"image": uint8 [n, 128, 128, 3], "label": int32 [n]}."""
        ink = np.unpackbits(stored["image"], axis=-1, bitorder="little").reshape(-1, SIZE, SIZE, 1)
        return {
            "image": 255 - ink * (255 - stored["colour"])[:, None, None],
            "label": stored["label"],
        }


def _draw(family: Callable[[Stream, bool], Pair], rng: Stream, same: bool) -> int:
    """The ink of two figures at random places within the frame, redrawn altogether while they
    meet: large figures are rarer, as in the published sets."""
    while True:
        first, second, margin = family(rng, same)
        a, b = _place(rng, first, margin), _place(rng, second, margin)
        if a is None or b is None or _nested(first, a, second, b) or _nested(second, b, first, a):
            continue
        one, other = first.at(*a), second.at(*b)
        if not bitboard.grow8(one) & other:
            return one | other


def _place(rng: Stream, stamp: Stamp, margin: int) -> tuple[int, int] | None:
    """A uniform centre at which the figure keeps a white pixel to the frame, if there is one."""
    low = max(1 - stamp.x0, margin), max(1 - stamp.y0, margin)
    high = SIZE - 2 - max(stamp.x1, margin), SIZE - 2 - max(stamp.y1, margin)
    x, y = (low[0], high[0]), (low[1], high[1])
    if x[0] > x[1] or y[0] > y[1]:
        return None
    return rng.integer(*x), rng.integer(*y)


def _nested(outer: Stamp, a: tuple[int, int], inner: Stamp, b: tuple[int, int]) -> bool:
    """Whether the second figure's box lies in the box of the first."""
    return (
        a[0] + outer.x0 <= b[0] + inner.x0
        and a[1] + outer.y0 <= b[1] + inner.y0
        and b[0] + inner.x1 <= a[0] + outer.x1
        and b[1] + inner.y1 <= a[1] + outer.y1
    )


def _lines(points: np.ndarray, closed: bool) -> Stamp:
    """A polyline one pixel wide, 8-connected: the larger step of a segment is one pixel."""
    points = np.rint(points).astype(int)
    if closed:
        points = np.concatenate([points, points[:1]])
    pieces = []
    for a, b in zip(points[:-1], points[1:], strict=True):
        n = max(int(np.abs(b - a).max()), 1)
        pieces.append(np.rint(a + (b - a) * (np.arange(n + 1) / n)[:, None]).astype(int))
    return _stamp(np.concatenate(pieces))


def _stamp(pixels: np.ndarray) -> Stamp:
    zeros = np.zeros(len(pixels), int)
    return bitboard.stamps_of_pixels(zeros, pixels[:, 0], pixels[:, 1], 1)[0]


def _regular(sides: int, radius: float, turn: float) -> np.ndarray:
    angles = turn + np.arange(sides) * (2 * math.pi / sides)
    return radius * np.stack([np.cos(angles), np.sin(angles)], 1)


def _polygons(rng: Stream, same: bool, noise: bool, draw: Callable[[np.ndarray], Stamp]) -> Pair:
    """Two polygons of one radius; equal, or with different numbers of sides."""
    sides = rng.order(5)[:2]
    radius = rng.integer(10, 39)
    stamps = []
    for n in sides[: 1 if same else 2]:
        points = _regular(n + 3, radius, rng.angle())
        if noise:  # one integer per vertex moves it along the diagonal
            reach = radius // 2
            points = points + [[rng.integer(-reach, reach)] for _ in points]
            points = points[np.argsort(np.arctan2(points[:, 1], points[:, 0]))]
        stamps.append(draw(points))
    return stamps[0], stamps[-1], radius + radius // 2


def _closed(points: np.ndarray) -> Stamp:
    return _lines(points, closed=True)


def _wide(points: np.ndarray) -> Stamp:
    """Three pixels wide, which is what the drawing library makes of a nominal two."""
    thin = _closed(points)
    bits = thin.bits << (SIZE + 1)
    bits |= (bits << 1) | (bits >> 1) | (bits << SIZE) | (bits >> SIZE)
    return Stamp(bits, thin.x0 - 1, thin.y0 - 1, thin.x1 + 1, thin.y1 + 1)


def _scrambled(rng: Stream, same: bool) -> Pair:
    """Different: the quadrants of the copy are pushed outwards by distinct amounts."""
    radius = rng.integer(10, 17)
    whole = _closed(_regular(rng.integer(3, 7), radius, rng.angle()))
    if same:
        return whole, whole, 0
    rows, cols = np.divmod(np.flatnonzero(bitboard.to_array(whole.bits)), SIZE)
    pixels = np.stack([cols + whole.x0, rows + whole.y0], 1)
    pushes = rng.order(radius // 2)
    for k, (sx, sy) in enumerate(((1, 1), (-1, 1), (-1, -1), (1, -1))):
        quadrant = ((pixels[:, 0] >= 0) == (sx > 0)) & ((pixels[:, 1] >= 0) == (sy > 0))
        pixels[quadrant] += np.array([sx, sy]) * (pushes[k] + 1)
    return whole, _stamp(pixels), 0


def _step_line(rng: Stream, same: bool) -> Pair:
    """Two open squares joined at a corner; different: mirrored."""
    s = rng.integer(10, 24)
    points = s * np.array([(0, -1), (-1, -1), (-1, 0), (0, 0), (1, 0), (1, 1), (0, 1)])
    return _or_mirrored(points, closed=False, same=same)


def _connected_squares(rng: Stream, same: bool) -> Pair:
    """Two closed squares joined at a corner; different: mirrored."""
    s = rng.integer(10, 24)
    points = s * np.array([(0, 0), (0, -1), (-1, -1), (-1, 0), (0, 0), (1, 0), (1, 1), (0, 1)])
    return _or_mirrored(points, closed=True, same=same)


def _or_mirrored(points: np.ndarray, closed: bool, same: bool) -> Pair:
    first = _lines(points, closed)
    return first, first if same else _lines(points * [-1, 1], closed), 0


def _arrows(rng: Stream, same: bool) -> Pair:
    """A shaft with a head (none, pointing out, pointing in) at each end; different: other heads,
    but as many."""
    radius, turn = rng.integer(4, 10), math.radians(rng.integer(0, 135))
    kinds = [(a, b) for a in range(3) for b in range(3) if a or b]
    heads = rng.pick(kinds)
    others = [k for k in kinds if k != heads and k.count(0) == heads.count(0)]
    second = heads if same else rng.pick(others)
    return _arrow(radius, turn, heads), _arrow(radius, turn, second), 0


def _arrow(radius: float, turn: float, heads: tuple[int, int]) -> Stamp:
    shaft, length, half = 1.5 * radius, 0.9 * radius, 0.6 * radius
    paths = [np.array([(-shaft, 0), (shaft, 0), (-shaft, 0)])]
    for side, head in zip((-1, 1), heads, strict=True):
        tip, base = (shaft + length, shaft) if head == 1 else (shaft, shaft + length)
        if head:
            x = side * np.array([shaft, base, tip, base, base, shaft])
            paths.append(np.stack([x, [0, half, 0, -half, half, 0]], 1))
    c, s = math.cos(turn), math.sin(turn)
    pixels = [np.argwhere(_array(_lines(p @ [[c, s], [-s, c]], False))) for p in paths]
    return _stamp(np.concatenate(pixels)[:, ::-1])


def _array(stamp: Stamp) -> np.ndarray:
    """bool [129, 129]: the figure with its centre in the middle."""
    canvas = np.zeros((129, 129), bool)
    rows, cols = np.divmod(np.flatnonzero(bitboard.to_array(stamp.bits)), SIZE)
    canvas[rows + stamp.y0 + 64, cols + stamp.x0 + 64] = True
    return canvas


def _rectangles(rng: Stream, same: bool) -> Pair:
    """One side equal, the other equal or different; sides 16, 20 ... 60."""
    common, a, b = (16 + 4 * k for k in (rng.integer(0, 11), *rng.order(12)[:2]))
    upright = rng.coin()
    stamps = []
    for other in (a, a if same else b):
        w, h = (common, other) if upright else (other, common)
        stamps.append(_closed(np.array([(0, 0), (w, 0), (w, h), (0, h)])))
    return stamps[0], stamps[1], 0


def _straight_lines(rng: Stream, same: bool) -> Pair:
    """One direction, equal or different lengths 16, 20 ... 60."""
    lengths = [16 + 4 * k for k in rng.order(12)[:2]]
    angle = math.radians(rng.pick((0, 45, 90, 135)))
    end = np.array([math.cos(angle), math.sin(angle)])
    first, second = (_lines(np.array([0 * end, n * end]), False) for n in lengths)
    return first, first if same else second, 0


def _connected_circles(rng: Stream, same: bool) -> Pair:
    """Two touching circles, one above the other; different: in the other order."""
    radii = [(6, 10, 14, 18)[k] for k in rng.order(4)[:2]]
    first, second = (_stacked(*order) for order in (radii, radii[::-1]))
    return first, first if same else second, 0


def _stacked(upper: int, lower: int) -> Stamp:
    circles = [_circle(upper) - [0, upper], _circle(lower) + [0, lower]]
    return _stamp(np.concatenate(circles))


def _circle(radius: int) -> np.ndarray:
    """Pixels [n, 2] of a thin circle around the origin."""
    near = np.arange(int(radius / math.sqrt(2) + 0.5) + 1)
    far = np.rint(np.sqrt(radius**2 - near**2)).astype(int)
    octants = [(near, far), (far, near), (-near, far), (far, -near)]
    half = np.concatenate([np.stack(pair, 1) for pair in octants])
    return np.concatenate([half, -half])


FAMILIES: dict[str, Callable[[Stream, bool], Pair]] = {
    "irregular": lambda rng, same: _polygons(rng, same, True, _closed),
    "regular": lambda rng, same: _polygons(rng, same, False, _closed),
    "open": lambda rng, same: _polygons(rng, same, True, lambda p: _lines(p, False)),
    "wider_line": lambda rng, same: _polygons(rng, same, True, _wide),
    "random_colour": lambda rng, same: _polygons(rng, same, True, _closed),
    "filled": lambda rng, same: _polygons(rng, same, True, lambda p: _closed(p).filled()),
    "scrambled": _scrambled,
    "lines": _step_line,
    "arrows": _arrows,
    "rectangles": _rectangles,
    "straight_lines": _straight_lines,
    "connected_squares": _connected_squares,
    "connected_circles": _connected_circles,
}
TRAINABLE = ("original", *list(FAMILIES)[:9])
