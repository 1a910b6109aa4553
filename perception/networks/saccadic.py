# SPDX-License-Identifier: Apache-2.0
"""The saccadic network: frames are fixated one after the other, and a recurrent net decides.

    x_t = [e(frame fixated at t), one-hot of its place]       eye and eye-position signal
    h_t = recurrent layers(x_t, their state)
    p_t = sigmoid(w h_t + b)                                  the decision neuron

Its answer counts at the evaluation saccades: p_t says whether the frame seen now is the odd one.
After S. Woźniak et al., Nature Communications 14 (2023); saccades: `perception.saccades`.

A reader is the recurrent part with the decision neuron:

    reader.input_size, reader.param_specs()
    reader.read(params, xs [B, S, n]) -> (logits [B, S], trace)    trace: of analyses, [S, B, ...]

Dimensions: B problems, F frames, S saccades of which the last S_E evaluate, D width of a code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from perception.networks.layers import Params, Specs


@dataclasses.dataclass(frozen=True)
class Saccadic:
    """The network.

    Attributes:
      eye: see `perception.networks.eyes`.
      reader: see the module.
      evaluation: S_E.
      frames: F.
    """

    eye: Any
    reader: Any
    evaluation: int = 6
    frames: int = 6

    def __post_init__(self) -> None:
        expected = self.eye.width + self.frames
        if self.reader.input_size != expected:
            raise ValueError(
                f"the reader takes {self.reader.input_size} numbers, but eye and position give"
                f" {expected}"
            )

    @property
    def inputs(self) -> tuple[str, ...]:
        """Those of the eye, and the saccades."""
        return (*self.eye.inputs, "saccade")

    def param_specs(self) -> Specs:
        """Parameters."""
        return {"eye": self.eye.param_specs(), "reader": self.reader.param_specs()}

    def apply(
        self, params: Params, inputs: Mapping[str, jax.Array], key: jax.Array | None = None
    ) -> jax.Array:
        """Scores [B, F]: the logit of each frame, averaged over its evaluation saccades."""
        del key
        codes = self.eye.apply(params["eye"], inputs)
        saccades = inputs["saccade"]
        logits, _ = self.decide(params, codes, saccades)
        return self.by_frame(logits, saccades)

    def seen(self, codes: jax.Array, saccades: jax.Array) -> jax.Array:
        """What the reader receives, [B, S, D + F], of codes [B, F, D] and saccades [B, S]."""
        code = jnp.take_along_axis(codes, saccades[..., None], axis=1)
        place = jax.nn.one_hot(saccades, self.frames, dtype=codes.dtype)
        return jnp.concatenate([code, place], axis=-1)

    def decide(
        self, params: Params, codes: jax.Array, saccades: jax.Array
    ) -> tuple[jax.Array, Any]:
        """(logits of the decision neuron at every saccade [B, S], trace of the reader)."""
        return self.reader.read(params["reader"], self.seen(codes, saccades))

    def by_frame(self, logits: jax.Array, saccades: jax.Array) -> jax.Array:
        """Means [B, F] of the logits [B, S] at the evaluation saccades of each frame."""
        where = jax.nn.one_hot(saccades[:, -self.evaluation :], self.frames, dtype=logits.dtype)
        total = jnp.einsum("bs,bsf->bf", logits[:, -self.evaluation :], where)
        return total * (self.frames / self.evaluation)
