# SPDX-License-Identifier: Apache-2.0
"""Leaky integrate-and-fire units, without and with an adaptive threshold (LIF, ALIF; LSNN).

    v^t = alpha v^{t-1} + W x^t + H z^{t-1} - thr z^{t-1}
    a^t = rho a^{t-1} + z^{t-1}                                        ALIF only
    z^t = h((v^t - thr - beta a^t) / thr)                              0 while refractory

Bellec et al., "A solution to the learning dilemma for recurrent networks of spiking neurons"
(Nature Communications 11, 3625, 2020), whose ALIF this is. The reset subtracts the threshold.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from snn import surrogates
from snn.cells.base import Arrays, Specs, Units, check_decay, decay_specs, trained_decay


@dataclasses.dataclass(frozen=True)
class Lif(Units):
    """LIF units.

    Attributes:
      fire: name of a pair of `snn.surrogates`, or a pair.
      decay: alpha = exp(-dt / tau_v), in (0, 1).
      train_decay: make alpha a parameter of each unit, decay_logit.
      threshold: thr.
      refractory: steps after a spike in which the unit cannot spike.
    """

    fire: str | surrogates.Surrogate = "step_triangle"
    decay: float = 0.95
    train_decay: bool = False
    threshold: float = 1.0
    refractory: int = 0

    memory: ClassVar[tuple[str, ...]] = ("v", "wait")
    untraced: ClassVar[tuple[str, ...]] = ("wait",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_decay(decay=self.decay)
        surrogates.get(self.fire)
        if self.threshold <= 0 or self.refractory < 0:
            raise ValueError(
                f"threshold must be positive and refractory not negative, got {self.threshold=},"
                f" {self.refractory=}"
            )

    def vector_specs(self) -> Specs:
        """decay_logit if the decay is trained."""
        return decay_specs(self.size, self.decay) if self.train_decay else {}

    def leak(self, theta: Arrays) -> jax.Array | float:
        """alpha."""
        return trained_decay(theta) if self.train_decay else self.decay

    def integrate(
        self, theta: Arrays, memory: Arrays, signals: Arrays, drive: jax.Array, feedback: jax.Array
    ) -> Arrays:
        """The membrane and the steps left of the refractory time."""
        z = signals["y"]
        v = self.leak(theta) * memory["v"] + drive[:, 0] + feedback[:, 0] - self.threshold * z
        fired = jax.lax.stop_gradient(z) > 0
        wait = jnp.where(fired, self.refractory, jnp.maximum(memory["wait"] - 1, 0))
        return {"v": v, "wait": wait.astype(v.dtype)}

    def emit(self, theta: Arrays, memory: Arrays, drive: jax.Array, feedback: jax.Array) -> Arrays:
        """Spikes."""
        return {"y": self.spikes(memory, memory["v"] - self.threshold)}

    def spikes(self, memory: Arrays, above: jax.Array) -> jax.Array:
        """h(distance from the threshold / thr), silent while refractory."""
        z = surrogates.get(self.fire)(above / self.threshold)
        return jnp.where(memory["wait"] > 0, 0, z)


@dataclasses.dataclass(frozen=True)
class Alif(Lif):
    """LIF units whose threshold rises with their own spikes.

    Attributes:
      adaptation_decay: rho = exp(-dt / tau_a), in (0, 1).
      beta: rise of the threshold for a unit of adaptation.
    """

    adaptation_decay: float = 0.995
    beta: float = 1.8

    memory: ClassVar[tuple[str, ...]] = ("v", "a", "wait")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_decay(adaptation_decay=self.adaptation_decay)

    def integrate(
        self, theta: Arrays, memory: Arrays, signals: Arrays, drive: jax.Array, feedback: jax.Array
    ) -> Arrays:
        """The membrane, the adaptation and the refractory time."""
        new = super().integrate(theta, memory, signals, drive, feedback)
        return {**new, "a": self.adaptation_decay * memory["a"] + signals["y"]}

    def emit(self, theta: Arrays, memory: Arrays, drive: jax.Array, feedback: jax.Array) -> Arrays:
        """Spikes."""
        above = memory["v"] - self.threshold - self.beta * memory["a"]
        return {"y": self.spikes(memory, above)}
