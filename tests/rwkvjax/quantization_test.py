# SPDX-License-Identifier: Apache-2.0
"""Quantised matrices against their dense meaning, in every version, and their files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rwkvjax
from rwkvjax import matrices, quantization, weights
from rwkvjax.matrices import LowRankMatrix, QuantizedMatrix
from rwkvjax.quantization import QuantizeConfig, quantize, quantize_matrix
from rwkvjax.weights.synthetic import random_checkpoint

TOKENS = np.random.RandomState(0).randint(0, 97, (2, 6))


def _model(version):
    return weights.from_official(random_checkpoint(version, dim=64, layers=2, head_size=32))


def _dense(params):
    return jax.tree.map(
        lambda x: x.dense() if matrices.is_structured(x) else x,
        params,
        is_leaf=matrices.is_structured,
    )


@settings(max_examples=25)
@given(st.sampled_from([8, 4]), st.sampled_from([0, 2, 4]), st.integers(0, 10**6))
def test_rounding_is_the_nearest_multiple_of_the_scale(bits, group, seed):
    rng = np.random.RandomState(seed)
    weight = (rng.randn(16, 3) * 10.0 ** rng.uniform(-3, 3)).astype(np.float32)
    weight[:, 0] = 0
    q = quantize_matrix(weight, bits, group)
    assert (q.shape, q.ndim) == (weight.shape, 2)
    scale = np.repeat(np.asarray(q.scale, np.float64), 16 // q.scale.shape[0], axis=0)
    top = 2 ** (bits - 1)
    expected = np.clip(np.rint(weight / scale), -top, top - 1) * scale
    dense = np.asarray(q.dense())
    np.testing.assert_allclose(dense, expected, rtol=1e-6)
    assert not dense[:, 0].any()
    # bfloat16 scales are off by at most 2^-8, so nothing but the clipped 4-bit tail is further.
    if bits == 8:
        assert (np.abs(dense - weight) <= scale * 1.01).all()


@pytest.mark.parametrize("bits, group", [(8, 0), (8, 8), (4, 0), (4, 8)])
def test_products_equal_those_of_the_dense_matrix(bits, group):
    rng = np.random.RandomState(1)
    weight, x = rng.randn(32, 5).astype(np.float32), rng.randn(2, 3, 32).astype(np.float32)
    q = quantize_matrix(weight, bits, group)
    np.testing.assert_allclose(matrices.matmul(x, q), x @ np.asarray(q.dense()), 0, 1e-4)
    down, up = rng.randn(32, 2).astype(np.float32), rng.randn(2, 5).astype(np.float32)
    both = LowRankMatrix(q, down, up, jnp.float32(0.5))
    expected = x @ (np.asarray(q.dense()) + 0.5 * down @ up)
    np.testing.assert_allclose(matrices.matmul(x, both), expected, 0, 1e-4)


def test_four_bit_errors_shrink_with_the_groups_and_the_search():
    weight = np.random.RandomState(2).randn(256, 64).astype(np.float32)
    error = lambda q: float(np.square(np.asarray(q.dense()) - weight).mean())
    errors = [error(quantize_matrix(weight, 4, g)) for g in (0, 64, 16)]
    assert errors[0] > errors[1] > errors[2]
    plain = np.abs(weight).max(0) / 7
    rounded = np.clip(np.rint(weight / plain), -8, 7) * plain
    assert errors[0] < 0.8 * np.square(rounded - weight).mean()


@pytest.mark.parametrize("version", ["4", "5.2", "6", "7"])
def test_every_version_runs_quantised(version):
    cfg, params = _model(version)
    how = QuantizeConfig(4, 16) if version in ("6", "7") else QuantizeConfig()
    small = quantize(params, how)
    assert isinstance(small["blocks"]["att"]["key"], QuantizedMatrix)
    assert isinstance(small["head"]["weight"], QuantizedMatrix)
    logits, state = rwkvjax.apply(small, cfg, TOKENS)
    expected, _ = rwkvjax.apply(_dense(small), cfg, TOKENS)
    np.testing.assert_allclose(logits, expected, 0, 5e-5)
    exact, _ = rwkvjax.apply(params, cfg, TOKENS)
    assert 1e-4 < float(jnp.abs(logits - exact).max())  # it did round
    if how.bits == 8:
        assert float(jnp.abs(logits - exact).max()) < 0.1 * float(jnp.abs(exact).max())
    stepped = None
    for t in range(TOKENS.shape[1]):
        start = rwkvjax.init_state(cfg, 2) if stepped is None else stepped
        last, stepped = rwkvjax.step(small, cfg, TOKENS[:, t], start)
    np.testing.assert_allclose(last, logits[:, -1], 0, 5e-5)
    assert jax.tree.structure(stepped) == jax.tree.structure(state)


@pytest.mark.parametrize("how", [QuantizeConfig(), QuantizeConfig(4, 16, embedding=False)])
def test_files_give_the_same_bits(how, tmp_path):
    cfg, params = _model("6")
    small = quantize(params, how)
    path = tmp_path / "small.safetensors"
    quantization.save(path, cfg, small)
    again_cfg, again = rwkvjax.load(path)
    assert again_cfg == cfg
    assert jax.tree.structure(again) == jax.tree.structure(small)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(small), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    assert path.stat().st_size < 1.05 * quantization.nbytes(small) + 8000
    with pytest.raises(ValueError, match="quantised weights, which cannot be stored as"):
        rwkvjax.load(path, dtype="bfloat16")


def test_damaged_files_are_refused(tmp_path):
    cfg, params = _model("4")
    path = tmp_path / "small.safetensors"
    quantization.save(path, cfg, quantize(params))
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])

    def write(changed):
        text = json.dumps(changed).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])

    other = json.loads(json.dumps(header))
    other["blocks.att.key.kept"] = other.pop("blocks.att.key.scale")
    write(other)
    with pytest.raises(weights.WeightsError, match="blocks.att.key.scale is missing"):
        rwkvjax.load(path)
    other = json.loads(json.dumps(header))
    other["blocks.att.key.scale"]["shape"] = [2, 64, 1]
    write(other)
    with pytest.raises(weights.WeightsError, match="do not go with scales"):
        rwkvjax.load(path)
    other = json.loads(json.dumps(header))
    other["__metadata__"]["config"] = '{"layers": -1}'
    write(other)
    with pytest.raises(weights.WeightsError, match="layers must be at least 1"):
        rwkvjax.load(path)
    with pytest.raises(weights.WeightsError, match="not a file of quantised"):
        weights.save(tmp_path / "plain.safetensors", cfg, params)
        quantization.load(tmp_path / "plain.safetensors")


def test_mistakes_are_explained():
    with pytest.raises(ValueError, match="bits must be one of"):
        QuantizeConfig(bits=5)
    cfg, params = _model("4")
    with pytest.raises(ValueError, match=r"blocks/att/gate|group_size 48 does not fit 64 inputs"):
        quantize(params, QuantizeConfig(group_size=48))
    with pytest.raises(ValueError, match="not an array but a Quantized"):
        quantize(quantize(params))
