# SPDX-License-Identifier: Apache-2.0
"""Complete traces of a recurrent cell of units: every parameter's effect on every unit.

The two coupled recursions (arXiv 2007.12723, section "complete"; for a cell with output y and
memory s, primes for the last step, H_c the part of H that feeds current c):

    eps = f_s eps' + (f_y + sum_c f_c H_c) e' + [f_u x, f_c y', f_theta]            [B, N, P]
    e   = q_s eps + sum_c q_c H_c e' + [q_u x, q_c y', q_theta]                     [B, N, P]

f, q are numbers of each unit, so a weight into unit j is injected in row j alone. Exact. Memory
2 B N P and time B N^2 P a step for P parameters: O(N^3) and O(N^4).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from snn.cells.base import Arrays, PyTree, Units
from snn.ostl import units
from snn.ostl.rules import Advanced
from snn.ostl.units import Partials


class Complete:
    """The rule of the module docstring."""

    def init(self, cell: Units, params: Arrays, state: Arrays) -> PyTree:
        """Zeros [B, N, *parameter] for each memory and signal."""
        rows, n = state[cell.memory[0]].shape
        shapes = _shapes(cell, params)
        leaf = {p: jnp.zeros((rows, n, *shape), params[p].dtype) for p, shape in shapes.items()}
        return {name: dict(leaf) for name in (*cell.traced, *cell.signals)}

    def advance(
        self, cell: Units, params: Arrays, state: Arrays, trace: PyTree, x: jax.Array
    ) -> Advanced:
        """One step."""
        done = units.unit_step(cell, params, state, x)
        # The barrier keeps the compiler from computing these again for each entry of the traces.
        done, inputs = jax.lax.optimization_barrier((done, {"w": x, "h": cell.output(state)}))
        n, gates = cell.size, len(cell.gates)
        h = params["h"].reshape(len(cell.sent), n, gates, n)
        eye = jnp.eye(n, dtype=h.dtype)

        def mixed(p: Partials) -> dict[str, jax.Array]:
            """The N x N way from each last signal: through H, and inside the unit."""
            ways = {}
            for s in cell.signals:
                way = jnp.zeros((), h.dtype)
                if s in p.signals:
                    way = way + p.signals[s][:, :, None] * eye
                if s in cell.sent:
                    way = way + jnp.einsum("bci,kci->bik", p.feedback, h[cell.sent.index(s)])
                ways[s] = way
            return ways

        new: dict[str, Arrays] = {}
        for a, p in done.integrate.items():
            ways = mixed(p)
            new[a] = {}
            for port in trace[a]:
                total = _inject(port, p, inputs, eye)
                for b in cell.traced:
                    total = total + _rows(p.memory[b], trace[b][port]) * trace[b][port]
                for s in cell.signals:
                    total = total + _product(ways[s], trace[s][port])
                new[a][port] = total
        for s, p in done.emit.items():
            new[s] = {}
            ways = mixed(p) if cell.direct else {}
            for port in trace[s]:
                total = _inject(port, p, inputs, eye, matrices=cell.direct)
                for a in cell.traced:
                    total = total + _rows(p.memory[a], new[a][port]) * new[a][port]
                for other in ways:
                    if other in cell.sent:
                        total = total + _product(ways[other], trace[other][port])
                new[s][port] = total

        def pull(signal: jax.Array, feedback: jax.Array | None) -> tuple[PyTree, jax.Array]:
            sent = units.split_signal(cell, signal)
            grads: dict[str, Any] = {}
            for port, value in params.items():
                parts = [jnp.einsum("bi,bi...->...", sent[s], new[s][port]) for s in cell.sent]
                grads[port] = sum(parts[1:], start=parts[0]).reshape(value.shape)
            memory = units.onto_memory(cell, done, sent)
            currents = units.onto_currents(cell, done, sent, memory)
            w = params["w"] if feedback is None else feedback
            return grads, units.back_through(cell, currents, w)

        return Advanced(done.state, cell.output(done.state), new, pull)


def _shapes(cell: Units, params: Arrays) -> dict[str, tuple[int, ...]]:
    """Parameter shapes with the currents and the units apart: [M, C, N]."""
    split = (len(cell.gates), cell.size)
    return {
        name: (value.shape[0], *split) if name in ("w", "h") else value.shape
        for name, value in params.items()
    }


def _inject(
    port: str, p: Partials, inputs: Arrays, eye: jax.Array, *, matrices: bool = True
) -> jax.Array:
    """What a step adds to [B, N, *parameter]: the parameter acts on its own unit only."""
    if port in ("w", "h"):
        if not matrices:
            return jnp.zeros((), eye.dtype)
        currents = p.drive if port == "w" else p.feedback
        own = jnp.einsum("bci,ij->bicj", currents, eye)
        return inputs[port][:, None, :, None, None] * own[:, :, None]
    return jnp.einsum("b...i,ij->bi...j", p.theta[port], eye)


def _rows(value: jax.Array, like: jax.Array) -> jax.Array:
    """[B, N] with axes appended so that it scales the rows of `like` [B, N, ...]."""
    return value.reshape(*value.shape, *(1,) * (like.ndim - 2))


def _product(way: jax.Array, trace: jax.Array) -> jax.Array:
    """[B, N, N] times [B, N, ...] over the units."""
    flat = trace.reshape(*trace.shape[:2], -1)
    return (way @ flat).reshape(trace.shape)
