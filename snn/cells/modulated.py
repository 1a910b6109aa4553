# SPDX-License-Identifier: Apache-2.0
"""SNU units with a second kind of synapse, named by what it does (arXiv 2110.02743).

Threshold modulation (an axo-somatic contact acts on the soma):

    s^t = g(W x + H y' + d s' (1 - y'))
    a^t = rho a' + (1 - rho) (W_a x + H_a y')
    y^t = h(s^t + beta a^t + b)

Output modulation (an axo-axonic contact acts on the axon):

    s^t = g(W x + H y' + d s' (1 - r'))
    c^t = h(s^t + b)          y^t = c^t sigmoid(W_o x + H_o y' + b_o)
    r^t = c^t (reset by the unit itself) or y^t (reset by what it transmits)

and the self-driven threshold, a^t = rho a' + (1 - rho) y', y^t = h(s^t - beta a^t + b). A prime
is the value of the previous step. Texts also call the first two kinds "-a" and "-o" units; which
suffix belongs to which kind differs between sources.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import jax

from snn import surrogates
from snn.cells.base import Arrays, Specs, check_decay, vector
from snn.cells.snu import Snu


@dataclasses.dataclass(frozen=True)
class AdaptiveSnu(Snu):
    """SNU whose threshold rises with its own output; beta and rho are parameters of each unit.

    Attributes:
      adaptation_decay: initial rho, in (0, 1); stored as rho_logit.
      beta: initial beta.
    """

    adaptation_decay: float = 0.9
    beta: float = 0.5

    memory: ClassVar[tuple[str, ...]] = ("s", "a")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_decay(adaptation_decay=self.adaptation_decay)

    def vector_specs(self) -> Specs:
        """bias, beta, rho_logit, and decay_logit if the decay is trained."""
        rho = self.adaptation_decay
        return {
            **super().vector_specs(),
            "beta": vector(self.size, self.beta),
            "rho_logit": vector(self.size, math.log(rho / (1 - rho))),
        }

    def integrate(
        self, theta: Arrays, memory: Arrays, signals: Arrays, drive: jax.Array, feedback: jax.Array
    ) -> Arrays:
        """The membrane and the threshold."""
        new = super().integrate(theta, memory, signals, drive, feedback)
        return {**new, "a": self.adapt(theta, memory, signals["y"])}

    def adapt(self, theta: Arrays, memory: Arrays, target: jax.Array) -> jax.Array:
        """rho a' + (1 - rho) target."""
        rho = jax.nn.sigmoid(theta["rho_logit"])
        return rho * memory["a"] + (1 - rho) * target

    def emit(self, theta: Arrays, memory: Arrays, drive: jax.Array, feedback: jax.Array) -> Arrays:
        """The output."""
        above = memory["s"] - theta["beta"] * memory["a"] + theta["bias"]
        return {"y": surrogates.get(self.fire)(above)}


@dataclasses.dataclass(frozen=True)
class ThresholdModulated(AdaptiveSnu):
    """SNU whose threshold is driven by synapses of its own (axo-somatic)."""

    gates: ClassVar[tuple[str, ...]] = ("s", "a")

    def integrate(
        self, theta: Arrays, memory: Arrays, signals: Arrays, drive: jax.Array, feedback: jax.Array
    ) -> Arrays:
        """The membrane and the threshold."""
        new = Snu.integrate(self, theta, memory, signals, drive, feedback)
        return {**new, "a": self.adapt(theta, memory, drive[:, 1] + feedback[:, 1])}

    def emit(self, theta: Arrays, memory: Arrays, drive: jax.Array, feedback: jax.Array) -> Arrays:
        """The output."""
        above = memory["s"] + theta["beta"] * memory["a"] + theta["bias"]
        return {"y": surrogates.get(self.fire)(above)}


@dataclasses.dataclass(frozen=True)
class OutputModulated(Snu):
    """SNU whose output passes a gate driven by synapses of its own (axo-axonic).

    Attributes:
      reset_by: "core" (the unit's own output) or "sent" (what passes the gate).
    """

    reset_by: str = "core"

    gates: ClassVar[tuple[str, ...]] = ("s", "o")
    signals: ClassVar[tuple[str, ...]] = ("y", "r")
    direct: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reset_by not in ("core", "sent"):
            raise ValueError(f"reset_by must be core or sent, got {self.reset_by!r}")

    def vector_specs(self) -> Specs:
        """bias, bias_o, and decay_logit if the decay is trained."""
        return {**super().vector_specs(), "bias_o": vector(self.size)}

    def integrate(
        self, theta: Arrays, memory: Arrays, signals: Arrays, drive: jax.Array, feedback: jax.Array
    ) -> Arrays:
        """The membrane."""
        return super().integrate(theta, memory, {"y": signals["r"]}, drive, feedback)

    def emit(self, theta: Arrays, memory: Arrays, drive: jax.Array, feedback: jax.Array) -> Arrays:
        """What is sent, and what resets."""
        core = surrogates.get(self.fire)(memory["s"] + theta["bias"])
        sent = core * jax.nn.sigmoid(drive[:, 1] + feedback[:, 1] + theta["bias_o"])
        return {"y": sent, "r": core if self.reset_by == "core" else sent}
