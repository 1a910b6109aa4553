# SPDX-License-Identifier: Apache-2.0
import jax
import numpy as np
import pytest

from rwkvjax import model, sampling
from rwkvjax.config import Config
from rwkvjax.sampling import ENDED, Sampling

CFG = Config(version="5.2", vocab_size=13, dim=16, layers=1, head_size=8, wkv="scan")
LENGTHS = (3, 1, 12, 4, 9)


@pytest.fixture(scope="module")
def params():
    start = jax.jit(lambda: model.init(jax.random.key(0), CFG))()
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + 0.5 * rng.normal(size=x.shape).astype(x.dtype), start)


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(1)
    return [rng.integers(0, 13, n) for n in LENGTHS]


_apply = jax.jit(model.apply, static_argnums=1)


def test_prefill_of_different_lengths_equals_each_alone(params, prompts):
    logits, state = sampling.prefill(params, CFG, prompts, chunk=4)
    for i, prompt in enumerate(prompts):
        expected, alone = _apply(params, CFG, prompt[None])
        np.testing.assert_allclose(logits[i], expected[0, -1], rtol=2e-4, atol=2e-5)
        for got, wanted in zip(state, alone, strict=True):
            np.testing.assert_allclose(got[:, i], wanted[:, 0], rtol=2e-4, atol=2e-4)


def test_greedy_continuation_equals_recomputing_everything(params):
    prompt = np.array([5, 1, 7])
    found = sampling.generate(params, CFG, prompt[None], 8, Sampling(temperature=0.0))
    tokens = np.zeros((1, 11), np.int32)
    tokens[0, :3] = prompt
    for at in range(3, 11):  # what comes after a position does not matter to it
        logits, _ = _apply(params, CFG, tokens)
        tokens[0, at] = np.argmax(logits[0, at - 1])
    assert list(found[0]) == list(tokens[0, 3:])


def test_a_row_does_not_depend_on_the_others(params, prompts):
    """Same prompt, settings and seed: the same tokens, alone or in company."""
    hows = [Sampling(), Sampling(0.0), Sampling(0.7, 1.0, presence=1.0), Sampling(1.5), Sampling()]
    seeds = [3, 4, 5, 6, 3]
    together = sampling.generate(params, CFG, prompts, 10, hows, seeds)
    for i in range(len(prompts)):
        alone = sampling.generate(params, CFG, [prompts[i]], 10, hows[i], [seeds[i]])
        np.testing.assert_array_equal(alone[0], together[i])


def test_seed_decides(params):
    prompt = np.array([[1], [2]])
    draw = lambda seed: sampling.generate(params, CFG, prompt, 20, Sampling(1.0, 1.0), seed)
    np.testing.assert_array_equal(draw(1), draw(1))
    assert not np.array_equal(draw(1), draw(2))
    assert draw(1).shape == (2, 20)


def test_rows_end_at_their_own_stop_token(params, prompts):
    plain = sampling.generate(params, CFG, prompts, 12, Sampling(0.0))
    stop = int(plain[0, 4])
    hows = [Sampling(0.0, stop=(stop,))] + [Sampling(0.0)] * 4
    stopped = sampling.generate(params, CFG, prompts, 12, hows)
    first = int(np.argmax(plain[0] == stop))
    np.testing.assert_array_equal(stopped[0, :first], plain[0, :first])
    assert (stopped[0, first:] == ENDED).all()
    np.testing.assert_array_equal(stopped[1:], plain[1:])


def test_stream_ends_when_all_rows_have(params):
    stop = tuple(range(13))
    parts = list(sampling.stream(params, CFG, [[1], [2, 3]], 100, Sampling(stop=stop), burst=4))
    assert len(parts) == 1 and (parts[0] == ENDED).all()


def test_compiled_once_for_a_batch_shape(params, prompts):
    from rwkvjax.sampling import generation as module

    sampling.generate(params, CFG, prompts, 4, Sampling(0.5), seed=0, burst=4)
    programs = module._continue._cache_size()
    other = [np.roll(p, 1) for p in prompts]
    sampling.generate(params, CFG, other, 8, Sampling(1.0, 0.3, 2, min_p=0.1), seed=9, burst=4)
    assert module._continue._cache_size() == programs


def test_bad_input(params):
    with pytest.raises(ValueError, match="T >= 1"):
        sampling.prefill(params, CFG, np.zeros((1, 0), int))
    with pytest.raises(ValueError, match="T >= 1"):
        sampling.prefill(params, CFG, [[1], []])
    with pytest.raises(TypeError, match="integers"):
        sampling.prefill(params, CFG, [[0.5]])
    with pytest.raises(ValueError, match="max_tokens"):
        sampling.generate(params, CFG, np.zeros((1, 1), int), 0)
    with pytest.raises(ValueError, match="token ids must be in"):
        sampling.generate(params, CFG, np.array([[99]]), 3)
    with pytest.raises(ValueError, match="settings"):
        sampling.generate(params, CFG, [[1], [2]], 3, [Sampling()])
    with pytest.raises(ValueError, match="outside the vocabulary"):
        sampling.generate(params, CFG, [[1]], 3, Sampling(banned=(13,)))
