# SPDX-License-Identifier: Apache-2.0
"""Contours and bitboards against their slow, obvious forms."""

import math

import numpy as np
import pytest
from scipy import ndimage

from perception.data import bitboard, contours, streams

F = np.float32


def _pair(key, counter):
    bits = int(streams.hashed(np.array([key], np.uint64), np.array([counter], np.uint64))[0])
    return F(F(bits & 0xFFFFFFFF) * F(2**-31) - F(1)), F(F(bits >> 32) * F(2**-31) - F(1))


def _refine(points, a, b, code, key, radius):
    """Inserts the midpoints between a and b, recursively; appends all but b to `points`."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    if abs(dx) <= F(0.25) and abs(dy) <= F(0.25):
        points.append(a)
        return
    reach = np.sqrt(dx * dx + dy * dy) * F(0.2)
    draw = 0
    while True:
        u, v = _pair(key, code + (draw << 48))
        x, y = a[0] + dx * F(0.5) + u * reach, a[1] + dy * F(0.5) + v * reach
        if u * u + v * v < 1 and x * x + y * y < F(radius) * F(radius):
            break
        draw += 1
    _refine(points, a, (x, y), 2 * code, key, radius)
    _refine(points, (x, y), b, 2 * code + 1, key, radius)


def _slow_contour(key, radius, hole):
    """One contour by plain recursion; None where a point falls into the hole."""
    anchors = []
    for k, (sx, sy) in enumerate(((1, 1), (-1, 1), (-1, -1), (1, -1))):
        draw = 1
        while True:
            u, v = _pair(key, k + (draw << 48) + (1 << 40))
            x, y = abs(u) * F(radius), abs(v) * F(radius)
            if F(hole) ** 2 <= x * x + y * y <= F(radius) ** 2:
                break
            draw += 1
        anchors.append((x * F(sx), y * F(sy)))
    points, starts = [], []
    for k in range(4):
        starts.append(len(points))
        _refine(points, anchors[k], anchors[(k + 1) % 4], 4 + k, key, radius)
    starts.append(len(points))
    points.append(anchors[0])
    xy = np.array(points, F)
    if (xy**2).sum(1).min() < F(hole) ** 2:
        return None
    angle = math.pi * float(_pair(key, 1 << 41)[0])
    c, s = F(math.cos(angle)), F(math.sin(angle))
    return xy[:, 0] * c - xy[:, 1] * s, xy[:, 0] * s + xy[:, 1] * c, starts


@pytest.mark.parametrize("radius,hole", [(26.25, 2.5), (10, 1), (21, 10)])
def test_contours_equal_plain_recursion(radius, hole):
    keys = streams.image_keys(3, ("contours",), np.arange(4))
    for key, fast in zip(keys, contours.make_contours(keys, radius, hole), strict=True):
        slow, attempt = None, 0
        while slow is None:
            child = int(streams.child_keys(np.array([key], np.uint64), attempt)[0])
            slow, attempt = _slow_contour(child, radius, hole), attempt + 1
        np.testing.assert_allclose(fast.x, slow[0], atol=2e-5)
        np.testing.assert_allclose(fast.y, slow[1], atol=2e-5)
        assert fast.anchors.tolist() == slow[2]


def _slow_line(px, py, a, b, ink):
    if (abs(px[a] - px[b]) <= 1 and abs(py[a] - py[b]) <= 1) or a + 1 >= b:
        ink.add((int(px[a]), int(py[a])))
        return
    _slow_line(px, py, a, (a + b) // 2, ink)
    _slow_line(px, py, (a + b) // 2, b, ink)


def test_drawing_equals_plain_recursion():
    keys = streams.image_keys(4, ("drawing",), np.arange(6))
    made = contours.make_contours(keys, 21, 2)
    matrices = [contours.IDENTITY, contours.turn(0.7, 0.5), contours.reflection(0.4)] * 2
    for contour, matrix, stamp in zip(
        made, matrices, contours.draw_contours(made, matrices), strict=True
    ):
        m = np.array(matrix, F)
        px = np.floor(contour.x * m[0] + contour.y * m[1]).astype(int)
        py = np.floor(contour.x * m[2] + contour.y * m[3]).astype(int)
        ink = set()
        for a, b in zip(contour.anchors[:-1], contour.anchors[1:], strict=True):
            _slow_line(px, py, int(a), int(b), ink)
        rows, cols = np.divmod(np.flatnonzero(bitboard.to_array(stamp.bits)), 128)
        assert set(zip(cols + stamp.x0, rows + stamp.y0, strict=True)) == ink


def test_points_keep_between_hole_and_radius_and_lines_are_connected():
    keys = streams.image_keys(5, ("limits",), np.arange(40))
    made = contours.make_contours(keys, 32, 16)
    for contour in made:
        r = np.hypot(contour.x, contour.y)
        assert r.min() >= 16 - 1e-3 and r.max() < 32 + 1e-3
        assert np.abs(np.diff(contour.x)).max() < 0.36  # 0.25 before the rotation
    enlarged = contours.draw_contours(made, [contours.turn(0.3, 1.9)] * 40)
    for stamp in enlarged:
        assert (
            ndimage.label(bitboard.to_array(stamp.bits).reshape(128, 128), np.ones((3, 3)))[1] == 1
        )


def test_contours_reject_bad_radii():
    with pytest.raises(ValueError, match="0 <= hole < radius"):
        contours.make_contours(np.zeros(1, np.uint64), 5, 5)


@pytest.fixture(scope="module")
def figure():
    (contour,) = contours.make_contours(np.array([7], np.uint64), 40, 10)
    (stamp,) = contours.draw_contours([contour], [contours.IDENTITY])
    bits = stamp.at(60, 63)
    return stamp, bits, bitboard.to_array(bits).reshape(128, 128).astype(bool)


def _array(bits):
    return bitboard.to_array(bits).reshape(128, 128).astype(bool)


def test_bitboards_equal_image_operations(figure):
    stamp, bits, image = figure
    assert (_array(bitboard.enclosed(bits)) == (ndimage.binary_fill_holes(image) & ~image)).all()
    assert (_array(bitboard.grow8(bits)) == ndimage.binary_dilation(image, np.ones((3, 3)))).all()
    inner = np.pad(np.ones((126, 126), bool), 1)
    grown = ndimage.binary_dilation(image, iterations=5, mask=inner)
    assert (_array(bitboard.grow4(bits, 5)) == grown).all()
    assert bitboard.from_array(image.astype(np.uint8)) == bits
    filled = _array(stamp.filled().at(60, 63))
    assert (filled == ndimage.binary_fill_holes(image)).all()
    rows, cols = np.nonzero(_array(stamp.mirrored().at(60, 63)))
    assert set(zip(rows, 120 - cols, strict=True)) == set(zip(*np.nonzero(image), strict=True))


def test_places_are_those_where_the_stamp_fits(figure):
    _, bits, _ = figure
    (contour,) = contours.make_contours(np.array([9], np.uint64), 10, 1)
    (small,) = contours.draw_contours([contour], [contours.IDENTITY])
    room = bitboard.enclosed(bits) & ~bitboard.grow8(bits)
    found = {tuple(p) for p in bitboard.positions(bitboard.places(small, room))}
    target = bitboard.grow4(bitboard.grow8(bits))
    met = {tuple(p) for p in bitboard.positions(bitboard.meeting_places(small, target))}
    assert found
    for x in range(20, 110, 3):
        for y in range(20, 110, 3):
            there = small.at(x, y)
            assert ((x, y) in found) == (there & room == there)
            assert ((x, y) in met) == (there & target != 0)


def test_overlaps_count_common_pixels(figure):
    stamp, _, _ = figure
    (contour,) = contours.make_contours(np.array([9], np.uint64), 20, 2)
    (small,) = contours.draw_contours([contour], [contours.IDENTITY])
    count = bitboard.overlaps(stamp.filled(), small.filled())
    for dx, dy in ((0, 0), (30, -5), (-41, 12), (3, 40), (-33, -33), (60, 60)):
        both = stamp.filled().at(60, 63) & small.filled().at(60 + dx, 63 + dy)
        assert count[dy + bitboard.REACH, dx + bitboard.REACH] == both.bit_count()
