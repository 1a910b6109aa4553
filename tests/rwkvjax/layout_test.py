# SPDX-License-Identifier: Apache-2.0
"""Layouts for decoding, and products with narrow matrices, against the plain forms."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import hardware
from rwkvjax import layout, matrices, model, narrow, sampling, weights
from rwkvjax.matrices import BFloat16Matrix
from rwkvjax.quantization import QuantizeConfig, quantize, quantize_matrix
from rwkvjax.weights.synthetic import random_checkpoint

VERSIONS = ("4", "5.2", "6", "7")
TOKENS = np.random.RandomState(0).randint(0, 97, (2, 10)).astype(np.int32)


@pytest.fixture(scope="module", params=VERSIONS)
def setup(request):
    return weights.from_official(random_checkpoint(request.param, dim=64, layers=2, head_size=32))


def _close(found, expected, tolerance=2e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 0, tolerance), found, expected)


def test_layers_that_lie_apart_give_the_same_numbers(setup):
    cfg, params = setup
    apart = model.unstack(params)
    assert len(apart["blocks"]) == cfg.layers and model.unstack(apart) is apart
    reset = np.zeros(TOKENS.shape, bool)
    reset[1, 4] = True
    run = jax.jit(lambda p: model.apply(p, cfg, TOKENS, reset=reset))
    expected = run(params)
    _close(run(apart), expected)  # inside of jit
    _close(model.apply(apart, cfg, TOKENS, reset=reset), expected)  # layer by layer


@pytest.mark.parametrize("kind", ["bfloat16", "int4"])
def test_generation_does_not_depend_on_the_layout(kind):
    cfg, params = weights.from_official(random_checkpoint("6", dim=64, layers=2, head_size=32))
    if kind == "bfloat16":
        params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    if kind.startswith("int"):
        params = quantize(params, QuantizeConfig(int(kind[3:]), 16))
    changed = layout.for_decoding(params)
    assert layout.for_decoding(changed) is changed
    if kind == "bfloat16":
        assert isinstance(changed["blocks"][0]["att"]["key"], BFloat16Matrix)
        assert isinstance(changed["head"]["weight"], BFloat16Matrix)
    run = lambda p: sampling.generate(p, cfg, TOKENS[:, :4], 4, greedy, burst=4)
    greedy = sampling.Sampling(temperature=0.0)
    np.testing.assert_array_equal(run(changed), run(params))


def test_donated_parameters_are_freed():
    cfg, params = weights.from_official(random_checkpoint("6", dim=64, layers=2, head_size=32))
    params = jax.tree.map(lambda x: jnp.asarray(x).astype(jnp.bfloat16), params)
    logits, _ = model.apply(params, cfg, TOKENS)
    changed = layout.for_decoding(params, donate=True)
    assert params["blocks"]["att"]["key"].is_deleted() and params["head"]["weight"].is_deleted()
    _close(model.apply(changed, cfg, TOKENS)[0], logits, 0.02 * float(jnp.abs(logits).max()))


@pytest.mark.parametrize("rows", [1, 2, 3, 9, 40])
@pytest.mark.parametrize("bits, group", [(8, 0), (8, 8), (8, 64), (4, 0), (4, 16), (4, 64)])
def test_narrow_products_equal_those_of_the_dense_matrix(bits, group, rows):
    rng = np.random.RandomState(bits + group + rows)
    weight, x = rng.randn(384, 6).astype(np.float32), rng.randn(rows, 384).astype(np.float32)
    q = quantize_matrix(weight, bits, group)
    assert narrow.applies(jnp.asarray(x), q.values) == (rows <= narrow.MOST_ROWS)
    expected = x.astype(np.float64) @ np.asarray(q.dense(), np.float64)
    np.testing.assert_allclose(matrices.matmul(jnp.asarray(x), q), expected, 0, 2e-4)
    rounded = matrices.matmul(jnp.asarray(x, jnp.bfloat16), q)
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_allclose(rounded.astype(np.float32), expected, 0.03, 0.6)


def test_products_in_halves_keep_seventeen_bits():
    rng = np.random.RandomState(0)
    x = (rng.randn(40, 96) * 10.0 ** rng.randint(-3, 4, (40, 96))).astype(np.float32)
    weight = jnp.asarray(rng.randn(96, 8), jnp.bfloat16)
    exact = np.abs(x).astype(np.float64) @ np.abs(np.asarray(weight, np.float64))
    expected = x.astype(np.float64) @ np.asarray(weight, np.float64)
    run = jax.jit(narrow.in_halves)
    assert np.max(np.abs(run(x, weight) - expected) / exact) < 2.0**-17
    integers = jnp.asarray(rng.randint(-127, 128, (96, 8)), jnp.int8)
    scale = np.abs(x).astype(np.float64) @ np.abs(np.asarray(integers, np.float64))
    expected = x.astype(np.float64) @ np.asarray(integers, np.float64)
    assert np.max(np.abs(run(x, integers) - expected) / scale) < 2.0**-17
    # Gradients are those of the float32 product, not of rounded numbers.
    gradient = jax.grad(lambda x: (run(x, weight) ** 2).sum() / 2)(jnp.asarray(x))
    wide = np.asarray(weight, np.float32)
    np.testing.assert_allclose(gradient, (x @ wide) @ wide.T, rtol=1e-3, atol=0.05)


@pytest.mark.parametrize("rows, used", [(1, True), (3, False)])
def test_one_row_times_a_tall_matrix(rows, used):
    rng = np.random.RandomState(rows)
    weight, x = rng.randn(2048, 512).astype(np.float32), rng.randn(rows, 2048).astype(np.float32)
    assert narrow.beats_dot(jnp.asarray(x), jnp.asarray(weight)) == used
    assert not narrow.beats_dot(jnp.asarray(x[:, :512]), jnp.asarray(weight.T))
    expected = x.astype(np.float64) @ weight.astype(np.float64)
    np.testing.assert_allclose(
        matrices.matmul(jnp.asarray(x), jnp.asarray(weight)), expected, 0, 4e-4
    )


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=16, max_size=16))
def test_bits_stand_for_the_bfloat16_numbers(values):
    array = np.asarray(values, np.float32).astype(ml_dtypes.bfloat16)
    dense = BFloat16Matrix.of(jnp.asarray(array[:, None])).dense()
    np.testing.assert_array_equal(np.asarray(dense)[:, 0], array.astype(np.float32))


def test_halves_of_what_bfloat16_cannot_hold():
    weight = jnp.ones((3, 2), jnp.bfloat16)
    infinite = narrow.in_halves(jnp.asarray([[np.inf, 1, 2], [1, 2, 3]], jnp.float32), weight)
    np.testing.assert_array_equal(infinite, [[np.inf, np.inf], [6, 6]])
    assert np.isnan(narrow.in_halves(jnp.asarray([[np.nan, 1, 2]], jnp.float32), weight)).all()


@pytest.mark.parametrize("units", [False, True])
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_bfloat16_products_are_those_of_the_widened_matrix(rows, units, monkeypatch):
    monkeypatch.setattr(hardware, "cpu_has_bfloat16_units", lambda: units)
    rng = np.random.RandomState(rows)
    array = jnp.asarray(rng.randn(64, 7), jnp.bfloat16)
    x = jnp.asarray(rng.randn(rows, 64), jnp.float32)
    held = BFloat16Matrix.of(array)
    assert (held.shape, held.dtype, held.nbytes) == (array.shape, array.dtype, array.nbytes)
    expected = np.asarray(x, np.float64) @ np.asarray(array).astype(np.float64)
    np.testing.assert_allclose(matrices.matmul(x, held), expected, 0, 1e-4)
    narrow_x = x.astype(jnp.bfloat16)
    short = matrices.matmul(narrow_x, held)
    assert short.dtype == jnp.bfloat16
    np.testing.assert_allclose(short.astype(np.float32), expected, 0.03, 0.3)
