# SPDX-License-Identifier: Apache-2.0
"""Long short-term memory with a forget gate.

i, f, o = sigmoid(W x^t + H y^{t-1} + b)          z = tanh(W_z x^t + H_z y^{t-1} + b_z)
c^t = f c^{t-1} + i z                             y^t = o tanh(c^t)
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from core.params import ParamSpec, Values
from snn.cells.base import Arrays, Specs, Units


@dataclasses.dataclass(frozen=True)
class Lstm(Units):
    """LSTM; without H ("recurrent=False") its gates see only the input.

    Attributes:
      forget_bias: initial bias of the forget gate.
    """

    recurrent: bool = dataclasses.field(default=True, kw_only=True)
    forget_bias: float = 1.0

    gates: ClassVar[tuple[str, ...]] = ("i", "f", "z", "o")
    memory: ClassVar[tuple[str, ...]] = ("c",)
    direct: ClassVar[bool] = True

    def vector_specs(self) -> Specs:
        """bias [4, N], in the order of the gates."""
        start = np.zeros((4, self.size), np.float32)
        start[1] = self.forget_bias
        return {"bias": ParamSpec((4, self.size), (None, "neuron"), Values(start))}

    def integrate(
        self, theta: Arrays, memory: Arrays, signals: Arrays, drive: jax.Array, feedback: jax.Array
    ) -> Arrays:
        """The cell state."""
        current = drive + feedback + theta["bias"]
        i, f = jax.nn.sigmoid(current[:, 0]), jax.nn.sigmoid(current[:, 1])
        return {"c": f * memory["c"] + i * jnp.tanh(current[:, 2])}

    def emit(self, theta: Arrays, memory: Arrays, drive: jax.Array, feedback: jax.Array) -> Arrays:
        """The gated output."""
        gate = jax.nn.sigmoid((drive + feedback + theta["bias"])[:, 3])
        return {"y": gate * jnp.tanh(memory["c"])}
