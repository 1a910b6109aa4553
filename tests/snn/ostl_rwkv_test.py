# SPDX-License-Identifier: Apache-2.0
"""RWKV-4 and RWKV-6 trained online; the model itself is the oracle."""

import dataclasses
import gzip
import lzma

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rwkvjax
from core.datasets import find_dataset
from rwkvjax.config import Config
from snn import cells, ostl, rwkv_cells
from tests.snn.ostl_nets import errors, gradient

EXACT = 1e-10
VOCAB, STEPS, BATCH = 11, 12, 2


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def cross_entropy(logits, target):
    return optax.softmax_cross_entropy_with_integer_labels(logits, target).sum()


def small(version):
    """(config, parameters of the model, tokens): two blocks with random weights."""
    config = Config(
        version=version,
        vocab_size=VOCAB,
        dim=8,
        layers=2,
        head_size=4,
        mix_rank=3,
        decay_rank=2,
        ffn_dim=12,
        dtype="float64",
    )
    rng = np.random.default_rng(0)
    start = rwkvjax.init(jax.random.key(0), config)
    params = jax.tree.map(
        lambda a: jnp.asarray(np.asarray(a, np.float64) + 0.2 * rng.normal(size=a.shape)), start
    )
    return config, params, jnp.asarray(rng.integers(0, VOCAB, (STEPS + 1, BATCH)))


@pytest.mark.parametrize("version", ["4", "6"])
def test_last_block_equals_the_gradient_of_the_model(version):
    config, params, tokens = small(version)
    net = rwkv_cells.stack(config)
    own = rwkv_cells.stack_params(config, params)

    def loss(params):
        logits, _ = rwkvjax.apply(params, config, tokens[:-1].T)
        return cross_entropy(logits, tokens[1:].T), logits

    (value, logits), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    _, ys = cells.unroll(net, own, net.init_state(BATCH, jnp.float64), tokens[:-1])
    np.testing.assert_allclose(ys, jnp.swapaxes(logits, 0, 1), atol=1e-12)

    online, found = gradient(ostl.Ostl(), net, own, tokens[:-1], tokens[1:], cross_entropy)
    np.testing.assert_allclose(online, value, rtol=1e-12)
    found = errors(found, rwkv_cells.stack_params(config, grads))
    exact = {path: e for path, e in found.items() if int(path[6]) >= 3}
    assert len(exact) > 20 and max(exact.values()) < EXACT
    # The block below loses what travels through the state of the block above.
    below = [e for path, e in found.items() if path.startswith("layer_2/")]
    assert 0.01 < np.median(below) < 1


def test_streaming_is_bit_equal():
    config, params, tokens = small("4")
    net = cells.Stack(rwkv_cells.stack(config).layers[3:])
    params = rwkv_cells.stack_params(config, params)
    params = {f"layer_{i}": params[f"layer_{i + 3}"] for i in range(3)}
    xs = jnp.asarray(np.random.default_rng(1).normal(size=(STEPS, BATCH, config.dim)))
    f = jax.jit(ostl.value_and_grad(ostl.Ostl(), net, cross_entropy))
    start = ostl.init(ostl.Ostl(), net, params, BATCH)
    (_, end), whole = f(params, start, xs, tokens[1:])
    (_, carry), grads = f(params, start, xs[:6], tokens[1:7])
    (_, carry), grads = f(params, carry, xs[6:], tokens[7:], grads)
    same = jax.tree.map(lambda a, b: bool(jnp.all(a == b)), (end, whole), (carry, grads))
    assert jax.tree.all(same)


FILES = {"4": "tiny-rwkv-4v0-660K-FP32.bin.xz", "6": "tiny-rwkv-6v0-1m-FP32.bin.xz"}


@pytest.mark.parametrize("version", [pytest.param("4", marks=pytest.mark.slow), "6"])
def test_trained_model_on_real_text(version, tmp_path):
    """The last block of a trained model, on Shakespeare: equal to BPTT, every parameter."""
    try:
        source, text = find_dataset("rwkv_tiny") / FILES[version], find_dataset("tiny_shakespeare")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    path = tmp_path / "model.bin"
    path.write_bytes(lzma.open(source).read())
    config, params = rwkvjax.load(path)
    config = dataclasses.replace(config, dtype="float64")
    # The file of version 4 has lost nearly all of its weights; noise gives it a past again.
    noise, rng = {"4": 0.1, "6": 0.0}[version], np.random.default_rng(0)
    params = jax.tree.map(
        lambda a: jnp.asarray(np.asarray(a, np.float64) + noise * rng.normal(size=a.shape)), params
    )
    tokens = np.frombuffer(gzip.open(text / "input.txt.gz").read(25), np.uint8).astype(np.int32)
    net = rwkv_cells.stack(config)
    own = rwkv_cells.stack_params(config, params)
    # What enters the last block: the whole model without its last block and head.
    last = config.layers + 1
    below = cells.Stack(net.layers[:last])
    below_params = {f"layer_{i}": own[f"layer_{i}"] for i in range(last)}
    state = below.init_state(1, jnp.float64)
    _, xs = jax.jit(lambda p, s, t: cells.unroll(below, p, s, t))(
        below_params, state, jnp.asarray(tokens[:-1, None])
    )
    above = cells.Stack(net.layers[last:])
    above_params = {f"layer_{i}": own[f"layer_{i + last}"] for i in range(3)}
    targets = jnp.asarray(tokens[1:, None])
    value, exact = gradient(ostl.Bptt(), above, above_params, xs, targets, cross_entropy)
    online, grads = gradient(ostl.Ostl(), above, above_params, xs, targets, cross_entropy)
    logits, _ = rwkvjax.apply(params, config, jnp.asarray(tokens[None, :-1]))
    np.testing.assert_allclose(value, cross_entropy(logits[0], jnp.asarray(tokens[1:])), rtol=1e-12)
    np.testing.assert_allclose(online, value, rtol=1e-12)
    assert max(errors(grads, exact).values()) < EXACT
    # The past matters: without it these gradients are far off.
    cut = gradient(ostl.TruncatedBptt(1), above, above_params, xs, targets, cross_entropy)[1]
    assert errors(cut, exact)["layer_0/att/value"] > 0.01


def test_bad_versions():
    with pytest.raises(NotImplementedError, match="versions 4 and 6, got version '7'"):
        rwkv_cells.stack(Config(version="7", dim=64))
    with pytest.raises(ValueError, match="needs a model of version 4, got version '6'"):
        rwkv_cells.Rwkv4Block(Config(version="6", dim=64))
    with pytest.raises(ValueError, match="layer must be in 0 ... 1, got 2"):
        rwkv_cells.Rwkv4Block(Config(version="4", layers=2), 2)
