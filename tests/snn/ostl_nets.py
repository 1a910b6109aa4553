# SPDX-License-Identifier: Apache-2.0
"""Random problems in float64, and errors of gradients, shared by the tests of `snn.ostl`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core import params as params_lib
from snn import cells, ostl


def squared(y: jax.Array, target: jax.Array) -> jax.Array:
    """Loss of one step."""
    return jnp.sum(jnp.square(y - target))


def params_of(net: Any, seed: int = 0, noise: float = 0.3) -> Any:
    """Initial values plus Gaussian noise, so that no parameter is special; float64."""
    rng = np.random.default_rng(seed)
    start = params_lib.init(net.param_specs(), jax.random.key(seed))
    return jax.tree.map(
        lambda a: jnp.asarray(np.asarray(a, np.float64) + noise * rng.normal(size=a.shape)), start
    )


def problem(net: Any, steps: int = 25, batch: int = 2, seed: int = 0, noise: float = 0.3) -> tuple:
    """(params, xs, targets)."""
    rng = np.random.default_rng(seed + 1)
    xs = rng.normal(size=(steps, batch, net.input_size))
    targets = rng.normal(size=(steps, batch, net.output_size))
    return params_of(net, seed, noise), jnp.asarray(xs), jnp.asarray(targets)


def gradient(method: Any, net: Any, params: Any, xs: Any, targets: Any, loss: Any = squared) -> Any:
    """(value, gradients) of a whole sequence."""
    carry = ostl.init(method, net, params, xs.shape[1])
    f = jax.jit(ostl.value_and_grad(method, net, loss))
    (value, _), grads = f(params, carry, xs, targets)
    return value, grads


def errors(grads: Any, exact: Any) -> dict[str, float]:
    """Path -> relative error of each parameter's gradient."""
    norm = np.linalg.norm
    found, wanted = dict(params_lib.flatten(grads)), dict(params_lib.flatten(exact))
    assert found.keys() == wanted.keys()
    return {path: float(norm(found[path] - wanted[path]) / norm(wanted[path])) for path in wanted}


def cosine(grads: Any, exact: Any) -> float:
    """Cosine of the angle between two gradients."""
    a, b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in (grads, exact))
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def snu(inputs: int, size: int, **changes: Any) -> cells.Snu:
    """A soft SNU with a trained decay."""
    return cells.Snu(inputs, size, **{"fire": "sigmoid", "train_decay": True, **changes})
