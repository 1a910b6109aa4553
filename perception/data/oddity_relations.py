# SPDX-License-Identifier: Apache-2.0
"""Oddity riddles 26 ... 44: metric properties, transformations, topology.

Protocol as in `oddity_figures`. `GIVEN` draws what all six frames of a riddle share.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from perception.data import oddity_shapes as sh
from perception.data.oddity_figures import Frame, Given, Line, riddle, sign
from perception.data.oddity_shapes import Points, Shape
from perception.data.streams import Stream

GIVEN: dict[int, Callable[[Stream], dict[str, float]]] = {
    26: lambda rng: {"distance": rng.real(5, 20)},
    32: lambda rng: {"part": rng.real(0.1, 0.9)},
    34: lambda rng: {"factor": rng.real(1.3, 3)},
    35: lambda rng: {"factor": rng.real(1.3, 3)},
}
DOT = 2.5


@riddle(26)
def _distance(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    line = Line(rng, 0.1)
    away = rng.real(5, 32) if odd else given["distance"]
    if odd and abs(away - given["distance"]) <= min(7 * contrast, 11):
        return None
    return [line.shape(), sh.dot(line.at(0, sign(rng) * away), DOT)]


def _dots(rng: Stream, places: list[float]) -> Frame:
    """Dots along an invisible line, at these fractions of its length."""
    length, way = rng.real(50, 75), sh.direction(rng.angle())
    return sh.anywhere(rng, [sh.dot(length * t * way, DOT) for t in places])


@riddle(27)
def _equidistant(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    shift = sign(rng) * min(rng.real(0.10, 0.12) * contrast, 0.2) if odd else 0.0
    return _dots(rng, [0, 1 / 3 + shift, 2 / 3 + shift, 1])


@riddle(28)
def _growing_gaps(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    growth = rng.real(1.45, 1.9)
    gaps = [1.0, growth, growth**2]
    if odd:
        gaps = [gaps[i] for i in rng.pick(((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1)))]
    return _dots(rng, (np.cumsum([0.0, *gaps]) / sum(gaps)).tolist())


@riddle(29)
def _circle_centre(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    radius = rng.real(10, 40)
    away = min(rng.real(0.2, 0.8) * contrast, 0.8) * radius if odd else 0.0
    mark = min(DOT, 0.15 * radius)
    centre = away * sh.direction(rng.angle())
    return sh.anywhere(rng, [sh.dot((0, 0), radius), sh.dot(centre, mark, "paper")])


@riddle(30)
def _quadrilateral_centre(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    angles = sorted(rng.angle() for _ in range(4))
    if min(np.diff([*angles, angles[0] + 2 * math.pi])) < 0.5:
        return None
    corners = 38 * np.array([sh.direction(a) for a in angles])
    a, c, b, d = corners  # diagonals a-b and c-d
    t = np.linalg.solve(np.stack([b - a, c - d], 1), c - a)[0]
    centre = a + t * (b - a)
    if odd:
        far = corners[np.argsort(np.hypot(*(corners - centre).T))[2:]].mean(0)
        centre = centre + min(rng.real(0.3, 0.7) * contrast, 0.8) * (far - centre)
        if np.hypot(*(centre - (a + t * (b - a)))) < 5:
            return None
    if _edge_distance(centre, corners) < DOT + 2:
        return None
    return sh.anywhere(rng, [sh.fill(corners), sh.dot(centre, DOT, "paper")])


def _edge_distance(point: Points, polygon: Points) -> float:
    """Distance of an inner point of a convex polygon from the nearest side's line."""
    along = np.roll(polygon, -1, axis=0) - polygon
    away = point - polygon
    cross = along[:, 0] * away[:, 1] - along[:, 1] * away[:, 0]
    return float(np.min(np.abs(cross) / np.hypot(*along.T)))


def _dot_on_line(rng: Stream, part: float, angle: float) -> Frame:
    length, way = rng.integer(50, 75), sh.direction(angle)
    line = sh.path([0 * way, length * way], rng.integer(1, 3))
    return sh.anywhere(rng, [line, sh.dot(part * length * way, 3)])


@riddle(31)
def _middle(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    off = min((0.5 - rng.real(0.1, 0.35)) * contrast, 0.45) if odd else 0.0
    return _dot_on_line(rng, 0.5 + sign(rng) * off, rng.angle())


@riddle(32)
def _fixed_proportion(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    part = rng.real(0.05, 0.95) if odd else given["part"]
    if odd and abs(part - given["part"]) <= min(0.2 * contrast, 0.4):
        return None
    return _dot_on_line(rng, part, 0.0)


TURNS = (15, 345)  # degrees by which an odd copy is turned
LEAST_DIFFERENCE = 0.25  # of the area: an odd copy has to look different


def _spun(rng: Stream, points: Points, contrast: float) -> Points | None:
    """The figure turned about its centroid; None where that is hard to see."""
    low = min(TURNS[0] * contrast, 60)
    angle = math.radians(rng.real(low, 360 - low))
    copy = sh.turned(points, angle, points.mean(0))
    return copy if sh.difference(points, copy) >= min(LEAST_DIFFERENCE * contrast, 0.4) else None


def _side_by_side(rng: Stream, first: Points, second: Points) -> Frame:
    """Two filled figures, a gap between them in a random direction."""
    way = sh.direction(rng.angle())
    gap = rng.real(4, 15)
    offset = (first @ way).max() + gap - (second @ way).min()
    slide = rng.real(-15, 15) * np.array([-way[1], way[0]])
    return sh.anywhere(rng, [sh.fill(first), sh.fill(second + offset * way + slide)])


@riddle(33)
def _translation(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    first = sh.triangle(rng, 46, 250)
    second = _spun(rng, first, contrast) if odd else first
    return None if second is None else _side_by_side(rng, first, second)


def _homothety(rng: Stream, factor: float, turn: bool, contrast: float) -> Frame:
    large = sh.triangle(rng, 58, 500)
    small = _spun(rng, large, contrast) if turn else large
    return None if small is None else _side_by_side(rng, small / factor, large)


@riddle(34)
def _homothety_orientation(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    return _homothety(rng, given["factor"], odd, contrast)


@riddle(35)
def _homothety_size(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    factor = given["factor"]
    if odd:
        step = min(1.5 * contrast, 2)
        options = [f for f in (factor - step, factor + step) if f >= 1.2]
        factor = rng.pick(options)
    return _homothety(rng, factor, False, contrast)


def _mirror_pair(rng: Stream, odd: bool, axis: float) -> Frame:
    """A triangle beside a drawn axis, and its mirror image or its translated copy."""
    first = sh.triangle(rng, 38, 150)
    along, aside = sh.direction(axis), sh.direction(axis + math.pi / 2)
    reach = (first @ aside).min()
    first = first + (4 - reach) * aside
    second = sh.mirrored(first, np.zeros(2), axis)
    if odd:
        copy = first - first.mean(0) + second.mean(0)
        if sh.difference(second, copy) < LEAST_DIFFERENCE or (copy @ aside).max() > -3:
            return None
        second = copy
    half = 40 * along
    shapes = [sh.fill(first), sh.fill(second), sh.path([-half, half], 1)]
    return sh.anywhere(rng, shapes, 2.0)


@riddle(36)
def _mirror_horizontal(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    return _mirror_pair(rng, odd, 0.0)


@riddle(37)
def _mirror_vertical(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    return _mirror_pair(rng, odd, math.pi / 2)


@riddle(38)
def _mirror_oblique(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    return _mirror_pair(rng, odd, math.radians(sign(rng) * rng.real(20, 70)))


@riddle(39)
def _half_turn(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    first = sh.triangle(rng, 38, 150)
    way = sh.direction(rng.angle())
    first = first + (6 - (first @ way).min()) * way
    second = -first
    if odd:
        copy = first - 2 * first.mean(0)
        if sh.difference(second, copy) < LEAST_DIFFERENCE or (copy @ way).max() > -4:
            return None
        second = copy
    return sh.anywhere(rng, [sh.fill(first), sh.fill(second), sh.dot((0, 0), DOT)], 2.0)


@riddle(40)
def _rotation(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    figure = sh.triangle(rng, 28, 120)
    if rng.coin():  # a fourth corner beyond one side
        outward = (figure[0] + figure[1]) / 2
        figure = np.insert(figure, 1, outward * rng.real(2.2, 2.8), axis=0)
        if len(sh.hull(figure)) < 4:
            return None
    stick = np.array([0.0, -rng.real(35, 45)])
    turn, start = math.radians(rng.real(35, 70)), rng.angle()
    second = sh.turned(figure, turn)
    if odd:
        spun = _spun(rng, second, contrast)
        if spun is None:
            return None
        second = spun
    ends = [stick, sh.turned(stick[None], turn)[0]]
    polygons = [figure + ends[0], second + ends[1]]
    if _overlap(*polygons):
        return None
    sticks = [sh.path([np.zeros(2), e], 1.5, "black") for e in ends]
    shapes = [*sticks, sh.dot(np.zeros(2), DOT), *(sh.fill(p) for p in polygons)]
    shapes = [Shape(s.kind, sh.turned(s.points, start), s.size, s.tone) for s in shapes]
    return sh.anywhere(rng, shapes, 3.0)


def _overlap(a: Points, b: Points) -> bool:
    """Whether the boxes of two figures meet."""
    return bool(np.all(a.max(0) + 2 > b.min(0)) and np.all(b.max(0) + 2 > a.min(0)))


def _corner(rng: Stream, polygon: Points) -> Points:
    return polygon[rng.integer(0, len(polygon) - 1)]


@riddle(41)
def _inside(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    outline = sh.blob(rng)
    centre = outline.mean(0)
    if odd:
        corner = np.array([rng.pick((8, 92)), rng.pick((8, 92))])
        point = corner + (centre - corner) * rng.real(0, 0.15)
    else:
        point = centre + rng.real(0, 0.6) * (_corner(rng, outline) - centre)
    if np.hypot(*(outline - point).T).min() < DOT + 3:
        return None
    return [sh.loop(outline), sh.dot(point, DOT)]


@riddle(42)
def _closure(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    outline = sh.blob(rng)
    if not odd:
        return [sh.loop(outline)]
    start = rng.integer(0, len(outline) - 1)
    outline = np.roll(outline, -start, axis=0)
    gap = min(10 * contrast, 40)
    lengths = np.cumsum(np.hypot(*np.diff(outline, axis=0).T))
    last = int(np.searchsorted(lengths, lengths[-1] - gap))
    opened = outline[:last]
    if np.hypot(*(opened[0] - opened[-1])) < 0.6 * gap:
        return None
    return [sh.path(opened, 2)]


@riddle(43)
def _connectedness(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    figure = sh.blob(rng)
    if not odd:
        return [sh.fill(figure)]
    band = min(rng.real(4, 6) * contrast, 15)
    way = sh.direction(rng.angle())
    level = (figure - figure.mean(0)) @ way + rng.real(-4, 4)
    parts = [_cut(figure, level - band / 2), _cut(figure, -level - band / 2)]
    return None if min(map(sh.area, parts)) < 120 else [sh.fill(p) for p in parts]


def _cut(figure: Points, level: Points) -> Points:
    """The part of a polygon where a linear function, given at its corners, is positive."""
    kept = []
    for p, q, u, v in zip(
        figure, np.roll(figure, -1, axis=0), level, np.roll(level, -1), strict=True
    ):
        if u > 0:
            kept.append(p)
        if (u > 0) != (v > 0):
            kept.append(p + (q - p) * (u / (u - v)))
    return np.array(kept) if len(kept) > 2 else np.zeros((3, 2))


@riddle(44)
def _holes(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    figure = sh.blob(rng)
    if not odd:
        return [sh.fill(figure)]
    centre = figure.mean(0)
    point = centre + rng.real(0, 0.4) * (_corner(rng, figure) - centre)
    radius = min(rng.real(4, 8) * contrast, 14)
    if np.hypot(*(figure - point).T).min() < radius + 4:
        return None
    return [sh.fill(figure), sh.dot(point, radius, "paper")]
