# SPDX-License-Identifier: Apache-2.0
"""Linear recurrent unit (arXiv 2303.06349): a diagonal linear recurrence with complex decays.

    h^t = lambda h^{t-1} + gamma B x^t         lambda = exp(-exp(nu_log) + i exp(theta_log))
    y^t = (Re h^t, Im h^t)                     gamma  = sqrt(1 - |lambda|^2)

gamma follows lambda here; the paper makes it a parameter that starts at this value.
Complex numbers are pairs of real ones. The paper's readout Re(C h) is a `Dense` layer above.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from core.params import ParamSpec
from snn.cells.base import Arrays, Specs, Units


@dataclasses.dataclass(frozen=True)
class _Radius:
    """nu_log of decays that are uniform in area on a ring of the complex plane."""

    inner: float
    outer: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        square = jax.random.uniform(key, shape, minval=self.inner**2, maxval=self.outer**2)
        return jnp.log(-0.5 * jnp.log(square)).astype(dtype)


@dataclasses.dataclass(frozen=True)
class _Angle:
    """theta_log of angles uniform between 0 and `phase`."""

    phase: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return jnp.log(jax.random.uniform(key, shape, minval=1e-3, maxval=self.phase)).astype(dtype)


@dataclasses.dataclass(frozen=True)
class Lru(Units):
    """LRU; its output has 2 N numbers. There is no recurrent matrix.

    Attributes:
      inner, outer: radii between which |lambda| starts, 0 < inner < outer < 1.
      phase: largest initial angle.
    """

    inner: float = 0.4
    outer: float = 0.99
    phase: float = 6.28

    gates: ClassVar[tuple[str, ...]] = ("re", "im")
    memory: ClassVar[tuple[str, ...]] = ("re", "im")
    signals: ClassVar[tuple[str, ...]] = ("y_re", "y_im")
    sent: ClassVar[tuple[str, ...]] = ("y_re", "y_im")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.recurrent:
            raise ValueError("an LRU has no recurrent matrix; recurrent must be False")
        if not 0 < self.inner < self.outer < 1:
            raise ValueError(
                f"decays must lie strictly between 0 and 1, got {self.inner=} {self.outer=}"
            )

    def vector_specs(self) -> Specs:
        """nu_log and theta_log [N]."""
        radius, angle = _Radius(self.inner, self.outer), _Angle(self.phase)
        return {
            "nu_log": ParamSpec((self.size,), ("neuron",), radius),
            "theta_log": ParamSpec((self.size,), ("neuron",), angle),
        }

    def integrate(
        self, theta: Arrays, memory: Arrays, signals: Arrays, drive: jax.Array, feedback: jax.Array
    ) -> Arrays:
        """One complex multiplication."""
        radius = jnp.exp(-jnp.exp(theta["nu_log"]))
        angle, gamma = jnp.exp(theta["theta_log"]), jnp.sqrt(1 - jnp.square(radius))
        c, s = radius * jnp.cos(angle), radius * jnp.sin(angle)
        re, im = memory["re"], memory["im"]
        return {
            "re": c * re - s * im + gamma * drive[:, 0],
            "im": s * re + c * im + gamma * drive[:, 1],
        }

    def emit(self, theta: Arrays, memory: Arrays, drive: jax.Array, feedback: jax.Array) -> Arrays:
        """The state is the output."""
        return {"y_re": memory["re"], "y_im": memory["im"]}
