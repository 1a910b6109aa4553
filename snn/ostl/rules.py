# SPDX-License-Identifier: Apache-2.0
"""How one layer keeps track, forward in time, of how its parameters moved its state.

A rule holds traces for one layer. `advance` runs a step and returns, with the new traces, a
function that turns the learning signal dE/dy of this time step into the gradient contribution of
the step and the learning signal for the layer below (its own past held fixed).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from snn.cells.base import Cell, PyTree
from snn.cells.stateless import Dense, Stateless

# (learning signal [B, N], matrix to go back through or None for the layer's own) ->
# (gradient of the layer's parameters, summed over the batch; learning signal of the input [B, M]).
Pull = Callable[[jax.Array, jax.Array | None], tuple[PyTree, jax.Array]]


class Advanced(NamedTuple):
    """What a step of a layer returns."""

    state: PyTree
    y: jax.Array
    trace: PyTree
    pull: Pull


class Rule(Protocol):
    """A way to carry the past of one layer."""

    def init(self, cell: Any, params: PyTree, state: PyTree) -> PyTree:
        """Traces before the first step: zeros."""

    def advance(
        self, cell: Any, params: PyTree, state: PyTree, trace: PyTree, x: jax.Array
    ) -> Advanced:
        """One step."""


class Spatial:
    """The rule of a stateless layer (exact), or of a cell whose past is ignored."""

    def init(self, cell: Cell, params: PyTree, state: PyTree) -> tuple:
        """Nothing is carried."""
        return ()

    def advance(
        self, cell: Cell, params: PyTree, state: PyTree, trace: tuple, x: jax.Array
    ) -> Advanced:
        """Back-propagation at one time step."""
        if jnp.issubdtype(x.dtype, jnp.integer):
            step = lambda p, _: cell.step(p, state, x)[::-1]
            back = None
        else:
            step = lambda p, x: cell.step(p, state, x)[::-1]
            back = x
        y, vjp, new = jax.vjp(step, params, back, has_aux=True)

        def pull(signal: jax.Array, feedback: jax.Array | None) -> tuple[PyTree, jax.Array]:
            grads, below = vjp(signal)
            if feedback is not None:
                if not isinstance(cell, Dense):
                    raise _no_random_feedback(cell)
                below = signal @ feedback.T
            return grads, below

        return Advanced(new, y, trace, pull)


class Sensitivity:
    """Real-time recurrent learning of one black box: exact for any cell, or for a whole stack.

    S^t = d state^t / d theta, [B, n, P] for n numbers of state and P parameters:

        S^t = F_s S^{t-1} + F_theta             dE/dtheta += q_theta + q_s S^{t-1}

    F the one-step Jacobians of the state and q the derivative of E^t at fixed S, both taken by
    reverse mode. Memory B n P numbers, time B n^2 P a step.
    """

    def init(self, cell: Cell, params: PyTree, state: PyTree) -> PyTree:
        """Zeros [B, n, *shape] for each parameter."""
        rows, width = _flat(state).shape
        return jax.tree.map(lambda p: jnp.zeros((rows, width, *p.shape), p.dtype), params)

    def advance(
        self, cell: Cell, params: PyTree, state: PyTree, trace: PyTree, x: jax.Array
    ) -> Advanced:
        """One step."""
        integer = jnp.issubdtype(x.dtype, jnp.integer)
        step = lambda p, s, x_: cell.step(p, s, x if integer else x_)[::-1]
        y, vjp, new = jax.vjp(step, params, state, None if integer else x, has_aux=True)

        def flat_step(params: PyTree, row: PyTree, x: jax.Array) -> jax.Array:
            one = jax.tree.map(lambda leaf: leaf[None], row)
            return _flat(cell.step(params, one, x[None])[0])[0]

        jacobian = jax.jacrev(flat_step, argnums=(0, 1))
        by_params, by_state = jax.vmap(jacobian, in_axes=(None, 0, 0))(params, state, x)
        width = _flat(state).shape[1]
        flat_jacobian = jnp.concatenate(
            [leaf.reshape(*leaf.shape[:2], -1) for leaf in jax.tree.leaves(by_state)], axis=-1
        )
        assert flat_jacobian.shape[-1] == width

        def carry(sensitivity: jax.Array, direct: jax.Array) -> jax.Array:
            return jnp.einsum("bij,bj...->bi...", flat_jacobian, sensitivity) + direct

        new_trace = jax.tree.map(carry, trace, by_params)

        def pull(signal: jax.Array, feedback: jax.Array | None) -> tuple[PyTree, jax.Array]:
            if feedback is not None:
                raise _no_random_feedback(cell)
            direct, on_state, below = vjp(signal)
            weights = _flat(on_state)
            past = lambda d, s: d + jnp.einsum("bi,bi...->...", weights, s)
            return jax.tree.map(past, direct, trace), below

        return Advanced(new, y, new_trace, pull)


def _flat(state: PyTree) -> jax.Array:
    """All leaves [B, ...] side by side: [B, n]."""
    leaves = jax.tree.leaves(state)
    return jnp.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in leaves], axis=-1)


def _no_random_feedback(cell: Any) -> NotImplementedError:
    return NotImplementedError(
        f"random feedback goes through Dense layers and cells of units, not {type(cell).__name__};"
        " use feedback='symmetric'"
    )


def is_stateless(cell: Any) -> bool:
    """True for layers without state."""
    return isinstance(cell, Stateless)
