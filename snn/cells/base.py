# SPDX-License-Identifier: Apache-2.0
"""The contract of a cell, and the form that nearly every cell shares: units driven by currents.

    drive    = W^T x^t                 [C, n]  currents from the input, C of them for each unit
    feedback = H^T y^{t-1}             [C, n]  currents from the cell's own last output
    memory^t  = integrate(theta, memory^{t-1}, signals^{t-1}, drive, feedback)       elementwise
    signals^t = emit(theta, memory^t, drive, feedback)                               elementwise

Only W and H mix units, so a cell without H is diagonal in its state: that is what makes its exact
online gradient cheap (`snn.ostl`). Memory is what is integrated (a membrane), signals are what is
read from it (the output, the variable that resets).

Dimensions: B batch, M inputs, N units, C currents of a unit, K rows of a vector parameter.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp

from core.params import Constant, ParamSpec, Uniform

PyTree = Any
Arrays = dict[str, jax.Array]
Specs = dict[str, Any]


class Cell(Protocol):
    """What `unroll`, `Stack` and `snn.ostl` need; see the package docstring."""

    @property
    def input_size(self) -> int:
        """Width of the input."""

    @property
    def output_size(self) -> int:
        """Width of the output."""

    def param_specs(self) -> Specs:
        """Nested dict of ParamSpec."""

    def init_state(self, batch_size: int, dtype: Any = jnp.float32) -> PyTree:
        """State before the first step: arrays [B, ...]."""

    def step(self, params: PyTree, state: PyTree, x: jax.Array) -> tuple[PyTree, jax.Array]:
        """One time step: x [B, M] -> (state, y [B, N])."""


def check_sizes(**sizes: int) -> None:
    """Raises ValueError unless every size is at least 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


def check_decay(**decays: float) -> None:
    """Raises ValueError unless every decay lies strictly between 0 and 1."""
    for name, value in decays.items():
        if not 0 < value < 1:
            raise ValueError(f"{name} must lie strictly between 0 and 1, got {value}")


def decay_specs(size: int, decay: float) -> Specs:
    """A trained decay of each unit: decay_logit = log(d / (1 - d)), so that it stays in (0, 1)."""
    return {"decay_logit": vector(size, math.log(decay / (1 - decay)))}


def trained_decay(theta: Arrays) -> jax.Array:
    """d of `decay_specs`."""
    return jax.nn.sigmoid(theta["decay_logit"])


def glorot(rows: int, cols: int) -> Uniform:
    """Uniform with half-width sqrt(6 / (rows + cols))."""
    return Uniform((6 / (rows + cols)) ** 0.5)


def vector(size: int, value: float = 0.0) -> ParamSpec:
    """A parameter with one number for each unit."""
    return ParamSpec((size,), ("neuron",), Constant(value))


@dataclasses.dataclass(frozen=True)
class Units:
    """Base of the cells made of units driven by currents; subclasses fill in the hooks.

    Class attributes:
      gates: names of the C currents of a unit.
      memory: names of the integrated states, each [B, N].
      untraced: those of them without a derivative (counters).
      signals: names of what `emit` returns, each [B, N], kept for the next step.
      sent: the signals that are the output (concatenated) and that H reads.
      direct: True if `emit` looks at the currents themselves (an output gate).
      elementwise: False if the hooks mix units; such a cell is treated as a black box.
    """

    input_size: int
    size: int
    recurrent: bool = dataclasses.field(default=False, kw_only=True)

    gates: ClassVar[tuple[str, ...]] = ("s",)
    memory: ClassVar[tuple[str, ...]] = ("s",)
    untraced: ClassVar[tuple[str, ...]] = ()
    signals: ClassVar[tuple[str, ...]] = ("y",)
    sent: ClassVar[tuple[str, ...]] = ("y",)
    direct: ClassVar[bool] = False
    elementwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_sizes(input_size=self.input_size, size=self.size)

    # --- hooks ---------------------------------------------------------------------------------

    def vector_specs(self) -> Specs:
        """Parameters that act on each unit alone: shape [N] or [K, N]."""
        raise NotImplementedError

    def integrate(
        self, theta: Arrays, memory: Arrays, signals: Arrays, drive: jax.Array, feedback: jax.Array
    ) -> Arrays:
        """New memory from the previous memory and signals [B, N] and the currents [B, C, N]."""
        raise NotImplementedError

    def emit(self, theta: Arrays, memory: Arrays, drive: jax.Array, feedback: jax.Array) -> Arrays:
        """Signals [B, N] from the new memory."""
        raise NotImplementedError

    # --- the contract --------------------------------------------------------------------------

    @property
    def output_size(self) -> int:
        """Width of the output."""
        return len(self.sent) * self.size

    @property
    def traced(self) -> tuple[str, ...]:
        """Memory that carries a derivative."""
        return tuple(name for name in self.memory if name not in self.untraced)

    def param_specs(self) -> Specs:
        """w [M, C N], h [len(sent) N, C N] if recurrent, and the vector parameters."""
        columns = len(self.gates) * self.size
        specs = {"w": self._matrix(self.input_size, columns), **self.vector_specs()}
        if self.recurrent:
            specs["h"] = self._matrix(self.output_size, columns)
        return specs

    def _matrix(self, rows: int, columns: int) -> ParamSpec:
        # Glorot for one current of one unit: the fused matrix is C matrices side by side.
        return ParamSpec((rows, columns), ("neuron_in", "neuron"), glorot(rows, self.size))

    def init_state(self, batch_size: int, dtype: Any = jnp.float32) -> Arrays:
        """Zero memory and signals, each [B, N]."""
        check_sizes(batch_size=batch_size)
        shape = (batch_size, self.size)
        return {name: jnp.zeros(shape, dtype) for name in (*self.memory, *self.signals)}

    def output(self, signals: Arrays) -> jax.Array:
        """The output [B, len(sent) N]."""
        parts = [signals[name] for name in self.sent]
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)

    def currents(self, params: Arrays, state: Arrays, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(drive, feedback), each [B, C, N]; feedback is zero for a cell without H."""
        shape = (x.shape[0], len(self.gates), self.size)
        drive = (x @ params["w"]).reshape(shape)
        if not self.recurrent:
            return drive, jnp.zeros(shape, drive.dtype)
        return drive, (self.output(state) @ params["h"]).reshape(shape)

    def units(self, theta: Arrays, state: Arrays, drive: jax.Array, feedback: jax.Array) -> Arrays:
        """The elementwise part of a step: the new state."""
        memory = {name: state[name] for name in self.memory}
        signals = {name: state[name] for name in self.signals}
        memory = self.integrate(theta, memory, signals, drive, feedback)
        return {**memory, **self.emit(theta, memory, drive, feedback)}

    def step(self, params: Arrays, state: Arrays, x: jax.Array) -> tuple[Arrays, jax.Array]:
        """One time step: x [B, M] -> (state, y [B, N])."""
        drive, feedback = self.currents(params, state, x)
        theta = {name: params[name] for name in self.vector_specs()}
        state = self.units(theta, state, drive, feedback)
        return state, self.output(state)
