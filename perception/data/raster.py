# SPDX-License-Identifier: Apache-2.0
"""Anti-aliased polygons for many small frames at once.

Every primitive (disc, stroke, curve) becomes polygons of one orientation; a layer is the union of
its polygons. Each pixel row is sampled on `samples` scan lines; along a scan line the coverage of a
pixel is exact. An edge that crosses a scan line at x adds its winding to the pixel of x, weighted
by the part of the pixel right of x, and the rest to the next pixel; a running sum along the row
then gives winding number times coverage, which is clipped to 1. All frames of a batch are filled by
one call, stacked along the rows.

Coordinates: x to the right, y down, pixel (row i, column j) covers [j, j + 1) x [i, i + 1).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

Polygons = list[np.ndarray]  # each [n, 2]; more than one means their union


@dataclasses.dataclass(frozen=True)
class Layer:
    """Polygons painted in one grey value (0 black ... 255 white) over what is there."""

    polygons: Polygons
    grey: float


def disc(centre: Sequence[float], radius: float) -> Polygons:
    """A filled circle, as a polygon that differs from it by less than a hundredth of a pixel at
    radius 50."""
    n = max(12, min(96, int(12 + 2 * radius)))
    angles = np.arange(n) * (2 * math.pi / n)
    ring = np.stack([np.cos(angles), np.sin(angles)], 1) * (radius * (1 + 1.6 / n**2))
    return [ring + np.asarray(centre, float)]


def stroke(points: np.ndarray, width: float, closed: bool = False) -> Polygons:
    """A polyline [n, 2] of the given width with round joins and ends."""
    points = np.asarray(points, float)
    if closed:
        points = np.concatenate([points, points[:1]])
    a, b = points[:-1], points[1:]
    along = b - a
    length = np.hypot(along[:, 0], along[:, 1])
    keep = length > 1e-9
    a, b, along = a[keep], b[keep], along[keep] / length[keep, None]
    side = np.stack([-along[:, 1], along[:, 0]], 1) * (width / 2)
    quads = list(np.stack([a - side, b - side, b + side, a + side], 1))
    # A join needs a disc only where the direction changes enough to leave a gap.
    bent = np.ones(len(points), bool)
    if len(a) == len(points) - 1 and len(a) > 1:
        bent[1:-1] = (along[1:] * along[:-1]).sum(1) < math.cos(math.radians(3))
    return quads + [disc(p, width / 2)[0] for p in points[bent]]


def outline(points: np.ndarray, width: float) -> Polygons:
    """The outline of a polygon, see `stroke`."""
    return stroke(points, width, closed=True)


def signed_area(polygon: np.ndarray) -> float:
    """Area of a polygon [n, 2], positive when x turns towards y."""
    x, y = polygon[:, 0], polygon[:, 1]
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def coverage(layers: Sequence[Polygons], height: int, width: int, samples: int = 4) -> np.ndarray:
    """Which part of each pixel the union of the polygons covers.

    Args:
      layers: polygons of each frame.
      height, width: of one frame in pixels.
      samples: scan lines per pixel row.

    Returns:
      float32 [frames, height, width] in [0, 1].
    """
    starts, ends, frame = _edges(layers)
    filled = np.zeros((len(layers), height, width), np.float32)
    if not len(starts):
        return filled
    # Only the box around everything is worked on: rows top ... bottom, columns left ... right.
    left, top = (int(v) for v in np.clip(np.floor(starts.min(0)), 0, (width, height)))
    right, bottom = (int(v) for v in np.clip(np.ceil(starts.max(0)), (left, top), (width, height)))
    lines, columns = (bottom - top) * samples, right - left
    y0 = (starts[:, 1] - top) * samples - 0.5
    y1 = (ends[:, 1] - top) * samples - 0.5
    low = np.clip(np.ceil(np.minimum(y0, y1)), 0, lines).astype(np.int64)
    high = np.clip(np.ceil(np.maximum(y0, y1)), 0, lines).astype(np.int64)
    count = high - low
    edge = np.repeat(np.arange(len(count)), count)
    line = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + low[edge]
    slope = (ends[:, 0] - starts[:, 0]) / np.where(y1 == y0, 1.0, y1 - y0)
    x = np.clip(starts[edge, 0] + (line - y0[edge]) * slope[edge] - left, 0, columns)
    column = x.astype(np.int64)
    weight = np.where(y1 > y0, 1.0, -1.0)[edge]
    beyond = weight * (x - column)
    cell = (frame[edge] * lines + line) * (columns + 2) + column
    cells = len(layers) * lines * (columns + 2)
    steps = np.bincount(cell, weight - beyond, cells)
    steps += np.bincount(cell + 1, beyond, cells)
    winding = np.cumsum(steps.reshape(-1, columns + 2)[:, :columns], axis=1, dtype=np.float32)
    np.minimum(np.abs(winding, out=winding), 1, out=winding)
    parts = winding.reshape(len(layers), bottom - top, samples, columns)
    box = parts[:, :, 0].copy()
    for k in range(1, samples):
        box += parts[:, :, k]
    filled[:, top:bottom, left:right] = box / np.float32(samples)
    return filled


def _edges(layers: Sequence[Polygons]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Starts [E, 2], ends [E, 2] and frame [E] of all edges, polygons turned one way round."""
    polygons = [p for layer in layers for p in layer]
    if not polygons:
        return np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, np.int64)
    sizes = np.array([len(p) for p in polygons])
    starts = np.concatenate(polygons)
    last = np.cumsum(sizes) - 1
    following = np.arange(1, len(starts) + 1)
    following[last] = last - sizes + 1
    ends = starts[following]
    cross = starts[:, 0] * ends[:, 1] - starts[:, 1] * ends[:, 0]
    area = np.add.reduceat(cross, last - sizes + 1)
    backwards = np.repeat(area < 0, sizes)[:, None]
    starts, ends = np.where(backwards, ends, starts), np.where(backwards, starts, ends)
    counts = [sum(len(p) for p in layer) for layer in layers]
    return starts, ends, np.repeat(np.arange(len(layers)), counts)


def paint(
    frames: Sequence[Sequence[Layer]],
    backgrounds: np.ndarray,
    height: int,
    width: int,
    samples: int = 4,
) -> np.ndarray:
    """Paints the layers of each frame over its background, first layer first.

    Args:
      frames: the layers of each frame.
      backgrounds: [frames], grey values 0 ... 255.
      height, width, samples: see `coverage`.

    Returns:
      uint8 [frames, height, width].
    """
    values = np.broadcast_to(
        np.asarray(backgrounds, np.float32)[:, None, None], (len(frames), height, width)
    ).copy()
    for depth in range(max((len(layers) for layers in frames), default=0)):
        present = [i for i, layers in enumerate(frames) if depth < len(layers)]
        cover = coverage([frames[i][depth].polygons for i in present], height, width, samples)
        grey = np.array([frames[i][depth].grey for i in present], np.float32)[:, None, None]
        values[present] += cover * (grey - values[present])
    return np.rint(values).astype(np.uint8)
