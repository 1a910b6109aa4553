# SPDX-License-Identifier: Apache-2.0
"""Gated recurrent unit, reset after the product.

r, z = sigmoid(W x^t + H y^{t-1} + b)        n = tanh(W_n x^t + b_n + r (H_n y^{t-1} + b_h))
y^t  = (1 - z) n + z y^{t-1}
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from core.params import ParamSpec, zeros
from snn.cells.base import Arrays, Specs, Units


@dataclasses.dataclass(frozen=True)
class Gru(Units):
    """GRU; without H ("recurrent=False") its gates see only the input."""

    recurrent: bool = dataclasses.field(default=True, kw_only=True)

    gates: ClassVar[tuple[str, ...]] = ("r", "z", "n")

    def vector_specs(self) -> Specs:
        """bias [4, N]: r, z, n and the bias inside the reset product."""
        return {"bias": ParamSpec((4, self.size), (None, "neuron"), zeros)}

    def integrate(
        self, theta: Arrays, memory: Arrays, signals: Arrays, drive: jax.Array, feedback: jax.Array
    ) -> Arrays:
        """The hidden state."""
        bias = theta["bias"]
        r = jax.nn.sigmoid(drive[:, 0] + feedback[:, 0] + bias[..., 0, :])
        z = jax.nn.sigmoid(drive[:, 1] + feedback[:, 1] + bias[..., 1, :])
        inner = feedback[:, 2] + bias[..., 3, :]
        n = jnp.tanh(drive[:, 2] + bias[..., 2, :] + r * inner)
        return {"s": (1 - z) * n + z * memory["s"]}

    def emit(self, theta: Arrays, memory: Arrays, drive: jax.Array, feedback: jax.Array) -> Arrays:
        """The hidden state is the output."""
        return {"y": memory["s"]}
