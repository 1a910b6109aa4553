# SPDX-License-Identifier: Apache-2.0
"""One step of a cell of `Units` together with the derivatives that stay inside a unit.

The hooks of such a cell are elementwise, so the derivative of any output with respect to any
argument is one number for each unit; a reverse pass with ones gives it for all arguments at once.

Dimensions: B batch, N units, C currents, K rows of a vector parameter.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from snn.cells.base import Arrays, Units


class Partials(NamedTuple):
    """Derivatives of one quantity of each unit; entries [B, N] ([B, K, N], [B, C, N])."""

    theta: Arrays
    memory: Arrays  # traced memory: previous for `integrate`, new for `emit`
    signals: Arrays  # previous signals; empty for `emit`
    drive: jax.Array
    feedback: jax.Array


class UnitStep(NamedTuple):
    """A step and its partial derivatives.

    Attributes:
      state: new state.
      integrate: for each traced memory, its derivatives.
      emit: for each signal, its derivatives.
    """

    state: Arrays
    integrate: dict[str, Partials]
    emit: dict[str, Partials]


def unit_step(cell: Units, params: Arrays, state: Arrays, x: jax.Array) -> UnitStep:
    """Runs one step of `cell` on x [B, M] and differentiates its elementwise parts."""
    drive, feedback = cell.currents(params, state, x)
    rows = x.shape[0]
    # Copies for each sample, because the reverse pass sums over what is shared.
    theta = {
        name: jnp.broadcast_to(params[name], (rows, *params[name].shape))
        for name in cell.vector_specs()
    }
    fixed = {name: state[name] for name in cell.untraced}
    memory = {name: state[name] for name in cell.traced}
    signals = {name: state[name] for name in cell.signals}

    def integrate(
        theta: Arrays, memory: Arrays, signals: Arrays, drive: jax.Array, feedback: jax.Array
    ) -> tuple[Arrays, Arrays]:
        new = cell.integrate(theta, {**memory, **fixed}, signals, drive, feedback)
        return {name: new[name] for name in cell.traced}, new

    new, pull, whole = jax.vjp(integrate, theta, memory, signals, drive, feedback, has_aux=True)
    integrated = {name: Partials(*pull(one_hot(new, name))) for name in cell.traced}

    def emit(theta: Arrays, memory: Arrays, drive: jax.Array, feedback: jax.Array) -> Arrays:
        rest = {name: whole[name] for name in cell.untraced}
        return cell.emit(theta, {**memory, **rest}, drive, feedback)

    out, pull_emit = jax.vjp(emit, theta, new, drive, feedback)
    emitted = {}
    for name in cell.signals:
        d_theta, d_memory, d_drive, d_feedback = pull_emit(one_hot(out, name))
        emitted[name] = Partials(d_theta, d_memory, {}, d_drive, d_feedback)
    return UnitStep({**whole, **out}, integrated, emitted)


def one_hot(tree: Arrays, name: str) -> Arrays:
    """Ones for one entry, zeros for the others."""
    return {
        key: jnp.ones_like(value) if key == name else jnp.zeros_like(value)
        for key, value in tree.items()
    }


def split_signal(cell: Units, signal: jax.Array) -> Arrays:
    """dE/dy [B, len(sent) N] as one [B, N] for each sent signal."""
    parts = jnp.split(signal, len(cell.sent), axis=-1)
    return dict(zip(cell.sent, parts, strict=True))


def onto_memory(cell: Units, done: UnitStep, sent: Arrays) -> Arrays:
    """dE/d memory [B, N] through the signals of the same step."""
    return {
        a: sum((sent[s] * done.emit[s].memory[a] for s in cell.sent), start=jnp.zeros(()))
        for a in cell.traced
    }


def onto_currents(cell: Units, done: UnitStep, sent: Arrays, memory: Arrays) -> jax.Array:
    """dE/d drive [B, C, N] at this step, with the past held fixed."""
    total: Any = 0
    for a in cell.traced:
        total = total + memory[a][:, None] * done.integrate[a].drive
    if cell.direct:
        for s in cell.sent:
            total = total + sent[s][:, None] * done.emit[s].drive
    return total


def back_through(cell: Units, currents: jax.Array, w: jax.Array) -> jax.Array:
    """dE/dx [B, M] for dE/d drive [B, C, N] through the matrix w [M, C N]."""
    return currents.reshape(currents.shape[0], -1) @ w.T
