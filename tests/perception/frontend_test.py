# SPDX-License-Identifier: Apache-2.0
"""The front end against plain float64 code, on drawings of the SVRT generator and on noise."""

import dataclasses
import lzma

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import datasets
from perception import fixation, frontend, images, sensors
from perception.fixation import FixationConfig
from perception.frontend import FrontEndConfig
from perception.saliency import SaliencyConfig, saliency
from tests.perception import frontend_oracle as oracle

PROBLEMS = (1, 7, 21, 23)


@pytest.fixture(scope="module")
def drawings():
    """float32 [8, 128, 128, 1]: two images of each of four SVRT problems."""
    try:
        path = datasets.find_dataset("svrt") / "svrt_packed.npy.xz"
    except FileNotFoundError as error:
        pytest.skip(str(error))
    with lzma.open(path) as file:
        packed = np.load(file, allow_pickle=False)
    ink = np.unpackbits(packed, axis=-1)[[p - 1 for p in PROBLEMS], :, 0]
    return images.prepare((255 * (1 - ink.reshape(-1, 128, 128))).astype(np.uint8))


@pytest.fixture(scope="module")
def drawn():
    """float32 [3, 48, 48, 1]: an L, two equal crosses, and an empty sheet."""
    ink = np.zeros((3, 48, 48, 1), np.float32)
    ink[0, 10:30, 12] = ink[0, 30, 12:28] = 1
    for row, column in ((12, 12), (30, 33)):
        ink[1, row - 4 : row + 5, column] = ink[1, row, column - 4 : column + 5] = 1
    return ink


def noise(shape=(2, 48, 48, 3), seed=0):
    return np.random.default_rng(seed).random(shape, np.float32)


# --- saliency -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", (5, 7, 17, 65))
def test_blur_is_the_dense_convolution(size):
    x = noise((1, 72, 72, 3))
    np.testing.assert_allclose(images.blur(x, size)[0], oracle.blur(x[0], size), atol=2e-6)


@pytest.mark.parametrize(
    "cfg",
    (
        SaliencyConfig(blur=0),
        SaliencyConfig(blur=0, surround="mean"),
        SaliencyConfig(blur=0, padding="replicate"),
        SaliencyConfig(patch=3, neighbourhood=5, blur=0),
    ),
)
def test_saliency_is_the_definition(cfg):
    x = noise()
    found = saliency(x, cfg)
    mode = {"zero": "constant", "replicate": "edge"}[cfg.padding]
    for image, values in zip(x, found, strict=True):
        exact = oracle.saliency(
            image.astype(np.float64), cfg.patch, cfg.neighbourhood, cfg.surround, mode
        )
        np.testing.assert_allclose(values, exact, rtol=3e-6, atol=1e-6)


def test_saliency_of_drawings(drawings):
    found = saliency(drawings[:2])
    for image, values in zip(drawings, found, strict=False):
        exact = oracle.saliency(oracle.normalised(oracle.blur(image.astype(np.float64), 7)))
        np.testing.assert_allclose(values, exact, atol=2e-6)


def test_straight_strokes_cost_nothing(drawn):
    values = saliency(drawn, SaliencyConfig(blur=0))
    assert float(values[0, 20, 12]) == 0 and float(values[0, 10, 12]) > 0  # middle, end
    whole = saliency(drawn, SaliencyConfig(blur=0, surround="mean"))
    assert float(whole[0, 20, 12]) > 0
    full = np.ones((1, 48, 48, 1), np.float32)
    # The corners of an inked sheet, measured with the public implementation.
    assert float(saliency(full, SaliencyConfig(blur=0)).sum()) == 52
    assert float(saliency(full, SaliencyConfig(blur=0, padding="replicate")).max()) == 0


def test_saliency_has_a_gradient():
    x = noise((1, 32, 32, 1))
    total = lambda x: (saliency(x, SaliencyConfig(blur=0)) ** 2).sum()
    direction = noise((1, 32, 32, 1), seed=1) - 0.5
    with jax.enable_x64(True):
        x, direction = jnp.asarray(x * 0.8 + 0.1, jnp.float64), jnp.asarray(direction, jnp.float64)
        slope = (jax.grad(total)(x) * direction).sum()
        step = 1e-6
        difference = (total(x + step * direction) - total(x - step * direction)) / (2 * step)
    assert float(slope) == pytest.approx(float(difference), rel=1e-5)


# --- fixations ----------------------------------------------------------------------------------


RULES = (
    FixationConfig(count=15, size=11),
    FixationConfig(count=15, size=15),
    FixationConfig(count=15, size=11, tie="raster"),
    FixationConfig(count=15, size=11, offset=False),
    FixationConfig(count=15, size=15, inhibition="soft"),
    FixationConfig(count=15, inhibition="radial", sharpness=300.0),
)


@pytest.mark.parametrize("cfg", RULES)
def test_loop_equals_the_rule_fixation_for_fixation(drawings, cfg):
    maps = jax.jit(saliency)(drawings)
    if cfg.inhibition != "hard":  # products of floats: leave no ties for rounding to decide
        maps = maps + 1e-3 * noise(maps.shape) * maps
    found = fixation.fixate(maps, cfg)
    places = fixation.locations(found, 128, cfg.offset)
    for values, pixels, at in zip(np.asarray(maps), found, places, strict=True):
        exact, where = oracle.fixations(
            values, cfg.count, cfg.size, cfg.inhibition, cfg.sharpness, cfg.tie, cfg.offset
        )
        np.testing.assert_array_equal(pixels, exact)
        np.testing.assert_allclose(at, where, atol=1e-6)


@given(seed=st.integers(0, 2**32 - 1), levels=st.integers(1, 4), density=st.floats(0.0, 0.3))
def test_loop_equals_the_rule_on_maps_full_of_ties(seed, levels, density):
    rng = np.random.default_rng(seed)
    maps = rng.integers(1, levels + 1, (1, 40, 40)) * (rng.random((1, 40, 40)) < density)
    for offset in (True, False):
        cfg = FixationConfig(count=12, size=9, offset=offset)
        exact, _ = oracle.fixations(maps[0], 12, 9, offset=offset)
        found = fixation.fixate(jnp.asarray(maps, jnp.float32), cfg)
        np.testing.assert_array_equal(found[0], exact)


def test_whole_front_end_looks_where_the_rule_looks(drawings):
    found = frontend.look(drawings, FrontEndConfig(chunk=4)).pixel
    equal = []
    for image, pixels in zip(drawings[::2], found[::2], strict=True):
        view = oracle.normalised(oracle.blur(image.astype(np.float64), 7))
        exact, _ = oracle.fixations(oracle.saliency(view), 15, 11)
        equal.append((np.asarray(pixels) == exact).all(axis=1).mean())
    assert np.mean(equal) >= 0.95, equal


def test_nothing_within_the_disc_is_seen_again(drawings):
    cfg = FixationConfig(count=40, size=15)
    pixels = fixation.fixate(jax.jit(saliency)(drawings), cfg)
    places = np.asarray(fixation.locations(pixels, 128), np.float64)
    grid = 2 * np.asarray(pixels, np.float64)[..., ::-1] / 127 - 1
    ended = (np.asarray(pixels) == 127).all(axis=-1)  # the map is exhausted
    for t in range(1, cfg.count):
        away = np.linalg.norm(grid[:, t, None] - places[:, :t], axis=-1).min(axis=1)
        assert (away[~ended[:, t]] > cfg.size / 128).all()


def test_fixations_lie_on_contours(drawings):
    """Mean distance to the next inked pixel: 0.8, and 2.8 at the 95th percentile (problem 1)."""
    pixels = np.asarray(frontend.look(drawings, FrontEndConfig(chunk=4)).pixel)
    away = []
    for image, path in zip(drawings, pixels, strict=True):
        ink = np.argwhere(image[..., 0] > 0)
        away.append(np.sqrt(((path[:, None] - ink[None]) ** 2).sum(-1)).min(axis=1))
    assert np.mean(away) < 1.2 and np.quantile(away, 0.95) < 4


def test_fast_mode_agrees_as_documented(drawings):
    maps = jax.jit(saliency)(drawings)
    exact = np.asarray(fixation.fixate(maps, FixationConfig(count=15, size=11)))
    fast = np.asarray(fixation.fixate(maps, FixationConfig(count=15, size=11, mode="fast")))
    gaps = np.abs(fast[:, :, None] - exact[:, None]).max(axis=-1).min(axis=-1)
    assert (gaps <= 4).mean() > 0.9
    # On a map without ties both are the same rule.
    distinct = jnp.asarray(np.random.default_rng(0).permutation(128 * 128), jnp.float32)
    one = distinct.reshape(1, 128, 128)
    both = [fixation.fixate(one, FixationConfig(count=15, size=11, mode=m)) for m in fixation.MODES]
    np.testing.assert_array_equal(*both)


def test_an_empty_map_gives_the_corner():
    for mode in fixation.MODES:
        cfg = FixationConfig(count=15, size=11, mode=mode)
        found = fixation.fixate(jnp.zeros((1, 128, 128)), cfg)
        assert (np.asarray(found) == 127).all()
        np.testing.assert_allclose(fixation.locations(found, 128), 1.0)


# --- sensors ------------------------------------------------------------------------------------


def corner_pixels(batch, height, count=6, seed=0):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, height, (batch, count, 2))
    pixels[:, 0], pixels[:, 1] = 0, height - 1
    return pixels.astype(np.int32)


@pytest.mark.parametrize("colours", (1, 3))
@pytest.mark.parametrize("scales", ((4, 8), (2, 3)))
def test_multiscale_glimpses(colours, scales):
    x = noise((2, 80, 80, colours))
    pixels = corner_pixels(2, 80)
    found = sensors.MultiScale(15, scales)(jnp.asarray(x), jnp.asarray(pixels))
    places = np.asarray(fixation.locations(jnp.asarray(pixels), 80), np.float64)
    assert found.shape == (2, 6, 3 * colours, 15, 15)
    for b in range(2):
        for t in range(6):
            exact = oracle.multiscale(x[b].astype(np.float64), places[b, t], 15, scales)
            np.testing.assert_allclose(found[b, t], exact, atol=3e-6)


@pytest.mark.parametrize("sensor", (sensors.LogPolar(), sensors.LogPolar(15, minus_one=False)))
def test_logpolar_glimpses(sensor):
    x = noise((2, 80, 80, 3))
    pixels = corner_pixels(2, 80)
    found = sensor(jnp.asarray(x), jnp.asarray(pixels))
    places = np.asarray(fixation.locations(jnp.asarray(pixels), 80), np.float64)
    for b in range(2):
        for t in range(6):
            exact = oracle.logpolar(
                x[b].astype(np.float64), places[b, t], sensor.side, 48.0, sensor.minus_one
            )
            np.testing.assert_allclose(found[b, t], exact, atol=3e-6)


def test_logpolar_geometry_is_the_published_one():
    down, across = sensors.LogPolar().offsets()
    assert len({*zip(down.ravel(), across.ravel(), strict=True)}) == 295
    largest = lambda side: 48 ** ((side - 1) / side) - 1
    assert np.hypot(down, across).max() == pytest.approx(largest(21), abs=0.8)
    assert largest(21) == pytest.approx(38.9, abs=0.05)
    assert largest(15) == pytest.approx(36.1, abs=0.05)
    assert (down[:, 0] == 0).all() and (across[:, 0] == 0).all()


@pytest.mark.parametrize("sensor", (sensors.MultiScale(15, (4,)), sensors.LogPolar()))
def test_glimpses_have_the_gradient_of_the_image(sensor):
    pixels = jnp.asarray(corner_pixels(1, 48))
    total = lambda x: (sensor(x, pixels) ** 2).sum()
    with jax.enable_x64(True):
        x = jnp.asarray(noise((1, 48, 48, 1)) * 0.8 + 0.1, jnp.float64)
        direction = jnp.asarray(noise((1, 48, 48, 1), 1) - 0.5, jnp.float64)
        slope = (jax.grad(total)(x) * direction).sum()
        difference = (total(x + 1e-6 * direction) - total(x - 1e-6 * direction)) / 2e-6
    assert float(slope) == pytest.approx(float(difference), rel=1e-5)


# --- the whole ----------------------------------------------------------------------------------


def test_chunks_do_not_matter(drawings):
    whole = frontend.look(drawings, FrontEndConfig(chunk=64))
    parts = frontend.look(drawings[:7], FrontEndConfig(chunk=4))
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a[:7], b, atol=2e-6)


def test_policies(drawings):
    assert frontend.grid_pixels(15, 128).shape == (15, 2)
    np.testing.assert_array_equal(
        frontend.grid_pixels(4, 128), [[32, 32], [32, 96], [96, 32], [96, 96]]
    )
    grid = frontend.look(drawings, FrontEndConfig(policy="grid", chunk=64))
    np.testing.assert_array_equal(grid.pixel[3], frontend.grid_pixels(15, 128))
    half = frontend.look(drawings.astype(np.float16), FrontEndConfig(policy="grid", chunk=64))
    np.testing.assert_array_equal(half.content, grid.content)  # worked out in single precision
    random = FrontEndConfig(policy="random", chunk=64)
    keys = jax.random.split(jax.random.key(0), 8)
    first, again = (
        frontend.look(drawings, random, keys),
        frontend.look(drawings[2:3], random, keys[2:3]),
    )
    np.testing.assert_array_equal(first.pixel[2], again.pixel[0])
    assert len(np.unique(np.asarray(first.pixel).reshape(-1, 2), axis=0)) > 100
    with pytest.raises(ValueError, match="a key is needed"):
        frontend.look(drawings, random)


def test_blank_and_white_images_stay_finite():
    x = np.stack([np.zeros((128, 128, 3)), np.ones((128, 128, 3))]).astype(np.float32)
    for sensor in frontend.SENSORS:
        found = frontend.look(x, FrontEndConfig(sensor=sensor))
        assert np.isfinite(found.content).all() and np.isfinite(found.location).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    (
        (lambda: images.prepare(np.zeros((1, 64, 64))), TypeError, "uint8"),
        (lambda: images.prepare(np.zeros((1, 64, 32), np.uint8)), ValueError, "square"),
        (lambda: images.prepare(np.zeros((1, 16, 16), np.uint8)), ValueError, "at least 32"),
        (lambda: frontend.look(np.full((1, 64, 64, 1), 2.0)), ValueError, r"\[0, 1\], got \[2"),
        (lambda: frontend.look(np.full((1, 64, 64, 1), np.nan)), ValueError, "nan"),
        (lambda: frontend.look(np.zeros((1, 64, 64, 1), np.uint8)), TypeError, "floats"),
        (lambda: frontend.look(np.zeros((64, 64, 1))), ValueError, "B, H, H, C"),
        (
            lambda: frontend.look(
                np.zeros((1, 64, 64, 1)), FrontEndConfig(fixation=FixationConfig(count=5000))
            ),
            ValueError,
            "5000 fixations, .* do not fit",
        ),
        (lambda: FrontEndConfig(sensor="retina"), ValueError, "sensor must be one of"),
        (lambda: FrontEndConfig(policy="eye"), ValueError, "policy must be one of"),
        (lambda: FixationConfig(size=2), ValueError, "at least 3"),
        (lambda: FixationConfig(inhibition="soft", mode="fast"), NotImplementedError, "exact"),
        (lambda: SaliencyConfig(patch=4), ValueError, "patch must be odd"),
        (lambda: sensors.MultiScale(15, (1,)), ValueError, "scales at least 2"),
        (lambda: dataclasses.replace(sensors.LogPolar(), radius=1.0), ValueError, "radius"),
    ),
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
