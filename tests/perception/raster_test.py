# SPDX-License-Identifier: Apache-2.0
"""Polygon coverage against areas known exactly and against dense sampling."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception.data import raster

BOX = np.array([[10.25, 10.5], [30.75, 10.5], [30.75, 20.0], [10.25, 20.0]])


def _sampled(polygon, size, n=16):
    """Coverage by counting samples inside (even-odd rule)."""
    t = (np.arange(size * n) + 0.5) / n
    x, y = np.meshgrid(t, t)
    inside = np.zeros(x.shape, bool)
    for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if a[1] == b[1]:
            continue
        crosses = (a[1] > y) != (b[1] > y)
        inside ^= crosses & (x < (b[0] - a[0]) * (y - a[1]) / (b[1] - a[1]) + a[0])
    return inside.reshape(size, n, size, n).mean((1, 3))


def test_a_box_is_covered_exactly():
    (cover,) = raster.coverage([[BOX]], 40, 40)
    assert cover.sum() == pytest.approx(20.5 * 9.5)
    assert cover[15, 10] == pytest.approx(0.75) and cover[15, 30] == pytest.approx(0.75)


def test_polygons_equal_dense_sampling():
    rng = np.random.default_rng(0)
    angles = np.sort(rng.uniform(0, 2 * math.pi, 9))
    radius = rng.uniform(4, 14, 9)
    polygon = 16 + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    (cover,) = raster.coverage([[polygon]], 32, 32, samples=16)
    np.testing.assert_allclose(cover, _sampled(polygon, 32), atol=0.07)
    (coarse,) = raster.coverage([[polygon]], 32, 32)
    assert coarse.sum() == pytest.approx(abs(raster.signed_area(polygon)), rel=0.01)
    (reversed_,) = raster.coverage([[polygon[::-1]]], 32, 32)
    np.testing.assert_array_equal(coarse, reversed_)


def test_overlaps_count_once_and_frames_do_not_mix():
    covers = raster.coverage([[BOX, BOX + 1], [], [BOX]], 40, 40)
    assert covers.max() == 1 and not covers[1].any()
    assert covers[0].sum() == pytest.approx(2 * 20.5 * 9.5 - 19.5 * 8.5)


def test_what_lies_outside_is_cut_off():
    covers = raster.coverage([[BOX - [20, 0]], [BOX + [0, 35]], [BOX + 100]], 40, 40)
    assert covers[0].sum() == pytest.approx(10.75 * 9.5)
    assert not covers[1:].any()
    half = raster.coverage([[BOX * [1, 1] + [0, 25]]], 40, 40)[0]
    assert half.sum() == pytest.approx(20.5 * 4.5)


def test_discs_and_strokes_have_their_area():
    (disc,) = raster.coverage([raster.disc((20, 20), 12.3)], 40, 40)
    assert disc.sum() == pytest.approx(math.pi * 12.3**2, rel=0.005)
    line = raster.stroke(np.array([[8.0, 8], [30, 25]]), 3)
    (cover,) = raster.coverage([line], 40, 40)
    assert cover.sum() == pytest.approx(3 * math.hypot(22, 17) + math.pi * 1.5**2, rel=0.02)
    corner = raster.outline(np.array([[8.0, 8], [30, 8], [30, 30], [8, 30]]), 2)
    (cover,) = raster.coverage([corner], 40, 40)
    assert cover.sum() == pytest.approx(24**2 - 20**2 - (4 - math.pi), rel=0.01)


def test_layers_are_painted_in_order():
    layers = [raster.Layer([BOX], 10.0), raster.Layer(raster.disc((20, 15), 2), 200.0)]
    image = raster.paint([layers, layers[:1]], np.array([255, 240]), 40, 40)
    assert image[0, 15, 20] == 200 and image[1, 15, 20] == 10
    assert image[0, 0, 0] == 255 and image[1, 0, 0] == 240


@given(
    st.lists(st.tuples(st.floats(0.02, 1), st.floats(1, 15)), min_size=3, max_size=12),
    st.integers(1, 8),
)
def test_coverage_is_the_area_of_any_polygon_around_a_point(corners, samples):
    steps, radius = np.array(corners).T
    angles = np.cumsum(steps) * 2 * math.pi / steps.sum()
    polygon = 20 + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    if max(np.diff(angles, append=angles[0] + 2 * math.pi)) >= math.pi:
        return  # the centre lies outside, sides may cross
    (cover,) = raster.coverage([[polygon]], 40, 40, samples)
    assert cover.min() >= 0 and cover.max() <= 1 + 1e-6
    # A scan line stands for its strip: off by at most half a strip per side of the polygon.
    area = abs(raster.signed_area(polygon))
    assert abs(cover.sum() - area) <= len(polygon) * 30 / (2 * samples)
