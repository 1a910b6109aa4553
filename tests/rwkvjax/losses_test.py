# SPDX-License-Identifier: Apache-2.0
"""The head's loss in slices equals the loss of all logits, without ever holding them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import sharding
from rwkvjax import losses


def _arrays(batch=2, steps=12, dim=8, vocab=40):
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], (batch, steps, dim))
    head = jax.random.normal(keys[1], (dim, vocab))
    targets = jax.random.randint(keys[2], (batch, steps), 0, vocab)
    return x, head, targets, 0.1 * jax.random.uniform(keys[3], (batch, steps))


def _plain(x, head, targets, weights, pull):
    logits = x @ head
    loss = (losses.cross_entropy(logits, targets) * weights).sum()
    return losses.l2_wrap(loss, logits, pull)


@pytest.mark.parametrize("count", [1, 3, 12])
def test_slices_give_the_losses_and_gradients_of_all_logits(count):
    x, head, targets, pull = _arrays()
    weights = jnp.arange(24.0).reshape(2, 12) / 24

    def sliced(x, head):
        return (losses.head_losses(x, head, targets, pull, count=count) * weights).sum()

    plain = lambda x, head: _plain(x, head, targets, weights, pull)
    found = jax.jit(jax.value_and_grad(sliced, argnums=(0, 1)))(x, head)
    expected = jax.jit(jax.value_and_grad(plain, argnums=(0, 1)))(x, head)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


def test_the_vocabulary_split_over_devices():
    x, head, targets, pull = _arrays(steps=16)
    mesh = sharding.make_mesh({"sequence": 2, "model": 4})
    shard = sharding.make_shard(mesh, sharding.get_rules("tp"))
    place = lambda a, *axes: jax.device_put(
        a, sharding.named_sharding(axes, a.shape, mesh, sharding.get_rules("tp"))
    )

    def loss(x, head, **how):
        return losses.head_losses(x, head, targets, pull, **how).mean()

    grad = jax.value_and_grad(loss, argnums=(0, 1))
    expected = grad(x, head)
    split = jax.jit(lambda x, head: grad(x, head, count=4, shard=shard))
    found = split(place(x, "batch", "time", None), place(head, "embed", "vocab"))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


def test_no_array_of_all_logits_is_ever_made():
    steps, vocab = 1024, 65536
    x = jax.ShapeDtypeStruct((1, steps, 8), jnp.float32)
    head = jax.ShapeDtypeStruct((8, vocab), jnp.float32)
    targets = jax.ShapeDtypeStruct((1, steps), jnp.int32)
    count = losses.slices(steps, vocab)
    assert count == steps // losses.SLICE

    def loss(x, head, targets):
        return losses.head_losses(x, head, targets, count=count).sum()

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(x, head, targets).compile()
    assert f"{steps},{vocab}]" not in compiled.as_text()
    assert compiled.memory_analysis().temp_size_in_bytes < steps * vocab * 4 / 2


def test_number_of_slices():
    assert losses.slices(100, 256) == 1  # a small vocabulary is taken at once
    assert losses.slices(100, 256, wanted=25) == 4
    assert losses.slices(4096, 65536) == 32
    assert losses.slices(97, 65536) == 1  # fewer than one slice
    assert losses.slices(1024, 65536, wanted=64, parts=8) == 16
    with pytest.raises(ValueError, match="12 positions cannot be cut into 5"):
        x, head, targets, _ = _arrays()
        losses.head_losses(x, head, targets, count=5)
