# SPDX-License-Identifier: Apache-2.0
"""A small task for tests of the engine: linear regression with a hidden layer."""

import jax
import jax.numpy as jnp
import numpy as np

from core import params as params_lib
from core.data import ArraySource
from core.params import Normal, ParamSpec


class ToyTask:
    """y = tanh(x A) B, squared error; optionally a carried sum, noise, or a poisoned step."""

    def __init__(self, carry: bool = False, noise: float = 0.0, eval_rows: int = 0):
        self.carry, self.noise = carry, noise
        if eval_rows:
            self.eval_source = regression_data(eval_rows, seed=7, shuffle=None)
            self.eval_batch_size = 8

    def param_specs(self):
        return {
            "blocks": {"a": ParamSpec((8, 16), ("embed", "mlp"), Normal(0.3))},
            "bias": ParamSpec((16,), ("mlp",), params_lib.zeros),
            "out": ParamSpec((16, 4), ("mlp", "embed"), Normal(0.3)),
        }

    def init_carry(self, batch_size):
        return jnp.zeros((batch_size, 4)) if self.carry else ()

    def carry_axes(self, carry):
        return jax.tree.map(lambda x: ("batch", None), carry)

    def predict(self, params, x):
        return jnp.tanh(x @ params["blocks"]["a"] + params["bias"]) @ params["out"]

    def loss(self, params, carry, batch, key):
        y = self.predict(params, batch["x"])
        if self.noise:
            y = y + self.noise * jax.random.normal(key, y.shape)
        if self.carry:
            y, carry = y + 0.1 * jax.lax.stop_gradient(carry), 0.5 * carry + y
        errors = jnp.square(y - batch["y"]).mean(axis=-1)
        weight = batch["w"].sum()
        return (errors * batch["w"]).sum() / weight, (carry, {"weight": weight})

    def eval_sums(self, params, batch):
        errors = jnp.square(self.predict(params, batch["x"]) - batch["y"]).mean(axis=-1)
        return {"total": (errors * batch["valid"]).sum(), "count": batch["valid"].sum()}

    def eval_metrics(self, sums):
        return {"error": sums["total"] / sums["count"]}


def regression_data(rows: int = 64, seed: int = 0, shuffle: int | None = 0) -> ArraySource:
    """Random inputs, targets of a fixed random map, and uneven weights."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 8)).astype(np.float32)
    target = np.random.default_rng(99).normal(size=(8, 4)) / 3
    arrays = {
        "x": x,
        "y": np.sin(x @ target).astype(np.float32),
        "w": rng.uniform(0.5, 2.0, size=rows).astype(np.float32),
    }
    return ArraySource(arrays, seed=shuffle)
