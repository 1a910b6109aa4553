# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from core import optim
from core.optim import AdamWConfig, Group
from core.params import Constant, ParamSpec


def test_cosine_schedule_is_the_official_one():
    cfg = AdamWConfig(learning_rate=6e-4, final_learning_rate=6e-5, warmup_steps=10)
    schedule = optim.make_schedule(cfg, 100)
    for step in (0, 3, 9, 10, 40, 99):
        progress = max(0.0, (step - 10) / 90)
        f = 6e-5 / 6e-4
        expected = 6e-4 * ((0.5 + f / 2) + (0.5 - f / 2) * np.cos(np.pi * progress))
        expected *= 0.01 + 0.99 * step / 10 if step < 10 else 1.0
        np.testing.assert_allclose(schedule(jnp.asarray(step)), expected, rtol=1e-5)


def test_exponential_schedule_is_the_official_one():
    cfg = AdamWConfig(1e-3, 1e-5, schedule="exponential", warmup_steps=10)
    schedule = optim.make_schedule(cfg, 100)
    for step in (10, 40, 99):
        progress = (step - 10 + 1) / 90
        np.testing.assert_allclose(schedule(jnp.asarray(step)), 1e-3 * 0.01**progress, rtol=1e-5)


@pytest.mark.parametrize("shape", ["cosine", "exponential", "linear", "cosine_exponential"])
def test_schedules_fall_from_start_to_end(shape):
    cfg = AdamWConfig(1e-2, 1e-3, schedule=shape, warmup_steps=0)
    values = np.asarray(jax.vmap(optim.make_schedule(cfg, 50))(jnp.arange(51)))
    np.testing.assert_allclose(values[[0, -1]], [1e-2, 1e-3], rtol=0.06)
    assert (np.diff(values[:50]) < 0).all()


def test_groups_scale_decay_and_freeze():
    specs = {
        name: ParamSpec((2, 2), (None, None), Constant(1.0)) for name in ("plain", "fast", "frozen")
    }
    groups = {"plain": Group(decay=True), "fast": Group(2.0), "frozen": Group(trainable=False)}
    cfg = AdamWConfig(0.1, 0.1, "constant", warmup_steps=0, weight_decay=0.5, clip_norm=0.0)
    tx = optim.adamw(cfg, specs, 10, lambda path, shape: groups[path])
    params = {name: jnp.ones((2, 2)) for name in specs}
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    # Adam's first step is the sign of the gradient.
    np.testing.assert_allclose(updates["plain"], -0.1 * (1 + 0.5), rtol=1e-4)
    np.testing.assert_allclose(updates["fast"], -0.2, rtol=1e-4)
    np.testing.assert_array_equal(updates["frozen"], 0.0)


def test_adamw_equals_optax():
    specs = {"w": ParamSpec((3, 3), (None, None), Constant(1.0))}
    cfg = AdamWConfig(1e-2, 1e-2, "constant", 0, weight_decay=0.1, clip_norm=1.0)
    ours = optim.adamw(cfg, specs, 10)
    theirs = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(1e-2, b1=0.9, b2=0.99, weight_decay=0.1)
    )
    start = {"w": jax.random.normal(jax.random.key(0), (3, 3))}

    def run(tx):
        params, state = start, tx.init(start)
        for i in range(5):
            grads = {"w": jax.random.normal(jax.random.key(i), (3, 3))}
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return params["w"]

    np.testing.assert_allclose(run(ours), run(theirs), atol=1e-6)


def test_clipping_ignores_frozen_parameters():
    specs = {n: ParamSpec((2,), (None,), Constant(1.0)) for n in ("a", "b")}
    group_fn = lambda path, shape: Group(trainable=path == "a")
    tx = optim._clip_trainable(1.0, {"a": "lr1", "b": "frozen"})
    grads = {"a": jnp.array([0.3, 0.4]), "b": jnp.array([300.0, 400.0])}
    clipped, _ = tx.update(grads, tx.init(grads))
    np.testing.assert_allclose(clipped["a"], grads["a"], rtol=1e-5)
    assert set(optim.describe_groups(specs, group_fn)) == {"lr1", "frozen"}


def test_weight_decay_schedule():
    cfg = AdamWConfig(weight_decay=0.1, final_weight_decay=0.001, warmup_steps=0)
    schedule = optim.make_decay_schedule(cfg, 100)
    values = [float(schedule(jnp.asarray(s))) for s in (0, 50, 100)]
    np.testing.assert_allclose(values, [0.1, 0.01, 0.001], rtol=0.06)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"schedule": "cosin"},
        {"learning_rate": 0.0},
        {"schedule": "exponential", "final_learning_rate": 0.0},
        {"final_weight_decay": 0.1},
        {"clip_norm": -1.0},
        {"beta2": 1.0},
    ],
)
def test_bad_settings_are_refused(kwargs):
    with pytest.raises(ValueError):
        AdamWConfig(**kwargs)
