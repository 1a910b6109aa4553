# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rwkvjax import model, sample
from rwkvjax.config import Config
from rwkvjax.sample import Sampling

CFG = Config(version="5.2", vocab_size=13, dim=16, layers=1, head_size=8, wkv="scan")


@pytest.fixture(scope="module")
def params():
    start = jax.jit(lambda: model.init(jax.random.key(0), CFG))()
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + 0.5 * rng.normal(size=x.shape).astype(x.dtype), start)


_apply = jax.jit(model.apply, static_argnums=1)


def _support(how, logits, draws=400):
    logits = jnp.broadcast_to(jnp.asarray(logits), (draws, len(logits)))
    return np.bincount(sample.draw(logits, jax.random.key(0), how), minlength=logits.shape[1])


def test_truncation_keeps_the_right_tokens():
    logits = np.log([0.5, 0.3, 0.15, 0.05])
    assert (_support(Sampling(1.0, 1.0), logits) > 0).all()
    np.testing.assert_array_equal(_support(Sampling(1.0, 0.6), logits) > 0, [1, 1, 0, 0])
    np.testing.assert_array_equal(_support(Sampling(1.0, 1.0, 3), logits) > 0, [1, 1, 1, 0])
    np.testing.assert_array_equal(_support(Sampling(0.0), logits), [400, 0, 0, 0])
    np.testing.assert_array_equal(_support(Sampling(1.0, 1.0, vocab=2), logits) > 0, [1, 1, 0, 0])


def test_temperature_follows_truncation():
    counts = _support(Sampling(0.5, 0.6), np.log([0.5, 0.3, 0.15, 0.05]), draws=4000)
    assert counts[0] / counts.sum() == pytest.approx(0.25 / (0.25 + 0.09), abs=0.03)


def test_prefill_in_pieces_equals_the_whole(params):
    prompt = np.random.default_rng(0).integers(0, 13, (2, 11))
    logits, state = sample.prefill(params, CFG, prompt, chunk=4)
    expected, end = _apply(params, CFG, prompt)
    np.testing.assert_allclose(logits, expected[:, -1], atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), state, end)


def test_greedy_equals_the_plain_loop(params):
    prompt = np.array([[1, 2, 3]])
    found = sample.generate(params, CFG, prompt, 8, Sampling(0.0))
    tokens = np.zeros((1, 11), np.int32)
    tokens[0, :3] = prompt
    for at in range(3, 11):  # what comes after a position does not matter to it
        logits, _ = _apply(params, CFG, tokens)
        tokens[0, at] = np.argmax(logits[0, at - 1])
    assert list(found[0]) == list(tokens[0, 3:])


def test_seed_decides(params):
    prompt = np.array([[1], [2]])
    draw = lambda seed: sample.generate(params, CFG, prompt, 20, Sampling(1.0, 1.0), seed)
    np.testing.assert_array_equal(draw(1), draw(1))
    assert not np.array_equal(draw(1), draw(2))
    assert draw(1).shape == (2, 20)


def test_bad_input(params):
    with pytest.raises(ValueError, match="T >= 1"):
        sample.prefill(params, CFG, np.zeros((1, 0), int))
    with pytest.raises(ValueError, match="max_tokens"):
        sample.generate(params, CFG, np.zeros((1, 1), int), 0)
    with pytest.raises(ValueError, match="token ids must be in"):
        sample.generate(params, CFG, np.array([[99]]), 3)
    with pytest.raises(ValueError, match="top_p"):
        Sampling(top_p=0.0)
