# SPDX-License-Identifier: Apache-2.0
"""Unbiased online recurrent optimization (arXiv 1702.05043): a random rank-one sensitivity.

    s~ = rho_0 F_s s~' + rho_1 nu            theta~ = theta~' / rho_0 + (nu F_theta) / rho_1
    grad += q_theta + (q_s s~') theta~'      nu: random signs, E[s~ theta~] = d state/d theta

The scales rho keep both factors of a like norm. Unbiased for any cell or stack, and noisy.
Memory O(B P), time of a few steps and their reverse passes.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from snn.cells.base import Cell, PyTree
from snn.ostl.online import Loss

EPSILON = 1e-7  # keeps the scales finite while a factor is zero


class UoroCarry(NamedTuple):
    """State, the two factors [B, ...], and the random key."""

    state: PyTree
    left: PyTree
    right: PyTree
    key: jax.Array


@dataclasses.dataclass(frozen=True)
class Uoro:
    """UORO over a whole cell or stack.

    Attributes:
      seed: of the random signs.
    """

    seed: int = 0

    def init(self, net: Cell, params: PyTree, batch_size: int) -> UoroCarry:
        """Zero state and factors."""
        dtype = jnp.result_type(*jax.tree.leaves(params))
        state = net.init_state(batch_size, dtype)
        right = jax.tree.map(lambda p: jnp.zeros((batch_size, *p.shape), p.dtype), params)
        return UoroCarry(state, jax.tree.map(jnp.zeros_like, state), right, self._key())

    def _key(self) -> jax.Array:
        # Raw data: a typed key array cannot be compared or stored like the other leaves.
        return jax.random.key_data(jax.random.key(self.seed))

    def step(
        self, net: Cell, loss: Loss, params: PyTree, carry: UoroCarry, x: jax.Array, target: Any
    ) -> tuple[jax.Array, UoroCarry, PyTree]:
        """One time step: (loss, carry, gradient contribution)."""
        key, draw = jax.random.split(jax.random.wrap_key_data(carry.key))

        def weigh(params: PyTree, state: PyTree) -> tuple[jax.Array, PyTree]:
            state, y = net.step(params, state, x)
            return loss(y, target), state

        value, vjp, state = jax.vjp(weigh, params, carry.state, has_aux=True)
        direct, on_state = vjp(jnp.ones_like(value))
        along = _inner(on_state, carry.left)  # [B]
        grads = jax.tree.map(
            lambda d, r: d + jnp.einsum("b,b...->...", along, r), direct, carry.right
        )
        left, right = self._renew(net, params, carry, state, x, draw)
        return value, UoroCarry(state, left, right, jax.random.key_data(key)), grads

    def _renew(
        self, net: Cell, params: PyTree, carry: UoroCarry, state: PyTree, x: jax.Array, key: Any
    ) -> tuple[PyTree, PyTree]:
        """The two factors after this step."""
        advance = lambda s: net.step(params, s, x)[0]
        _, pushed = jax.jvp(advance, (carry.state,), (carry.left,))
        leaves, structure = jax.tree.flatten(state)
        keys = jax.random.split(key, max(1, len(leaves)))
        signs = [
            jax.random.rademacher(k, leaf.shape, leaf.dtype)
            for k, leaf in zip(keys, leaves, strict=False)
        ]
        nu = jax.tree.unflatten(structure, signs)

        def per_sample(s: PyTree, x: jax.Array, nu: PyTree) -> PyTree:
            one = lambda tree: jax.tree.map(lambda leaf: leaf[None], tree)
            back = jax.vjp(lambda p: net.step(p, one(s), x[None])[0], params)[1]
            return back(one(nu))[0]

        pulled = jax.vmap(per_sample)(carry.state, x, nu)
        rho_0 = jnp.sqrt(_ratio(carry.right, pushed))
        rho_1 = jnp.sqrt(_ratio(pulled, nu))
        left = jax.tree.map(lambda a, b: _scale(rho_0, a) + _scale(rho_1, b), pushed, nu)
        right = jax.tree.map(
            lambda a, b: _scale(1 / rho_0, a) + _scale(1 / rho_1, b), carry.right, pulled
        )
        return left, right


def _inner(a: PyTree, b: PyTree) -> jax.Array:
    """Inner product of each sample, [B]."""
    products = jax.tree.map(lambda x, y: jnp.sum((x * y).reshape(x.shape[0], -1), axis=1), a, b)
    return sum(jax.tree.leaves(products), start=jnp.zeros(()))


def _ratio(a: PyTree, b: PyTree) -> jax.Array:
    """|a| / |b| of each sample, kept away from 0 and infinity."""
    return (jnp.sqrt(_inner(a, a)) + EPSILON) / (jnp.sqrt(_inner(b, b)) + EPSILON)


def _scale(factor: jax.Array, leaf: jax.Array) -> jax.Array:
    return factor.reshape(-1, *(1,) * (leaf.ndim - 1)) * leaf
