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
import functools
import math
from collections.abc import Sequence

import numpy as np

_STRAIGHT = math.cos(math.radians(8))  # up to this bend the gap at a join is not seen
Polygons = list[np.ndarray]  # each [n, 2]; more than one means their union


@dataclasses.dataclass(frozen=True)
class Layer:
    """Polygons painted in one grey value (0 black ... 255 white) over what is there."""

    polygons: Polygons
    grey: float


@functools.cache
def _unit_disc(n: int) -> np.ndarray:
    """Polygon of n corners whose area is that of the unit circle."""
    angles = np.arange(n) * (2 * math.pi / n)
    radius = math.sqrt(2 * math.pi / (n * math.sin(2 * math.pi / n)))
    return radius * np.stack([np.cos(angles), np.sin(angles)], 1)


def _ring(radius: float) -> np.ndarray:
    return radius * _unit_disc(min(96, int(8 + 2 * radius)))


def disc(centre: Sequence[float] | np.ndarray, radius: float) -> Polygons:
    """A filled circle, as a polygon of the same area."""
    return [_ring(radius) + np.asarray(centre, float)]


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
        bent[1:-1] = (along[1:] * along[:-1]).sum(1) < _STRAIGHT
    return quads + list(points[bent][:, None] + _ring(width / 2))


def outline(points: np.ndarray, width: float) -> Polygons:
    """The outline of a polygon, see `stroke`."""
    return stroke(points, width, closed=True)


def signed_area(polygon: np.ndarray) -> float:
    """Area of a polygon [n, 2], positive when x turns towards y."""
    x, y = polygon[:, 0], polygon[:, 1]
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


@dataclasses.dataclass(frozen=True)
class Cover:
    """Covered part of the pixels (float32 [h, w]) in a box of frame number `frame`, whose first
    pixel is (top, left)."""

    frame: int
    top: int
    left: int
    part: np.ndarray


def coverage(layers: Sequence[Polygons], height: int, width: int, samples: int = 4) -> np.ndarray:
    """Which part of each pixel the union of the polygons covers.

    Args:
      layers: polygons of each frame.
      height, width: of one frame in pixels.
      samples: scan lines per pixel row.

    Returns:
      float32 [frames, height, width] in [0, 1].
    """
    filled = np.zeros((len(layers), height, width), np.float32)
    for c in cover_boxes(layers, height, width, samples):
        h, w = c.part.shape
        filled[c.frame, c.top : c.top + h, c.left : c.left + w] = c.part
    return filled


def cover_boxes(
    layers: Sequence[Polygons], height: int, width: int, samples: int = 4
) -> list[Cover]:
    """As `coverage`, but only the box around the polygons of each frame."""
    starts, ends, frame = _edges(layers)
    if not len(starts):
        return []
    frames, first = np.unique(frame, return_index=True)
    limit = np.array([width, height])
    low = np.clip(np.floor(np.minimum.reduceat(starts, first)), 0, limit).astype(np.int64)
    high = np.clip(np.ceil(np.maximum.reduceat(starts, first)), low, limit).astype(np.int64)
    # The boxes lie one after the other in a flat array, two spare cells at the end of each line.
    across, lines = high[:, 0] - low[:, 0], (high[:, 1] - low[:, 1]) * samples
    sizes = lines * (across + 2)
    offsets = np.cumsum(sizes) - sizes
    box = np.repeat(np.arange(len(frames)), np.diff(first, append=len(frame)))
    y0 = (starts[:, 1] - low[box, 1]) * samples - 0.5
    y1 = (ends[:, 1] - low[box, 1]) * samples - 0.5
    begin = np.clip(np.ceil(np.minimum(y0, y1)), 0, lines[box]).astype(np.int64)
    count = np.clip(np.ceil(np.maximum(y0, y1)), 0, lines[box]).astype(np.int64) - begin
    slope = (ends[:, 0] - starts[:, 0]) / np.where(y1 == y0, 1.0, y1 - y0)
    sign = np.where(y1 > y0, 1.0, -1.0)
    edge = np.repeat(np.arange(len(count)), count)
    line = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count - begin, count)
    mine = box[edge]
    x = starts[edge, 0] + (line - y0[edge]) * slope[edge] - low[mine, 0]
    x = np.minimum(np.maximum(x, 0), across[mine])
    column = x.astype(np.int64)
    weight = sign[edge]
    beyond = weight * (x - column)
    cell = offsets[mine] + line * (across[mine] + 2) + column
    cells = int(sizes.sum())
    steps = np.bincount(cell, weight - beyond, cells) + np.bincount(cell + 1, beyond, cells)
    # Every line of a closed polygon ends at winding 0, so that one running sum serves all lines.
    winding = np.cumsum(steps)
    np.minimum(np.abs(winding, out=winding), 1, out=winding)
    found = []
    for k, number in enumerate(frames.tolist()):
        part = winding[offsets[k] : offsets[k] + sizes[k]].reshape(-1, samples, across[k] + 2)
        mean = part[:, :, :-2].sum(1, dtype=np.float32) / np.float32(samples)
        found.append(Cover(number, int(low[k, 1]), int(low[k, 0]), mean))
    return found


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
        polygons = [layers[depth].polygons if depth < len(layers) else [] for layers in frames]
        for c in cover_boxes(polygons, height, width, samples):
            h, w = c.part.shape
            box = values[c.frame, c.top : c.top + h, c.left : c.left + w]
            box += c.part * (np.float32(frames[c.frame][depth].grey) - box)
    return np.rint(values).astype(np.uint8)
