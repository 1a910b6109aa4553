# SPDX-License-Identifier: Apache-2.0
"""Eyes: what turns each frame of a problem into one vector. All frames share one eye.

    eye.inputs                                   names of the arrays it reads, each [B, F, ...]
    eye.width                                    D
    eye.param_specs() -> specs
    eye.apply(params, inputs) -> [B, F, D]

Dimensions: B problems, F frames, H rows, D width, T fixations of a frame.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from perception.networks import layers, stem
from perception.networks.layers import Params, Specs


@dataclasses.dataclass(frozen=True)
class FrameEncoder:
    """Convolutions of 3 x 3 and stride 2, each with group norm and ReLU, then a dense layer.

    The encoder of WReN (Barrett et al., ICML 2018) with group norm instead of batch norm: a frame
    is coded the same in every batch. A layer norm brings the code to unit size, so that currents
    into spiking units are near their threshold from the start.

    Attributes:
      side: H, pixels of a frame.
      channels: of each convolution.
      width: D.
      groups: of the group norm.
    """

    side: int
    channels: tuple[int, ...] = (32, 32, 32, 32)
    width: int = 64
    groups: int = 4

    inputs = ("image",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        if any(c % self.groups for c in self.channels):
            raise ValueError(f"{self.channels=} must be multiples of {self.groups=}")

    def param_specs(self) -> Specs:
        """Parameters."""
        specs: Specs = {}
        side, before = self.side, 1
        for i, channels in enumerate(self.channels):
            specs[f"conv_{i}"] = layers.conv_specs(3, before, channels)
            specs[f"norm_{i}"] = layers.norm_specs(channels)
            side, before = -(-side // 2), channels
        specs["down"] = layers.dense_specs(side * side * before, self.width)
        specs["norm"] = layers.norm_specs(self.width)
        return specs

    def apply(self, params: Params, inputs: Mapping[str, jax.Array]) -> jax.Array:
        """Codes [B, F, D] of "image" [B, F, H, H], bytes; dark ink enters as positive numbers."""
        images = inputs["image"]
        if images.ndim != 4 or images.shape[2:] != (self.side, self.side):
            raise ValueError(f"frames must be [B, F, {self.side}, {self.side}], got {images.shape}")
        x = 1 - images.astype(jnp.float32).reshape(-1, self.side, self.side, 1) / 255
        for i in range(len(self.channels)):
            x = layers.conv(params[f"conv_{i}"], x, 2, "SAME")
            x = jax.nn.relu(layers.group_norm(params[f"norm_{i}"], x, self.groups))
        x = layers.dense(params["down"], x.reshape(len(x), -1))
        return layers.layer_norm(params["norm"], x).reshape(*images.shape[:2], self.width)


@dataclasses.dataclass(frozen=True)
class GlimpseEye:
    """Glimpses of a frame (`perception.frontend`), read one by one and averaged.

    Attributes:
      glimpses: shape (T, K, g, g) of the contents.
      stem: encoders of content and location. Without context norm by default, which would make
        places relative to the frame's own.
      width: D.
      hidden: units that join content and place.
    """

    glimpses: tuple[int, int, int, int]
    stem: stem.StemConfig = stem.StemConfig(norm="none", standardise=False)
    width: int = 64
    hidden: int = 128

    inputs = ("content", "location")

    def param_specs(self) -> Specs:
        """Parameters."""
        return {
            "stem": stem.specs(self.stem, self.glimpses),
            "up": layers.dense_specs(self.stem.width + self.stem.place, self.hidden),
            "down": layers.dense_specs(self.hidden, self.width),
            "norm": layers.norm_specs(self.width),
        }

    def apply(self, params: Params, inputs: Mapping[str, jax.Array]) -> jax.Array:
        """Codes [B, F, D] of "content" [B, F, T, K, g, g] and "location" [B, F, T, 2]."""
        frames = inputs["content"].shape[:2]
        flat = {
            name: inputs[name].astype(jnp.float32).reshape(-1, *inputs[name].shape[2:])
            for name in self.inputs
        }
        joined = jnp.concatenate(stem.apply(params["stem"], self.stem, flat), axis=-1)
        x = jax.nn.relu(layers.dense(params["up"], joined)).mean(axis=1)
        x = layers.layer_norm(params["norm"], layers.dense(params["down"], x))
        return x.reshape(*frames, self.width)
