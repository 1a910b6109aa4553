# SPDX-License-Identifier: Apache-2.0
"""Exact traces for a cell whose state is moved by currents of its inputs alone (RWKV).

    core^t = move(core^{t-1}, c^t)        c^t = currents(theta, inputs)
    T^t_p  = d core^t / d theta_p = move_core T^{t-1}_p + move_c (d c^t / d theta_p)

The state never comes back into the currents, and `move` is diagonal. So a weight into channel j
of one current reaches the entries of channel j only, and the traces of a whole matrix of D rows
are D tangents with the shape of the state; parameters that all channels share cost one such
tangent for each number. Each tangent is pushed forward by the derivative of `move`.

A cell may read its own output of the step before (RWKV's channel mixing does): then the gradient
of the loss at t is taken through the last two steps by reverse mode, from the state before them,
and the traces lag behind by one step. This too is exact.
"""

from __future__ import annotations

from typing import Any, Protocol

import jax
import jax.numpy as jnp

from core.params import flatten, unflatten
from snn.cells.base import Arrays, PyTree
from snn.ostl.rules import Advanced


class FactoredCell(Protocol):
    """What the rule needs of a cell, besides the contract; its state is a dict with "core".

    Attributes:
      fixed: entries of the core without a derivative.
      columns: path of a matrix (or vector) -> the current whose channel j its column j moves.
      dense: paths of the other parameters that move the currents.
    """

    fixed: tuple[str, ...]
    columns: dict[str, str]
    dense: tuple[str, ...]

    def context(self, state: PyTree, x: jax.Array) -> Arrays:
        """What the currents of a step are a function of, [B, ...]: inputs alone."""

    def currents(self, params: PyTree, context: Arrays) -> Arrays:
        """The currents of a step, each [B, A]."""

    def column_slopes(self, params: PyTree, context: Arrays) -> Arrays:
        """Path of `columns` -> d current_j / d parameter[i, j], [B, rows, A or 1]."""

    def move(self, core: Arrays, currents: Arrays) -> Arrays:
        """The core after a step."""

    def gather(self, current: str, product: Arrays) -> jax.Array:
        """Sums [..., *core] over the entries that channel j of a current moves: [..., A]."""


class Factored:
    """The rule of the module docstring."""

    def init(self, cell: Any, params: PyTree, state: PyTree) -> PyTree:
        """Zero tangents [rows, B, *core], and the step before (none yet)."""
        by_path = dict(flatten(params))
        core = traced(cell, state["core"])
        dtype = jax.tree.leaves(core)[0].dtype
        rows = state["seen"].shape[0]
        context = jax.eval_shape(cell.context, state, _like_input(cell, rows, dtype))
        slopes = jax.eval_shape(cell.column_slopes, params, context)
        counts = {path: value.shape[1] for path, value in slopes.items()}
        counts.update({path: by_path[path].size for path in cell.dense})
        zeros = lambda count: {k: jnp.zeros((count, *v.shape), v.dtype) for k, v in core.items()}
        return {
            "tangents": {path: zeros(count) for path, count in counts.items()},
            "state": state,
            "x": jnp.zeros((rows, cell.input_size), dtype),
            "started": jnp.zeros((), bool),
        }

    def advance(
        self, cell: Any, params: PyTree, state: PyTree, trace: PyTree, x: jax.Array
    ) -> Advanced:
        """One step."""
        new, y = cell.step(params, state, x)
        before, x_before, started = trace["state"], trace["x"], trace["started"]
        pushed = push(cell, params, before, trace["tangents"], x_before)
        tangents = jax.tree.map(lambda a, b: jnp.where(started, a, b), pushed, trace["tangents"])

        def window(params: PyTree, core: Arrays, x: jax.Array) -> jax.Array:
            old = {**before, "core": {**before["core"], **core}}
            here, _ = cell.step(params, old, x_before)
            # At the first step there is nothing before: the state is the initial one.
            here = jax.tree.map(lambda a, b: jnp.where(started, a, b), here, state)
            return cell.step(params, here, x)[1]

        _, vjp = jax.vjp(window, params, traced(cell, before["core"]), x)

        def pull(signal: jax.Array, feedback: jax.Array | None) -> tuple[PyTree, jax.Array]:
            if feedback is not None:
                raise NotImplementedError(
                    f"random feedback does not go through {type(cell).__name__}; use"
                    " feedback='symmetric'"
                )
            direct, on_core, below = vjp(signal)
            past = contract(cell, params, trace["tangents"], on_core)
            grads = dict(flatten(direct))
            for path, value in past.items():
                grads[path] = grads[path] + value
            return unflatten(grads), below

        carried = {
            "tangents": tangents,
            "state": state,
            "x": x,
            "started": jnp.ones((), bool),
        }
        return Advanced(new, y, carried, pull)


def _like_input(cell: Any, rows: int, dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((rows, cell.input_size), dtype)


def traced(cell: Any, core: Arrays) -> Arrays:
    """The part of the state that carries derivatives."""
    return {name: value for name, value in core.items() if name not in cell.fixed}


def push(cell: Any, params: PyTree, state: PyTree, tangents: PyTree, x: jax.Array) -> PyTree:
    """The tangents after the step that leads from `state` with the input x."""
    context = cell.context(state, x)
    currents = cell.currents(params, context)
    core = traced(cell, state["core"])

    def move(core: Arrays, currents: Arrays) -> Arrays:
        return traced(cell, cell.move({**state["core"], **core}, currents))

    def along(tangent: Arrays, change: Arrays) -> Arrays:
        return jax.jvp(move, (core, currents), (tangent, change))[1]

    zeros = {name: jnp.zeros_like(value) for name, value in currents.items()}
    new = {}
    for path, slopes in cell.column_slopes(params, context).items():
        rows = jnp.moveaxis(slopes, 1, 0)  # [rows, B, A or 1]
        one = lambda t, c, name=cell.columns[path]: along(
            t, {**zeros, name: jnp.broadcast_to(c, zeros[name].shape)}
        )
        new[path] = jax.vmap(one)(tangents[path], rows)
    for path, change in _dense_jacobians(cell, params, context).items():
        new[path] = jax.vmap(along)(tangents[path], change)
    return new


def _dense_jacobians(cell: Any, params: PyTree, context: Arrays) -> dict[str, Arrays]:
    """d currents / d parameter for the dense parameters: path -> {current: [P, B, A]}."""
    by_path = dict(flatten(params))
    chosen = {path: by_path[path] for path in cell.dense}

    def currents(chosen: dict[str, jax.Array], row: Arrays) -> Arrays:
        one = {name: value[None] for name, value in row.items()}
        found = cell.currents(unflatten({**by_path, **chosen}), one)
        return {name: value[0] for name, value in found.items()}

    jacobians = jax.vmap(jax.jacrev(currents), in_axes=(None, 0))(chosen, context)
    arrange = lambda leaf: jnp.moveaxis(leaf.reshape(*leaf.shape[:2], -1), -1, 0)
    return {path: {name: arrange(jacobians[name][path]) for name in jacobians} for path in chosen}


def contract(cell: Any, params: PyTree, tangents: PyTree, on_core: Arrays) -> dict[str, jax.Array]:
    """Gradient contributions of the past: dE/dcore [B, *core] with each tangent."""
    by_path = dict(flatten(params))
    grads = {}
    for path, tangent in tangents.items():
        if path in cell.dense:
            parts = [
                jnp.tensordot(tangent[name], value, axes=value.ndim)
                for name, value in on_core.items()
            ]
            total = sum(parts[1:], start=parts[0])
        else:
            product = {name: (value * tangent[name]).sum(axis=1) for name, value in on_core.items()}
            total = cell.gather(cell.columns[path], product)
        grads[path] = total.reshape(by_path[path].shape)
    return grads
