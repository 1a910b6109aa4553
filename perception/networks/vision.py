# SPDX-License-Identifier: Apache-2.0
"""Baselines that see the whole image at once: a plain CNN, a residual one, a vision transformer.

Images [N, H, H, C] come as the front end takes them and may be shrunk first by averaging.

Dimensions: N images, H rows, C channels, D width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from core import params as params_lib
from core.params import Normal, ParamSpec
from perception.networks import layers, transformer
from perception.networks.layers import Params, Specs


def shrink(images: jax.Array, factor: int) -> jax.Array:
    """Means of blocks of factor x factor pixels."""
    rows, height, _, colours = images.shape
    if height % factor:
        raise ValueError(f"{height} rows cannot be shrunk {factor} times")
    blocks = (rows, height // factor, factor, height // factor, factor, colours)
    return images.reshape(blocks).mean(axis=(2, 4))


@dataclasses.dataclass(frozen=True)
class ConvNet:
    """Convolutions of 3 x 3 and stride 2, then an MLP (the encoder of WReN and ESBN, and a head).

    Attributes:
      image: shape (H, H, C).
      outputs: number of logits.
      channels: of each convolution.
      hidden: units of the hidden layer.
      shrink: see `shrink`.
    """

    image: tuple[int, int, int]
    outputs: int = 2
    channels: tuple[int, ...] = (32, 32, 32, 32)
    hidden: int = 256
    shrink: int = 1

    inputs = ("image",)

    def param_specs(self) -> Specs:
        """Parameters."""
        before = (self.image[2], *self.channels)
        side = self.image[0] // self.shrink
        for _ in self.channels:
            side = -(-side // 2)
        return {
            "convs": {
                f"conv_{i}": layers.conv_specs(3, before[i], c) for i, c in enumerate(self.channels)
            },
            "up": layers.dense_specs(side * side * self.channels[-1], self.hidden),
            "down": layers.dense_specs(self.hidden, self.outputs),
        }

    def apply(
        self, params: Params, inputs: Mapping[str, jax.Array], key: jax.Array | None = None
    ) -> jax.Array:
        """Logits [N, outputs] of "image" [N, H, H, C]."""
        del key
        x = shrink(inputs["image"], self.shrink)
        for i in range(len(self.channels)):
            x = jax.nn.relu(layers.conv(params["convs"][f"conv_{i}"], x, 2, "SAME"))
        x = jax.nn.relu(layers.dense(params["up"], x.reshape(len(x), -1)))
        return layers.dense(params["down"], x)


@dataclasses.dataclass(frozen=True)
class ResNet:
    """ResNet of basic blocks with group norm (no statistics of the batch), from scratch.

    Attributes:
      image, outputs, shrink: as in `ConvNet`.
      width: channels of the first stage, doubled in each of the four; 64 is the size of ResNet-18.
      blocks: in each stage.
      groups: of the group norm.
    """

    image: tuple[int, int, int]
    outputs: int = 2
    width: int = 64
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    groups: int = 8
    shrink: int = 1

    inputs = ("image",)

    def __post_init__(self) -> None:
        if self.width % self.groups:
            raise ValueError(f"{self.width=} is not a multiple of {self.groups=}")

    def _stages(self) -> list[tuple[str, int, int, int]]:
        """(name, channels before, channels, stride) of every block."""
        found, before = [], self.width
        for stage, count in enumerate(self.blocks):
            for block in range(count):
                channels = self.width * 2**stage
                stride = 2 if block == 0 and stage else 1
                found.append((f"block_{stage}_{block}", before, channels, stride))
                before = channels
        return found

    def param_specs(self) -> Specs:
        """Parameters."""
        specs: Specs = {
            "stem": layers.conv_specs(7, self.image[2], self.width),
            "stem_norm": layers.norm_specs(self.width),
        }
        for name, before, channels, stride in self._stages():
            specs[name] = {
                "first": layers.conv_specs(3, before, channels),
                "first_norm": layers.norm_specs(channels),
                "second": layers.conv_specs(3, channels, channels),
                "second_norm": layers.norm_specs(channels),
            }
            if stride > 1 or before != channels:
                specs[name]["skip"] = layers.conv_specs(1, before, channels)
        last = self._stages()[-1][2]
        return {**specs, "head": layers.dense_specs(last, self.outputs)}

    def apply(
        self, params: Params, inputs: Mapping[str, jax.Array], key: jax.Array | None = None
    ) -> jax.Array:
        """See `ConvNet.apply`."""
        del key
        x = layers.conv(params["stem"], shrink(inputs["image"], self.shrink), 2, "SAME")
        x = jax.nn.relu(self._norm(params["stem_norm"], x))
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
        for name, _, _, stride in self._stages():
            x = self._block(params[name], x, stride)
        return layers.dense(params["head"], x.mean(axis=(1, 2)))

    def _block(self, p: Params, x: jax.Array, stride: int) -> jax.Array:
        y = layers.conv(p["first"], x, stride, "SAME")
        y = jax.nn.relu(self._norm(p["first_norm"], y))
        y = self._norm(p["second_norm"], layers.conv(p["second"], y, 1, "SAME"))
        return jax.nn.relu(y + (layers.conv(p["skip"], x, stride, "SAME") if "skip" in p else x))

    def _norm(self, p: Params, x: jax.Array) -> jax.Array:
        return layers.group_norm(p, x, self.groups)


@dataclasses.dataclass(frozen=True)
class VisionTransformer:
    """Patches as tokens with learned positions; the mean of the tokens is read out.

    Attributes:
      image, outputs, shrink: as in `ConvNet`.
      patch: side of a patch (after shrinking).
      width: D.
      depth, heads, hidden: of the layers, as in `GapTransformer`.
    """

    image: tuple[int, int, int]
    outputs: int = 2
    patch: int = 16
    width: int = 64
    depth: int = 4
    heads: int = 4
    hidden: int = 256
    shrink: int = 1

    inputs = ("image",)

    def __post_init__(self) -> None:
        side = self.image[0] // self.shrink
        if side % self.patch:
            raise ValueError(f"patches of {self.patch} do not tile {side} rows")

    def param_specs(self) -> Specs:
        """Parameters; those of the layers are stacked under "blocks"."""
        count = (self.image[0] // self.shrink // self.patch) ** 2
        block = transformer.block_specs(self.width, self.heads, self.hidden)
        return {
            "embed": layers.dense_specs(self.patch**2 * self.image[2], self.width),
            "position": ParamSpec((count, self.width), ("patch", "embed"), Normal(0.02)),
            "blocks": params_lib.stack([block] * self.depth),
            "norm": layers.norm_specs(self.width),
            "head": layers.dense_specs(self.width, self.outputs),
        }

    def apply(
        self, params: Params, inputs: Mapping[str, jax.Array], key: jax.Array | None = None
    ) -> jax.Array:
        """See `ConvNet.apply`."""
        del key
        x = shrink(inputs["image"], self.shrink)
        rows, height, _, colours = x.shape
        count, side = height // self.patch, self.patch
        x = x.reshape(rows, count, side, count, side, colours).swapaxes(2, 3)
        tokens = layers.dense(params["embed"], x.reshape(rows, count * count, -1))
        tokens, _ = transformer.encode(params["blocks"], tokens + params["position"])
        return layers.dense(params["head"], layers.layer_norm(params["norm"], tokens).mean(axis=1))
