# SPDX-License-Identifier: Apache-2.0
"""Where the figures of an SVRT scene go: point patterns, and the conditions they must meet.

Centres are integer pixels (x, y) of the 128 x 128 image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from perception.data import bitboard
from perception.data.streams import Stream

Point = tuple[int, int]
W = bitboard.SIZE
CLUTTER = W // 6  # centres of small shapes differ by at least this much in x or y
NEAR = W // 20  # problem 14: no centre this near to the segment of the other two
APART = W // 6  # least difference of distances that are meant to differ
NEIGHBOURHOOD = W // 2  # problem 13: largest offset in x and y


def point(rng: Stream) -> Point:
    return rng.integer(0, W - 1), rng.integer(0, W - 1)


def moved(centre: Point, offset: Point) -> Point:
    return centre[0] + offset[0], centre[1] + offset[1]


def rounded(x: float, y: float) -> Point:
    return round(x), round(y)


def distance(a: Point, b: Point) -> float:
    return math.hypot(a[0] - b[0], a[1] - b[1])


def cluttered(centres: Sequence[Point]) -> bool:
    """Whether some pair of centres is closer than CLUTTER in both axes."""
    return any(
        abs(a[0] - b[0]) < CLUTTER and abs(a[1] - b[1]) < CLUTTER
        for i, a in enumerate(centres)
        for b in centres[:i]
    )


def propose(
    rng: Stream, margin: float, layout: Callable[[], Sequence[Point] | None]
) -> list[Point]:
    """Centres from `layout`, drawn until it accepts its own proposal and no centre lies so near to
    the frame that any shape with a hole of radius `margin` would cross it."""
    low, high = margin, W - 1 - margin
    while True:
        centres = layout()
        if centres is not None and all(low < v < high for c in centres for v in c):
            return list(centres)


def unless_cluttered(centres: list[Point]) -> list[Point] | None:
    return None if cluttered(centres) else centres


def opposite(rng: Stream, radius: float) -> tuple[Point, Point]:
    """Two opposite points at a distance `radius` from a random centre."""
    (x, y), angle = point(rng), rng.angle()
    dx, dy = radius * math.cos(angle), radius * math.sin(angle)
    return rounded(x + dx, y + dy), rounded(x - dx, y - dy)


def on_a_line(rng: Stream) -> tuple[Point, Point, Point]:
    """Two random points and one between them, in the order along the line."""
    a, b, t = point(rng), point(rng), rng.real(0.25, 0.75)
    return a, rounded(a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])), b


def square(rng: Stream) -> list[Point]:
    """The corners of a square with a random centre, half diagonal and angle."""
    (x, y), radius, angle = point(rng), rng.real(0, W / 2), rng.angle()
    turns = [angle + k * math.pi / 2 for k in range(4)]
    return [rounded(x + radius * math.cos(a), y + radius * math.sin(a)) for a in turns]


def nearly_square(centres: Sequence[Point]) -> bool:
    """Whether four random centres could be taken for the corners of a square."""
    d = sorted(distance(a, b) for i, a in enumerate(centres) for b in centres[:i])
    return d[3] - d[0] < 8 and d[5] - d[4] < 8


def offset(rng: Stream) -> Point:
    return rng.integer(-NEIGHBOURHOOD, NEIGHBOURHOOD), rng.integer(-NEIGHBOURHOOD, NEIGHBOURHOOD)


def offset_change(a: Point, b: Point, c: Point, d: Point) -> float:
    """How far c - a is from d - b."""
    return math.hypot(c[0] - a[0] - d[0] + b[0], c[1] - a[1] - d[1] + b[1])


def near_a_segment(centres: Sequence[Point]) -> bool:
    """Whether some centre lies within NEAR pixels of the segment between the other two."""
    for k in range(3):
        p, a, b = (np.array(centres[(k + j) % 3], float) for j in range(3))
        along = float(np.clip((p - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1))
        if np.hypot(*(p - a - along * (b - a))) <= NEAR:
            return True
    return False


def left_half(rng: Stream) -> list[Point]:
    """Three centres in the left half."""
    return [(rng.integer(0, W // 2 - 1), rng.integer(0, W - 1)) for _ in range(3)]


def with_mirror_images(centres: list[Point]) -> list[Point] | None:
    return unless_cluttered(centres + [(W - 1 - x, y) for x, y in centres])


def circumcentre(a: Point, b: Point, c: Point) -> tuple[float, float] | None:
    """The point as far from a as from b and c; None where the three are collinear."""
    bx, by, cx, cy = b[0] - a[0], b[1] - a[1], c[0] - a[0], c[1] - a[1]
    d = 2 * (bx * cy - by * cx)
    if d == 0:
        return None
    b2, c2 = bx * bx + by * by, cx * cx + cy * cy
    return a[0] + (cy * b2 - by * c2) / d, a[1] + (bx * c2 - cx * b2) / d
