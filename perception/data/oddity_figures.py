# SPDX-License-Identifier: Apache-2.0
"""Oddity riddles 0 ... 25: colour, lines, figures, symmetry, handedness.

Each riddle draws one frame: `riddle(rng, odd, given, contrast)` returns its figures, or None where
the draw has to be repeated. `odd` asks for the frame that breaks the concept, by `contrast` times
the published deviation where it has a size; `given` holds what all frames of a riddle share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from perception.data import oddity_shapes as sh
from perception.data.oddity_shapes import Points, Shape
from perception.data.streams import Stream

Given = Mapping[str, float]
Frame = list[Shape] | None
Riddle = Callable[[Stream, bool, Given, float], Frame]
RIDDLES: dict[int, Riddle] = {}


def riddle(number: int) -> Callable[[Riddle], Riddle]:
    """Registers a riddle under its published index."""

    def register(function: Riddle) -> Riddle:
        RIDDLES[number] = function
        return function

    return register


def sign(rng: Stream) -> float:
    return 1.0 if rng.coin() else -1.0


def _rectangle(rng: Stream, least: float = 5.0) -> tuple[float, float]:
    """Sides from U{20..50} that differ by `least` or more."""
    while True:
        w, h = rng.integer(20, 50), rng.integer(20, 50)
        if abs(w - h) >= least:
            return w, h


def _box(w: float, h: float) -> Points:
    return np.array([(-w, -h), (w, -h), (w, h), (-w, h)]) / 2


class Line:
    """A straight line: length U{40..60-100o}, centre U{35+100o..65-100o}², thickness U{1..3}."""

    def __init__(self, rng: Stream, inset: float = 0.0):
        """Args: inset o, 0 ... 0.15: room kept for what is drawn beside the line."""
        reach = round(100 * inset)
        self.length = rng.integer(40, 60 - reach)
        self.centre = np.array([rng.integer(35 + reach, 65 - reach) for _ in range(2)], float)
        self.width = rng.integer(1, 3)
        self.angle = math.radians(rng.integer(0, 180))

    def at(self, along: float, aside: float = 0.0) -> Points:
        """The point `along` from the centre and `aside` from the line."""
        return (
            self.centre
            + along * sh.direction(self.angle)
            + aside * sh.direction(self.angle + math.pi / 2)
        )

    def shape(self) -> Shape:
        half = self.length / 2
        return sh.path([self.at(-half), self.at(half)], self.width)


@riddle(0)
def _colour(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    points = _box(*_rectangle(rng))
    return sh.anywhere(rng, [sh.fill(points) if odd else sh.loop(points)])


@riddle(1)
def _orientation(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    tilt = sign(rng) * min(rng.integer(15, 45) * contrast, 45) if odd else 0
    points = sh.turned(_box(*_rectangle(rng)), math.radians(tilt))
    return sh.anywhere(rng, [sh.fill(points)])


def _curve(rng: Stream, line: Line, contrast: float) -> Shape:
    """Quadratic Bézier curve between the line's ends."""
    half = line.length / 2
    start, end = line.at(-half), line.at(half)
    control = line.at(sign(rng) * rng.integer(0, 10), sign(rng) * rng.integer(10, 25) * contrast)
    t = np.linspace(0, 1, 24)[:, None]
    return sh.path((1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end, line.width)


@riddle(2)
def _straight(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    line = Line(rng)
    return [_curve(rng, line, contrast) if odd else line.shape()]


@riddle(3)
def _curved(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    line = Line(rng)
    return [line.shape() if odd else _curve(rng, line, contrast)]


@riddle(4)
def _point_on_line(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    line = Line(rng, 0.1)
    aside = sign(rng) * rng.integer(10, 15) * contrast if odd else 0.0
    along = rng.real(-0.3, 0.3) * line.length
    return [line.shape(), sh.dot(line.at(along, aside), 3 + line.width / 2)]


@riddle(5)
def _point_in_line(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    line = Line(rng, 0.1)
    aside = sign(rng) * rng.integer(10, 15) * contrast if odd else 0.0
    along = sign(rng) * (line.length / 2 + rng.integer(10, 15))
    return [line.shape(), sh.dot(line.at(along, aside), 3)]


def _two_lines(rng: Stream, parallel: bool, contrast: float) -> Frame:
    first, second = Line(rng), Line(rng)
    gap = rng.integer(5, 15) if parallel else rng.integer(10, 25)
    tilt = 0 if parallel else sign(rng) * min(rng.integer(10, 30) * contrast, 80)
    second.centre = first.at(0, sign(rng) * gap)
    second.angle = first.angle + math.radians(tilt)
    if parallel and gap < (first.width + second.width) / 2 + 2:
        return None
    shapes = [first.shape(), second.shape()]
    low, high = sh.extent(shapes)
    return shapes if low.min() > 1 and high.max() < sh.SIDE - 1 else None


@riddle(6)
def _parallel(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    return _two_lines(rng, not odd, contrast)


@riddle(7)
def _secant(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    return _two_lines(rng, odd, contrast)


def _crossing(rng: Stream, odd: bool, half: bool, contrast: float) -> Frame:
    first, second = Line(rng), Line(rng)
    second.centre, second.length = first.centre, first.length
    away = min((90 - rng.integer(25, 65)) * contrast, 75) if odd else 0
    second.angle = first.angle + math.radians(90 + sign(rng) * away) + math.pi * rng.coin()
    reach = second.length / 2
    return [
        first.shape(),
        sh.path([second.at(0 if half else -reach), second.at(reach)], second.width),
    ]


@riddle(8)
def _right_angle_cross(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    return _crossing(rng, odd, False, contrast)


@riddle(9)
def _right_angle_t(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    return _crossing(rng, odd, True, contrast)


def _turned(rng: Stream, points: Points) -> Frame:
    """The filled polygon, turned by any angle."""
    return sh.anywhere(rng, [sh.fill(sh.turned(points, rng.angle()))])


@riddle(10)
def _quadrilateral(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    points = sh.scattered(rng, 50, 35, 65)
    corners = [points[np.argmax(points @ d)] for d in ((1, 1), (-1, 1), (-1, -1), (1, -1))]
    figure = np.array(corners)
    if odd:
        figure = np.delete(figure, rng.integer(0, 3), axis=0)
    if min(sh.side_lengths(figure)) <= 5 or max(sh.corner_angles(figure)) > math.radians(150):
        return None
    return _turned(rng, figure)


@riddle(11)
def _trapezoid(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    bottom, top, height = (rng.integer(20, 42) for _ in range(3))
    slide = rng.real(-10, 10)
    figure = np.array([(-bottom, height), (bottom, height), (top, -height), (-top, -height)]) / 2
    figure[2:, 0] += slide
    if odd:
        figure = sh.sorted_by_angle(sh.scattered(rng, 4, 0, 45))
        if sh.area(figure) < 300 or max(sh.corner_angles(figure)) > math.radians(150):
            return None
        if len(sh.hull(figure)) < 4 or _least_slant(figure) < min(0.6 * contrast, 0.9):
            return None
    return _turned(rng, figure)


def _least_slant(figure: Points) -> float:
    """The smaller angle (radians) between opposite sides of a quadrilateral."""
    sides = np.roll(figure, -1, axis=0) - figure
    angles = np.arctan2(sides[:, 1], sides[:, 0])
    gaps = [abs((angles[k] - angles[k + 2] + math.pi / 2) % math.pi - math.pi / 2) for k in (0, 1)]
    return min(gaps)


@riddle(12)
def _parallelogram(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    w, h = rng.integer(20, 35), rng.integer(20, 35)
    left = rng.real(50, 130)
    right = left + (sign(rng) * rng.real(10, 30) * contrast if odd else 0)
    if not 35 < right < 145:
        return None
    up = [h * sh.direction(math.radians(a)) for a in (left, right)]
    figure = np.array([(0, 0), (w, 0), (w + up[1][0], up[1][1]), up[0]])
    return _turned(rng, figure) if len(sh.hull(figure)) == 4 else None


@riddle(13)
def _rectangle_or_parallelogram(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    w, h = rng.integer(20, 35), rng.integer(20, 35)
    corner = 90 - min((90 - rng.real(44, 75)) * contrast, 60) if odd else 90
    x, y = h * sh.direction(math.radians(corner))
    return _turned(rng, np.array([(0, 0), (w, 0), (w + x, y), (x, y)]))


@riddle(14)
def _square(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    w, h = _rectangle(rng, min(5 * contrast, 25))
    return _turned(rng, _box(w, h if odd else w))


@riddle(15)
def _equilateral(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    base = rng.integer(25, 50)
    a, b = (rng.integer(25, 50), rng.integer(25, 50)) if odd else (base, base)
    least = min(10 * contrast, 12)
    if odd and (abs(a - base) < least or abs(b - base) < least or a + b < base + 8):
        return None
    x = (base**2 + a**2 - b**2) / (2 * base)
    if a * a - x * x < 150:
        return None
    return _turned(rng, np.array([(0, 0), (base, 0), (x, math.sqrt(a * a - x * x))]))


@riddle(16)
def _right_triangle(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    width = rng.integer(6, 7)
    figure = np.array([(0, 0), (rng.integer(25, 50), 0), (0, rng.integer(25, 50))], float)
    if odd:
        radius = rng.integer(20, 40)
        figure = radius * np.array([sh.direction(rng.angle()) for _ in range(3)])
        away = [abs(math.degrees(a) - 90) for a in sh.corner_angles(figure)]
        if min(away) < min(15 * contrast, 25) or min(sh.side_lengths(figure)) < 20:
            return None
    outline = Shape("loop", sh.turned(figure, rng.angle()), width, "black")
    return sh.anywhere(rng, [outline])


@riddle(17)
def _circle(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    a = b = rng.integer(10, 35)
    if odd:
        b = rng.integer(10, 35)
        if abs(a - b) < 5 * contrast:
            return None
    angles = np.arange(72) * (2 * math.pi / 72)
    ellipse = np.stack([a * np.cos(angles), b * np.sin(angles)], 1)
    return sh.anywhere(rng, [sh.fill(sh.turned(ellipse, rng.angle()))])


@riddle(18)
def _convex(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    figure = sh.hull(sh.scattered(rng, 10, 15, 85))
    if len(figure) < 5 or sh.area(figure) < 900:
        return None
    if odd:
        place = rng.integer(0, len(figure) - 1)
        if sh.side_lengths(figure)[place] < 15:
            return None
        figure = np.insert(figure, place + 1, figure.mean(0), axis=0)
    return sh.anywhere(rng, [sh.fill(sh.corner_cut(figure))])


LOBES, LOBE_LENGTH = 4, 16.0


def _lobed(rng: Stream, odd: bool, axis: float, contrast: float) -> Frame:
    """Parabolic lobes along an axis on both sides; odd: the second side has other heights."""
    right = [rng.real(5, 35) for _ in range(LOBES)]
    left = [rng.real(5, 35) for _ in range(LOBES)] if odd else right
    change = sum(abs(a - b) for a, b in zip(left, right, strict=True))
    if odd and change < min(15 * contrast, 40):
        return None
    profiles = []
    t = np.arange(8) / 8
    for heights in (right, left):
        x = np.concatenate([(k + t) * LOBE_LENGTH for k in range(LOBES)] + [[LOBES * LOBE_LENGTH]])
        y = np.concatenate([1 + 4 * h * t * (1 - t) for h in heights] + [[1.0]])
        profiles.append(np.stack([x, y], 1))
    figure = np.concatenate([profiles[0], profiles[1][::-1] * [1, -1]])
    figure = sh.turned(figure - [LOBES * LOBE_LENGTH / 2, 0], axis)
    return sh.anywhere(rng, [sh.fill(figure)], 2.0)


@riddle(19)
def _vertical_symmetry(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    return _lobed(rng, odd, math.pi / 2, contrast)


@riddle(20)
def _horizontal_symmetry(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    return _lobed(rng, odd, 0.0, contrast)


@riddle(21)
def _oblique_symmetry(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    return _lobed(rng, odd, math.radians(sign(rng) * rng.real(20, 70)), contrast)


def _disc_flag(rng: Stream, odd: bool, angle: float) -> Frame:
    """A pole with a disc at its upper end, on the right of who looks along the pole."""
    pole, radius = rng.integer(30, 50), rng.integer(5, 10)
    side = -1 if odd else 1
    top = np.array([(side * (radius + 1), radius - pole)])
    pole_ends = sh.turned(np.array([(0.0, 0), (0, -pole)]), angle)
    return sh.anywhere(rng, [sh.path(pole_ends, 2), sh.dot(sh.turned(top, angle), radius)])


def _stick_flag(rng: Stream, odd: bool, angle: float) -> Frame:
    """A pole with two sticks at its upper end, on the right."""
    pole = rng.integer(30, 50)
    reach = (-1 if odd else 1) * rng.real(0.3, 0.4) * pole
    gap = rng.real(0.25, 0.35) * pole
    sticks = [[(0.0, y), (reach, y)] for y in (-pole, gap - pole)]
    parts = [[(0.0, 0.0), (0.0, -float(pole))], *sticks]
    return sh.anywhere(rng, [sh.path(sh.turned(np.array(p), angle), 2) for p in parts])


@riddle(22)
def _disc_flag_upright(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    return _disc_flag(rng, odd, 0.0)


@riddle(23)
def _stick_flag_upright(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    return _stick_flag(rng, odd, 0.0)


@riddle(24)
def _disc_flag_turned(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    return _disc_flag(rng, odd, rng.angle())


@riddle(25)
def _stick_flag_turned(rng: Stream, odd: bool, given: Given, contrast: float) -> Frame:
    return _stick_flag(rng, odd, rng.angle())
