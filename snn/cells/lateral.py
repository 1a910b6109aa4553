# SPDX-License-Identifier: Apache-2.0
"""SNU with lateral inhibition: the most active unit of a layer resets all of them.

    s^t = g(W x^t + H y^{t-1} + d s^{t-1} (1 - max_j y_j^{t-1}))

The maximum is over the units of one sample; samples of a batch do not see each other.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax

from snn import surrogates
from snn.cells.base import Arrays
from snn.cells.snu import Snu


@dataclasses.dataclass(frozen=True)
class LateralSnu(Snu):
    """`Snu` whose reset is shared by the layer; the reset couples units, so it is not diagonal."""

    elementwise: ClassVar[bool] = False

    def integrate(
        self, theta: Arrays, memory: Arrays, signals: Arrays, drive: jax.Array, feedback: jax.Array
    ) -> Arrays:
        """The membrane."""
        gate = 1 - signals["y"].max(axis=-1, keepdims=True)
        current = drive[:, 0] + feedback[:, 0] + self.leak(theta) * memory["s"] * gate
        return {"s": surrogates.membrane(self.membrane)(current)}
