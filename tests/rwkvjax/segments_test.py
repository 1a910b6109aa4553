# SPDX-License-Identifier: Apache-2.0
"""Windows worked through in segments: what the gradient is, and what it costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rwkvjax import model
from rwkvjax.config import Config
from rwkvjax.task import LanguageModelTask, TaskConfig

CFG = Config(
    version="6",
    vocab_size=32,
    dim=16,
    layers=2,
    head_size=8,
    mix_rank=4,
    decay_rank=4,
    wkv="scan",
)
BATCH, STEPS = 2, 24
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def params():
    leaves, structure = jax.tree.flatten(model.init(KEY, CFG))
    keys = jax.random.split(jax.random.key(7), len(leaves))
    noisy = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, noisy)


def _batch(steps=STEPS):
    tokens = jax.random.randint(jax.random.key(1), (BATCH, steps + 1), 0, CFG.vocab_size)
    return {
        "tokens": tokens,
        "reset": jnp.zeros((BATCH, steps + 1), bool).at[0, 9].set(True),
        "loss_mask": jnp.ones((BATCH, steps)).at[1, :5].set(0),
    }


def _task(steps=STEPS, **options):
    return LanguageModelTask(CFG, steps, TaskConfig(l2_wrap=1e-2, **options))


def _close(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_the_full_reach_is_the_single_pass(params):
    (loss, (carry, aux)), grads = jax.jit(_task(segment=8).grads)(params, (), _batch(), KEY)
    whole = jax.jit(jax.value_and_grad(_task().loss, has_aux=True))
    (expected, (_, expected_aux)), expected_grads = whole(params, (), _batch(), KEY)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert aux["weight"] == expected_aux["weight"] == BATCH * STEPS - 5
    _close(grads, expected_grads)


@pytest.mark.parametrize("reach", [1, 2])
def test_a_shorter_reach_takes_the_state_at_its_borders_as_given(params, reach):
    """Against windows of `reach` segments, each started from the state that the one before left."""
    steps, batch = 24, _batch()
    task = _task(segment=6, reach=reach)
    (loss, _), grads = jax.jit(task.grads)(params, (), batch, KEY)

    length, total = 6 * reach, batch["loss_mask"].sum()
    plain = LanguageModelTask(CFG, length, TaskConfig(l2_wrap=1e-2, carry_state=True))
    piece_grad = jax.jit(jax.value_and_grad(plain.loss, has_aux=True))
    carry, loss_sum, grad_sum = plain.init_carry(BATCH), 0.0, jax.tree.map(jnp.zeros_like, params)
    for start in range(0, steps, length):
        stop = start + length
        piece = {
            "tokens": batch["tokens"][:, start : stop + 1],
            "reset": batch["reset"][:, start : stop + 1],
            "loss_mask": batch["loss_mask"][:, start:stop],
        }
        (value, (carry, aux)), piece_grads = piece_grad(params, carry, piece, KEY)
        share = aux["weight"] / total
        loss_sum += value * share
        grad_sum = jax.tree.map(lambda s, g, share=share: s + share * g, grad_sum, piece_grads)
    np.testing.assert_allclose(loss, loss_sum, rtol=1e-5)
    _close(grads, grad_sum)


def test_the_state_is_carried_to_the_next_window(params):
    task = _task(segment=8, reach=1, carry_state=True)
    (_, (carry, _)), _ = jax.jit(task.grads)(params, task.init_carry(BATCH), _batch(), KEY)
    tokens, reset = _batch()["tokens"][:, :-1], _batch()["reset"][:, :-1]
    _close(carry, model.apply(params, CFG, tokens, reset=reset)[1])


def _memory(steps, **options):
    task = LanguageModelTask(CFG, steps, TaskConfig(**options))
    grads = getattr(task, "grads", None) or jax.value_and_grad(task.loss, has_aux=True)
    shapes = (jax.eval_shape(lambda: model.init(KEY, CFG)), (), _batch(steps), KEY)
    compiled = jax.jit(grads).lower(*shapes).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_does_not_grow_with_the_window():
    per_token = (_memory(1024) - _memory(256)) / 768
    truncated = (_memory(1024, segment=64, reach=1) - _memory(256, segment=64, reach=1)) / 768
    full = (_memory(1024, segment=64) - _memory(256, segment=64)) / 768
    ids = 64 * BATCH  # the ids and masks of the window itself, some of them copied
    assert truncated < ids
    # One state for each segment of 64 tokens, and no activations.
    state = sum(x.nbytes for x in jax.tree.leaves(model.init_state(CFG, BATCH)))
    assert full < ids + 2 * state / 64
    assert per_token > 20 * full


def test_bad_input(params):
    with pytest.raises(ValueError, match="24 tokens is not a whole number of segments of 7"):
        _task(segment=7).grads(params, (), _batch(), KEY)
    with pytest.raises(ValueError, match="4 segments are not a whole number of groups of 3"):
        _task(segment=6, reach=3).grads(params, (), _batch(), KEY)
    with pytest.raises(ValueError, match="not to be negative"):
        TaskConfig(segment=-1)
