# SPDX-License-Identifier: Apache-2.0
"""Spiking Neural Unit, arXiv 1812.07040 (Nature Machine Intelligence 2, 325-336, 2020).

    s^t = g(W x^t + H y^{t-1} + d s^{t-1} (1 - y^{t-1}))
    y^t = h(s^t + b)

The gate (1 - y) on the membrane's own loop is the reset: to zero for a binary y, in proportion
for the soft unit (sSNU), whose h is the logistic function. b is minus the threshold. Nothing is
detached: the derivative flows through the reset and through H.
"""

from __future__ import annotations

import dataclasses

import jax

from snn import surrogates
from snn.cells.base import Arrays, Specs, Units, check_decay, decay_specs, trained_decay, vector


@dataclasses.dataclass(frozen=True)
class Snu(Units):
    """SNU (fire="step") or sSNU (fire="sigmoid"), feed-forward or recurrent.

    Attributes:
      fire: name of a pair of `snn.surrogates`, or a pair.
      membrane: name of the membrane nonlinearity g.
      decay: d, in (0, 1).
      train_decay: make d a parameter of each unit, decay_logit = log(d / (1 - d)).
      threshold: initial value of -b.
    """

    fire: str | surrogates.Surrogate = "step"
    membrane: str = "identity"
    decay: float = 0.8
    train_decay: bool = False
    threshold: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_decay(decay=self.decay)
        surrogates.get(self.fire)
        surrogates.membrane(self.membrane)

    def vector_specs(self) -> Specs:
        """bias, and decay_logit if the decay is trained."""
        decay = decay_specs(self.size, self.decay) if self.train_decay else {}
        return {"bias": vector(self.size, -self.threshold), **decay}

    def leak(self, theta: Arrays) -> jax.Array | float:
        """d."""
        return trained_decay(theta) if self.train_decay else self.decay

    def integrate(
        self, theta: Arrays, memory: Arrays, signals: Arrays, drive: jax.Array, feedback: jax.Array
    ) -> Arrays:
        """The membrane."""
        kept = self.leak(theta) * memory["s"] * (1 - signals["y"])
        current = drive[:, 0] + feedback[:, 0] + kept
        return {"s": surrogates.membrane(self.membrane)(current)}

    def emit(self, theta: Arrays, memory: Arrays, drive: jax.Array, feedback: jax.Array) -> Arrays:
        """The output."""
        return {"y": surrogates.get(self.fire)(memory["s"] + theta["bias"])}
