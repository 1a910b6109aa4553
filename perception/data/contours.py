# SPDX-License-Identifier: Apache-2.0
"""Random closed contours of the Synthetic Visual Reasoning Test, many at a time.

A contour has one anchor in each quadrant, uniform in the annulus hole <= r <= R; its four edges are
refined by inserting midpoints with a jitter uniform in a disc of a fifth of the segment's length,
until no segment is longer than a quarter pixel in x or y; it is discarded when a point comes nearer
to the origin than the hole, and rotated by a uniform angle in the end.
F. Fleuret et al., "Comparing machines and humans on a visual categorization test", PNAS 108 (2011).

All segments of all contours of a batch are refined level by level. The jitter of a midpoint is a
hash of the contour's key and the midpoint's place in the binary tree, so that a contour does not
depend on the batch it is made in; points in a disc come from rejection, which needs no
transcendental functions and gives the same bits on every machine.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from perception.data import streams
from perception.data.bitboard import Stamp, stamps_of_pixels

LONGEST = np.float32(0.25)  # pixels
_JITTER = np.float32(0.2)  # of the segment's length
_UNIT = np.float32(2.0**-31)
_BATCH = 96  # contours refined together: their arrays stay in the second-level cache
_SIGNS = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)], np.float32)


@dataclasses.dataclass(frozen=True)
class Contour:
    """A closed polyline around the origin.

    x, y: float32 [N]; the last point repeats the first. anchors: int64 [5], indices of the four
    anchors and of the last point.
    """

    x: np.ndarray
    y: np.ndarray
    anchors: np.ndarray


def make_contours(keys: np.ndarray, radius: np.ndarray, hole: np.ndarray) -> list[Contour]:
    """Makes one contour per key.

    Args:
      keys: uint64 [S]; equal keys give equal contours.
      radius, hole: [S], pixels; all points lie at hole <= r <= radius of the origin.

    Raises:
      ValueError: not 0 <= hole < radius.
    """
    keys = np.asarray(keys, np.uint64)
    radius = np.broadcast_to(np.asarray(radius, np.float32), keys.shape)
    hole = np.broadcast_to(np.asarray(hole, np.float32), keys.shape)
    if np.any(hole < 0) or np.any(hole >= radius):
        raise ValueError("contours need 0 <= hole < radius")
    found: dict[int, Contour] = {}
    pending = np.arange(len(keys))
    attempt = 0
    while pending.size:
        for begin in range(0, pending.size, _BATCH):
            ids = pending[begin : begin + _BATCH]
            tries = streams.child_keys(keys[ids], attempt)
            made = _refine(tries, radius[ids], hole[ids])
            found.update({int(i): c for i, c in zip(ids, made, strict=True) if c is not None})
        pending = np.array([i for i in pending if int(i) not in found], np.int64)
        attempt += 1
    return [found[i] for i in range(len(keys))]


def _halves(bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two uniform numbers in [-1, 1) from the halves of each hash."""
    low = (bits & np.uint64(0xFFFFFFFF)).astype(np.float32)
    high = (bits >> np.uint64(32)).astype(np.float32)
    return low * _UNIT - np.float32(1), high * _UNIT - np.float32(1)


def _anchors(keys: np.ndarray, radius: np.ndarray, hole: np.ndarray) -> tuple[np.ndarray, ...]:
    """Anchor coordinates x, y [S, 4]: uniform in the quarter annuli, by rejection."""
    n = len(keys)
    x, y = np.zeros((n, 4), np.float32), np.zeros((n, 4), np.float32)
    pending = np.ones((n, 4), bool)
    draw = 0
    while pending.any():
        rows, cols = np.nonzero(pending)
        draw += 1
        counters = cols.astype(np.uint64) + np.uint64((draw << 48) + (1 << 40))
        u, v = _halves(streams.hashed(keys[rows], counters))
        u, v = np.abs(u) * radius[rows], np.abs(v) * radius[rows]
        square = u * u + v * v
        good = (square <= radius[rows] ** 2) & (square >= hole[rows] ** 2)
        rows, cols = rows[good], cols[good]
        x[rows, cols] = u[good] * _SIGNS[cols, 0]
        y[rows, cols] = v[good] * _SIGNS[cols, 1]
        pending[rows, cols] = False
    return x, y


def _jitter(
    keys: np.ndarray,
    codes: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    reach: np.ndarray,
    limit: np.ndarray,
) -> None:
    """Moves points (x, y) [k] in place by a jitter in a disc of radius `reach`, redrawn while the
    result lies outside the circle of square radius `limit`."""
    pending = np.arange(len(x))
    draw = 0
    while pending.size:
        counters = codes if draw == 0 else codes[pending] + np.uint64(draw << 48)
        u, v = _halves(streams.hashed(keys if draw == 0 else keys[pending], counters))
        inside = u * u + v * v < 1
        far = reach if draw == 0 else reach[pending]
        u = x[pending] + u * far
        v = y[pending] + v * far
        good = inside & (u * u + v * v < limit[pending])
        x[pending[good]], y[pending[good]] = u[good], v[good]
        pending = pending[~good]
        draw += 1


def _refine(keys: np.ndarray, radius: np.ndarray, hole: np.ndarray) -> list[Contour | None]:
    """Refines one batch; None where a point fell into the hole."""
    n = len(keys)
    x, y = _anchors(keys, radius, hole)
    x, y = (np.concatenate([a, a[:, :1]], axis=1).reshape(-1) for a in (x, y))
    edge = np.arange(5 * n)  # 5 * contour + edge number; number 4 marks the closing point
    code = np.tile(np.arange(4, 9, dtype=np.uint64), n)  # place of the segment in the binary tree
    alive = np.ones(n, bool)
    while True:
        dx, dy = np.diff(x), np.diff(y)
        long = (np.abs(dx) > LONGEST) | (np.abs(dy) > LONGEST)
        long &= edge[:-1] % 5 != 4
        at = np.flatnonzero(long)
        if not at.size:
            break
        dx, dy = dx[at], dy[at]
        owner = edge[at] // 5
        mx, my = x[at] + dx * np.float32(0.5), y[at] + dy * np.float32(0.5)
        reach = np.sqrt(dx * dx + dy * dy) * _JITTER
        _jitter(keys[owner], code[at], mx, my, reach, (radius * radius)[owner])
        code[at] *= np.uint64(2)
        rows = np.arange(len(x))
        rows[1:] += np.cumsum(long)
        new = rows[at] + 1
        x, y = _insert(x, mx, rows, new), _insert(y, my, rows, new)
        edge = _insert(edge, edge[at], rows, new)
        code = _insert(code, code[at] + np.uint64(1), rows, new)
        dead = owner[mx * mx + my * my < (hole * hole)[owner]]
        if dead.size:
            alive[dead] = False
            keep = alive[edge // 5]
            x, y, edge, code = x[keep], y[keep], edge[keep], code[keep]
    return _collect(keys, x, y, edge, alive)


def _insert(old: np.ndarray, extra: np.ndarray, rows: np.ndarray, new: np.ndarray) -> np.ndarray:
    """`old` moved to `rows`, `extra` put between at `new`."""
    out = np.empty(len(old) + len(extra), old.dtype)
    out[rows], out[new] = old, extra
    return out


def _collect(
    keys: np.ndarray, x: np.ndarray, y: np.ndarray, edge: np.ndarray, alive: np.ndarray
) -> list[Contour | None]:
    """Cuts the flat arrays into contours and rotates each by its own angle."""
    turns = _halves(streams.hashed(keys, np.full(len(keys), 1 << 41, np.uint64)))[0]
    out: list[Contour | None] = [None] * len(keys)
    first = np.flatnonzero(np.diff(edge, prepend=-1)).reshape(-1, 5)
    for anchors, i in zip(first, np.flatnonzero(alive), strict=True):
        part = slice(anchors[0], anchors[4] + 1)
        angle = math.pi * float(turns[i])
        c, s = np.float32(math.cos(angle)), np.float32(math.sin(angle))
        px, py = x[part], y[part]
        out[int(i)] = Contour(px * c - py * s, px * s + py * c, anchors - anchors[0])
    return out


IDENTITY = (1.0, 0.0, 0.0, 1.0)


def turn(angle: float, scale: float = 1.0) -> tuple[float, float, float, float]:
    """Matrix (row by row) of a rotation by `angle` and a scaling."""
    c, s = scale * math.cos(angle), scale * math.sin(angle)
    return c, -s, s, c


def reflection(angle: float) -> tuple[float, float, float, float]:
    """Matrix of the reflection that keeps the direction `angle` and negates the perpendicular."""
    c, s = math.cos(2 * angle), math.sin(2 * angle)
    return c, s, s, -c


def draw_contours(
    contours: list[Contour], matrices: list[tuple[float, float, float, float]]
) -> list[Stamp]:
    """Draws contours as 8-connected lines one pixel wide, relative to an integer centre.

    Per edge, the range of points is halved until its end pixels are at most one apart in both axes
    or the range has no inner point; each leaf inks its first pixel.

    Args:
      contours: what to draw; one may occur several times.
      matrices: a linear map per drawing, see `turn` and `reflection`.
    """
    if not contours:
        return []
    x = np.concatenate([c.x for c in contours])
    y = np.concatenate([c.y for c in contours])
    sizes = np.array([len(c.x) for c in contours])
    starts = np.cumsum(sizes) - sizes
    anchors = np.stack([c.anchors for c in contours]) + starts[:, None]
    maps = np.asarray(matrices, np.float32)

    def pixels(points: np.ndarray, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        px, py, m = x[points], y[points], maps[owners]
        return (
            np.floor(px * m[:, 0] + py * m[:, 1]).astype(np.int32),
            np.floor(px * m[:, 2] + py * m[:, 3]).astype(np.int32),
        )

    owner = np.repeat(np.arange(len(contours)), 4)
    a, b = anchors[:, :4].reshape(-1), anchors[:, 1:].reshape(-1)
    (ax, ay), (bx, by) = pixels(a, owner), pixels(b, owner)
    leaves: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    while a.size:
        leaf = ((np.abs(ax - bx) <= 1) & (np.abs(ay - by) <= 1)) | (a + 1 >= b)
        leaves.append((owner[leaf], ax[leaf], ay[leaf]))
        # Enlarged contours can have neighbouring points two pixels apart: ink the pixel between.
        gap = leaf & ((np.abs(ax - bx) > 1) | (np.abs(ay - by) > 1))
        if gap.any():
            leaves.append((owner[gap], (ax[gap] + bx[gap]) // 2, (ay[gap] + by[gap]) // 2))
        go = ~leaf
        a, b, owner, ax, ay, bx, by = (v[go] for v in (a, b, owner, ax, ay, bx, by))
        mid = (a + b) // 2
        mx, my = pixels(mid, owner)
        a, b = np.concatenate([a, mid]), np.concatenate([mid, b])
        owner = np.concatenate([owner, owner])
        ax, bx = np.concatenate([ax, mx]), np.concatenate([mx, bx])
        ay, by = np.concatenate([ay, my]), np.concatenate([my, by])
    ids, px, py = (np.concatenate(v) for v in zip(*leaves, strict=True))
    return stamps_of_pixels(ids, px, py, len(contours))
