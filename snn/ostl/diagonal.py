# SPDX-License-Identifier: Apache-2.0
"""Traces for cells that are diagonal in their state: one number for each weight and memory.

With f the update of the memory, q what the signals read from it, and primes for the last step:

    J      = f_s + f_y q_s'                                                 one number a unit
    eps_W  = J eps_W + f_u x + f_y q_u' x'                                  [B, M, C, N]
    eps_b  = J eps_b + f_b + f_y q_b'                                       [B, N]
    grad W = sum_B  L (q_s eps_W + q_u x)          (arXiv 2007.12723, eqs. 13-19, generalised)

Exact for a cell without H: cost O(B M N) in time and memory. With H the same recursion drops the
path through H ("without H"), and is then an approximation. The terms q' are those of the step
before, made with the parameters of that step: they are carried, not computed again.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from snn.cells.base import Arrays, PyTree, Units
from snn.ostl import units
from snn.ostl.rules import Advanced
from snn.ostl.units import Partials, UnitStep

UNROLLED = 32  # samples up to which the sum over the batch is written out


@dataclasses.dataclass(frozen=True)
class Diagonal:
    """The rule of the module docstring.

    Attributes:
      through_signals: False detaches the last step's signals (the reset), as e-prop does.
      self_connections: keep the diagonal of H in J, as SnAp-1 does.
    """

    through_signals: bool = True
    self_connections: bool = False

    def init(self, cell: Units, params: Arrays, state: Arrays) -> PyTree:
        """Zero traces; see the module docstring for their shapes."""
        rows, n = state[cell.memory[0]].shape
        dtype, gates = params["w"].dtype, len(cell.gates)
        if self.self_connections and cell.direct:
            raise NotImplementedError(
                f"diagonal traces with the self connections of H need a cell whose output does not"
                f" read its currents, got {type(cell).__name__}; use recurrent='complete'"
            )
        zeros = lambda *shape: jnp.zeros((rows, *shape), dtype)
        ports = {"w": zeros(cell.input_size, gates, n)}
        if cell.recurrent:
            ports["h"] = zeros(cell.output_size, gates, n)
        for name in cell.vector_specs():
            ports[name] = zeros(*params[name].shape)
        trace: dict[str, Any] = {
            "eps": {a: dict(ports) for a in cell.traced},
            "read": {s: {a: zeros(n) for a in cell.traced} for s in cell.signals},
            "theta": {
                s: {v: zeros(*params[v].shape) for v in cell.vector_specs()} for s in cell.signals
            },
        }
        if cell.direct:
            trace["currents"] = {s: (zeros(gates, n), zeros(gates, n)) for s in cell.signals}
            trace["inputs"] = (zeros(cell.input_size), zeros(cell.output_size))
        return trace

    def advance(
        self, cell: Units, params: Arrays, state: Arrays, trace: PyTree, x: jax.Array
    ) -> Advanced:
        """One step."""
        done = units.unit_step(cell, params, state, x)
        last = cell.output(state)
        # Without a barrier the compiler computes these [B, N] and [B, M] numbers again for each
        # entry of the traces [B, M, N] that they enter.
        done, x, last = jax.lax.optimization_barrier((done, x, last))
        partials = done.integrate
        if self.self_connections and cell.recurrent:
            partials = {a: self._with_diagonal(cell, params, p) for a, p in partials.items()}
        eps = {a: self._update(cell, partials[a], trace, {"w": x, "h": last}) for a in cell.traced}
        new: dict[str, Any] = {
            "eps": eps,
            "read": {s: done.emit[s].memory for s in cell.signals},
            "theta": {s: done.emit[s].theta for s in cell.signals},
        }
        if cell.direct:
            new["currents"] = {s: (done.emit[s].drive, done.emit[s].feedback) for s in cell.signals}
            new["inputs"] = (x, last)

        def pull(signal: jax.Array, feedback: jax.Array | None) -> tuple[PyTree, jax.Array]:
            sent = units.split_signal(cell, signal)
            memory = units.onto_memory(cell, done, sent)
            grads = _gradient(cell, params, done, eps, sent, memory, {"w": x, "h": last})
            currents = units.onto_currents(cell, done, sent, memory)
            w = params["w"] if feedback is None else feedback
            return grads, units.back_through(cell, currents, w)

        return Advanced(done.state, cell.output(done.state), new, pull)

    def _with_diagonal(self, cell: Units, params: Arrays, partials: Partials) -> Partials:
        """Adds the way through a unit's own H to the derivatives by its last signals."""
        n, gates = cell.size, len(cell.gates)
        h = params["h"].reshape(len(cell.sent), n, gates, n)
        own = jnp.diagonal(h, axis1=1, axis2=3)  # [sent, C, N]
        signals = dict(partials.signals)
        for i, s in enumerate(cell.sent):
            signals[s] = signals[s] + jnp.sum(partials.feedback * own[i], axis=1)
        return partials._replace(signals=signals)

    def _update(self, cell: Units, f: Partials, trace: PyTree, inputs: Arrays) -> Arrays:
        """The new traces of one memory."""
        jacobian = dict(f.memory)
        theta = dict(f.theta)
        if self.through_signals:
            for s in cell.signals:
                for b in cell.traced:
                    jacobian[b] = jacobian[b] + f.signals[s] * trace["read"][s][b]
                for v in theta:
                    way = f.signals[s]
                    theta[v] = theta[v] + _over(way, theta[v]) * trace["theta"][s][v]
        new = {}
        for port, injected in self._injections(cell, f, trace, inputs).items():
            new[port] = injected
        new.update(theta)
        for port in new:
            for b in cell.traced:
                old = trace["eps"][b][port]
                new[port] = new[port] + _over(jacobian[b], old) * old
        return new

    def _injections(self, cell: Units, f: Partials, trace: PyTree, inputs: Arrays) -> Arrays:
        """What this step adds to the traces of the matrices: [B, M, C, N]."""
        new = {}
        ports = ("w", "h") if cell.recurrent else ("w",)
        for i, port in enumerate(ports):
            now = f.drive if port == "w" else f.feedback
            new[port] = _outer(inputs[port], now)
            if cell.direct and self.through_signals:
                for s in cell.signals:
                    then = f.signals[s][:, None] * trace["currents"][s][i]
                    new[port] = new[port] + _outer(trace["inputs"][i], then)
        return new


def _gradient(
    cell: Units,
    params: Arrays,
    done: UnitStep,
    eps: PyTree,
    sent: Arrays,
    memory: Arrays,
    inputs: Arrays,
) -> Arrays:
    """The gradient contribution of a step, summed over the batch, in the shapes of `params`."""
    grads: dict[str, Any] = {}
    for name in params:
        total: Any = 0
        for a in cell.traced:
            total = total + _weigh(memory[a], eps[a][name])
        for s in cell.sent:
            if name not in ("w", "h"):
                direct = done.emit[s].theta[name]
                total = total + jnp.sum(_over(sent[s], direct) * direct, axis=0)
            elif cell.direct:
                q = done.emit[s].drive if name == "w" else done.emit[s].feedback
                total = total + jnp.einsum("bm,bcn->mcn", inputs[name], sent[s][:, None] * q)
        grads[name] = total.reshape(params[name].shape)
    return grads


def _weigh(weights: jax.Array, trace: jax.Array) -> jax.Array:
    """Sum over the batch of weights [B, N] times traces [B, ..., N]."""
    if trace.shape[0] > UNROLLED:
        return jnp.einsum("bn,b...n->...n", weights, trace)
    # Written out, the sum is one elementwise loop; as a product of matrices it is handed to the
    # thread pool in every step, which takes longer than the sum.
    parts = [_over(weights, trace)[b] * trace[b] for b in range(trace.shape[0])]
    return sum(parts[1:], start=parts[0])


def _outer(x: jax.Array, currents: jax.Array) -> jax.Array:
    """[B, M] and [B, C, N] -> [B, M, C, N]."""
    return x[:, :, None, None] * currents[:, None]


def _over(units_value: jax.Array, like: jax.Array) -> jax.Array:
    """[B, N] with axes put in so that it broadcasts over `like` [B, ..., N]."""
    middle = (1,) * (like.ndim - 2)
    return units_value.reshape(units_value.shape[0], *middle, units_value.shape[-1])


@dataclasses.dataclass(frozen=True)
class Presynaptic:
    """Traces of the inputs alone, filtered by the leak of the cell: x~ = d x~ + x, [B, M].

    The rank-one trace of RFLO and OTTT. The reset, H and any adaptation are left out of it, and
    parameters of the units themselves are trained by their immediate effect.
    """

    def init(self, cell: Any, params: Arrays, state: Arrays) -> PyTree:
        """Zeros [B, M] and [B, N]."""
        leak = getattr(cell, "decay", None)
        if leak is None or getattr(cell, "train_decay", False):
            raise ValueError(
                f"filtered inputs need a cell with one fixed decay, got {cell}; use Ostl or Eprop"
            )
        rows, dtype = state[cell.memory[0]].shape[0], params["w"].dtype
        return {
            "w": jnp.zeros((rows, cell.input_size), dtype),
            "h": jnp.zeros((rows, cell.output_size), dtype),
        }

    def advance(
        self, cell: Any, params: Arrays, state: Arrays, trace: PyTree, x: jax.Array
    ) -> Advanced:
        """One step."""
        done = units.unit_step(cell, params, state, x)
        filtered = {
            "w": cell.decay * trace["w"] + x,
            "h": cell.decay * trace["h"] + cell.output(state),
        }
        eps = {
            a: {
                "w": _outer(filtered["w"], p.drive),
                "h": _outer(filtered["h"], p.feedback),
                **p.theta,
            }
            for a, p in done.integrate.items()
        }

        def pull(signal: jax.Array, feedback: jax.Array | None) -> tuple[PyTree, jax.Array]:
            sent = units.split_signal(cell, signal)
            memory = units.onto_memory(cell, done, sent)
            grads = _gradient(cell, params, done, eps, sent, memory, filtered)
            currents = units.onto_currents(cell, done, sent, memory)
            w = params["w"] if feedback is None else feedback
            return grads, units.back_through(cell, currents, w)

        return Advanced(done.state, cell.output(done.state), filtered, pull)
