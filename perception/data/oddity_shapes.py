# SPDX-License-Identifier: Apache-2.0
"""What a frame of the oddity task shows: figures in units of a hundredth of the frame's side.

x points right, y down. A riddle returns figures (`Shape`), the renderer turns them into polygons;
whoever checks a riddle reads the same figures.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from perception.data import raster
from perception.data.streams import Stream

SIDE = 100.0
MARGIN = 6.0  # figures stay this far from the frame's border

Points = np.ndarray  # float64 [n, 2]


@dataclasses.dataclass(frozen=True)
class Shape:
    """One figure.

    kind: "fill" (polygon), "loop" (closed outline), "path" (open polyline) or "dot" (disc; one
    point, the centre). points: [n, 2]. size: line width, or the radius of a dot. tone: "ink",
    "black" (ink that the published generator leaves black) or "paper" (a mark or hole).
    """

    kind: str
    points: Points
    size: float = 0.0
    tone: str = "ink"

    def polygons(self, scale: float) -> raster.Polygons:
        """As polygons in pixels, `scale` pixels a unit."""
        points = self.points * scale
        if self.kind == "fill":
            return [points]
        if self.kind == "dot":
            return raster.disc(points[0], self.size * scale)
        return raster.stroke(points, self.size * scale, closed=self.kind == "loop")


def fill(points: Points) -> Shape:
    return Shape("fill", np.asarray(points, float))


def loop(points: Points, width: float = 2.0) -> Shape:
    return Shape("loop", np.asarray(points, float), width)


def path(points: npt.ArrayLike, width: float, tone: str = "ink") -> Shape:
    return Shape("path", np.asarray(points, float), width, tone)


def dot(centre: Sequence[float] | Points, radius: float, tone: str = "ink") -> Shape:
    return Shape("dot", np.asarray(centre, float).reshape(1, 2), radius, tone)


def direction(angle: float) -> Points:
    """Unit vector [2]."""
    return np.array([math.cos(angle), math.sin(angle)])


def turned(points: Points, angle: float, centre: Sequence[float] | Points = (0, 0)) -> Points:
    """Rotated by `angle` about `centre`."""
    c, s = math.cos(angle), math.sin(angle)
    centre = np.asarray(centre, float)
    return (np.asarray(points, float) - centre) @ np.array([[c, s], [-s, c]]) + centre


def mirrored(points: Points, on_axis: Points, angle: float) -> Points:
    """Reflected in the line through `on_axis` with direction `angle`."""
    n = direction(angle + math.pi / 2)
    away = (points - on_axis) @ n
    return points - 2 * away[:, None] * n


def area(points: Points) -> float:
    return abs(raster.signed_area(points))


def extent(shapes: Sequence[Shape]) -> tuple[Points, Points]:
    """Least and greatest coordinates of all figures, line widths and radii included."""
    low = np.min([s.points.min(0) - _reach(s) for s in shapes], axis=0)
    high = np.max([s.points.max(0) + _reach(s) for s in shapes], axis=0)
    return low, high


def _reach(shape: Shape) -> float:
    return shape.size if shape.kind == "dot" else shape.size / 2


def moved(shape: Shape, offset: Points) -> Shape:
    return dataclasses.replace(shape, points=shape.points + offset)


def anywhere(rng: Stream, shapes: Sequence[Shape], margin: float = MARGIN) -> list[Shape] | None:
    """The figures moved together to a uniform place within the frame; None if they are too big."""
    low, high = extent(shapes)
    room = SIDE - 2 * margin - (high - low)
    if room.min() < 0:
        return None
    offset = margin - low + room * [rng.random(), rng.random()]
    return [moved(s, offset) for s in shapes]


def scattered(rng: Stream, n: int, low: float, high: float) -> Points:
    """n points, uniform in the square [low, high]²."""
    return np.array([[rng.real(low, high), rng.real(low, high)] for _ in range(n)])


def sorted_by_angle(points: Points) -> Points:
    centred = points - points.mean(0)
    return points[np.argsort(np.arctan2(centred[:, 1], centred[:, 0]))]


def hull(points: Points) -> Points:
    """Convex hull by the monotone chain, without collinear points."""
    ordered = sorted(map(tuple, points.tolist()))
    halves = []
    for sequence in (ordered, ordered[::-1]):
        chain: list[tuple[float, float]] = []
        for p in sequence:
            while len(chain) > 1 and _turn(chain[-2], chain[-1], p) <= 0:
                chain.pop()
            chain.append(p)
        halves += chain[:-1]
    return np.array(halves)


def _turn(a: Sequence[float], b: Sequence[float], c: Sequence[float]) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def corner_cut(points: Points, times: int = 3) -> Points:
    """Chaikin's smoothing of a closed polygon; it keeps a convex polygon convex."""
    for _ in range(times):
        following = np.roll(points, -1, axis=0)
        cut = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], 1)
        points = cut.reshape(-1, 2)
    return points


def catmull_rom(points: Points, per_span: int = 12) -> Points:
    """Closed centripetal Catmull-Rom curve through the points (alpha = 1/2)."""
    p = [np.roll(points, k, axis=0) for k in (1, 0, -1, -2)]
    gaps = [np.sqrt(np.hypot(*(b - a).T))[:, None] for a, b in zip(p[:-1], p[1:], strict=True)]
    t0 = np.zeros_like(gaps[0])
    t1 = t0 + gaps[0]
    t2 = t1 + gaps[1]
    t3 = t2 + gaps[2]
    t = t1 + (t2 - t1) * (np.arange(per_span)[:, None, None] / per_span)  # [per_span, n, 1]
    a1 = ((t1 - t) * p[0] + (t - t0) * p[1]) / (t1 - t0)
    a2 = ((t2 - t) * p[1] + (t - t1) * p[2]) / (t2 - t1)
    a3 = ((t3 - t) * p[2] + (t - t2) * p[3]) / (t3 - t2)
    b1 = ((t2 - t) * a1 + (t - t0) * a2) / (t2 - t0)
    b2 = ((t3 - t) * a2 + (t - t1) * a3) / (t3 - t1)
    curve = ((t2 - t) * b1 + (t - t1) * b2) / (t2 - t1)
    return curve.transpose(1, 0, 2).reshape(-1, 2)


def blob(rng: Stream, least_area: float = 625.0, low: float = 15.0, high: float = 85.0) -> Points:
    """A smooth closed curve around a centre that sees all of it (so it never crosses itself)."""
    while True:
        knots = _knots(rng, low, high)
        if knots is None:
            continue
        curve = catmull_rom(np.array(knots))
        seen = curve - curve.mean(0)
        angles = np.unwrap(np.arctan2(seen[:, 1], seen[:, 0]))
        inside = curve.min() > MARGIN and curve.max() < SIDE - MARGIN
        round_once = np.all(np.diff(angles) > 0) and angles[-1] - angles[0] < 2 * math.pi
        if inside and round_once and area(curve) > least_area:
            if np.hypot(*seen.T).min() > 8:
                return curve


def _knots(rng: Stream, low: float, high: float, n: int = 7) -> list[tuple[float, float]] | None:
    """Random points in the order in which their centroid sees them; None if two are close or the
    centroid does not lie between them."""
    points = [(rng.real(low, high), rng.real(low, high)) for _ in range(n)]
    x0, y0 = (sum(p[axis] for p in points) / n for axis in (0, 1))
    seen = sorted((math.atan2(y - y0, x - x0), x, y) for x, y in points)
    for (a, ax, ay), (b, bx, by) in zip(seen, [*seen[1:], seen[0]], strict=True):
        if math.hypot(ax - bx, ay - by) < 6 or not 0.15 < (b - a) % (2 * math.pi) < 2.4:
            return None
    return [(x, y) for _, x, y in seen]


def triangle(rng: Stream, size: float, least_area: float) -> Points:
    """A triangle in a square of side `size` whose sides and angles differ clearly, around its
    centroid."""
    while True:
        a, b, c = ((rng.real(0, size), rng.real(0, size)) for _ in range(3))
        double_area = abs(_turn(a, b, c))
        if double_area < 2 * least_area:
            continue
        short, middle, long = sorted((math.dist(a, b), math.dist(b, c), math.dist(c, a)))
        if min(middle - short, long - middle) < 0.12 * size:
            continue
        if double_area / (middle * long) > math.sin(math.radians(20)):  # the least angle
            points = np.array([a, b, c])
            return points - points.mean(0)


def side_lengths(polygon: Points) -> list[float]:
    return np.hypot(*(np.roll(polygon, -1, axis=0) - polygon).T).tolist()


def corner_angles(polygon: Points) -> list[float]:
    """Angle between the two sides at each corner, radians in [0, pi]."""
    back, ahead = np.roll(polygon, 1, axis=0) - polygon, np.roll(polygon, -1, axis=0) - polygon
    cosine = (back * ahead).sum(1) / (np.hypot(*back.T) * np.hypot(*ahead.T))
    return np.arccos(np.clip(cosine, -1, 1)).tolist()


def difference(a: Points, b: Points) -> float:
    """Area between two figures around their centroids, as a fraction of the first one's area."""
    shift = SIDE / 2
    frames = raster.coverage([[a - a.mean(0) + shift], [b - b.mean(0) + shift]], 100, 100, 1)
    return float(np.abs(frames[0] - frames[1]).sum()) / max(area(a), 1e-9)
