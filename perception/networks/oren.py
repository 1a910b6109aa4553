# SPDX-License-Identifier: Apache-2.0
"""OReN, the relational network for the odd one of several frames: all pairs are compared.

    score_i = f_phi( sum_{j != i} g_theta([e_i, e_j]) )        softmax over the frames

A relation network (A. Santoro et al., NeurIPS 2017) with one sum for each frame, the baseline of
S. Woźniak et al., Nature Communications 14 (2023); sizes after WReN (D. Barrett et al., ICML 2018).

Dimensions: B problems, F frames, D width of a code, G width of a relation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from perception.networks import layers
from perception.networks.layers import Params, Specs


@dataclasses.dataclass(frozen=True)
class Oren:
    """The network.

    Attributes:
      eye: see `perception.networks.eyes`.
      relation: units of the layers of g.
      decision: units of the hidden layers of f.
      dropout: rate before the last layer of f.
    """

    eye: Any
    relation: tuple[int, ...] = (256, 256, 256)
    decision: tuple[int, ...] = (256,)
    dropout: float = 0.5

    def __post_init__(self) -> None:
        if not self.relation or not 0 <= self.dropout < 1:
            raise ValueError(
                f"g needs a layer and dropout lies in [0, 1), got {self.relation} {self.dropout}"
            )

    @property
    def inputs(self) -> tuple[str, ...]:
        """Those of the eye."""
        return self.eye.inputs

    def param_specs(self) -> Specs:
        """Parameters."""
        relation = (2 * self.eye.width, *self.relation)
        decision = (self.relation[-1], *self.decision, 1)
        dense = lambda sizes: {
            f"dense_{i}": layers.dense_specs(*pair)
            for i, pair in enumerate(zip(sizes[:-1], sizes[1:], strict=True))
        }
        return {"eye": self.eye.param_specs(), "g": dense(relation), "f": dense(decision)}

    def apply(
        self, params: Params, inputs: Mapping[str, jax.Array], key: jax.Array | None = None
    ) -> jax.Array:
        """Scores [B, F]; key: of dropout, None to evaluate."""
        codes = self.eye.apply(params["eye"], inputs)
        return self.compare(params, codes, key)

    def compare(self, params: Params, codes: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Scores [B, F] of codes [B, F, D]."""
        rows, count, width = codes.shape
        first = params["g"]["dense_0"]
        # W [e_i, e_j] = W_1 e_i + W_2 e_j: two products of F codes instead of one of F^2 pairs.
        left = codes @ first["weight"][:width] + first["bias"]
        right = codes @ first["weight"][width:]
        x = jax.nn.relu(left[:, :, None] + right[:, None])
        for i in range(1, len(self.relation)):
            x = jax.nn.relu(layers.dense(params["g"][f"dense_{i}"], x))
        others = 1 - jnp.eye(count, dtype=x.dtype)
        x = jnp.einsum("bijg,ij->big", x, others)
        for i in range(len(self.decision)):
            x = jax.nn.relu(layers.dense(params["f"][f"dense_{i}"], x))
        x = layers.dropout(x, self.dropout, key)
        last = params["f"][f"dense_{len(self.decision)}"]
        return layers.dense(last, x).reshape(rows, count)
