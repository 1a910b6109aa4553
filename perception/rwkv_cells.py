# SPDX-License-Identifier: Apache-2.0
"""RWKV as the reader of a scan path: the adapter to `rwkvjax`, under GAP-Abstractor's interface.

Glimpse by glimpse, content and place enter as one vector in the order of the fixations; the state
after the last one is what the network knows of the image, and its output is read out. Recurrence
over fixations makes the order matter, and lets the number of glimpses grow at constant memory.

Dimensions: N images, T fixations, D width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from perception.networks import layers, stem
from perception.networks.layers import Params, Specs
from rwkvjax import config as config_lib
from rwkvjax import model


@dataclasses.dataclass(frozen=True)
class GlimpseRwkv:
    """The network.

    Attributes:
      glimpses: shape (T, K, g, g) of the contents.
      outputs: number of logits.
      stem: encoders of content and location.
      version: of RWKV, e.g. "6" or "7".
      width: D, a multiple of 64 (of a head).
      depth: layers.
    """

    glimpses: tuple[int, int, int, int]
    outputs: int = 2
    stem: stem.StemConfig = stem.StemConfig()
    version: str = "6"
    width: int = 128
    depth: int = 2

    inputs = ("content", "location")

    def param_specs(self) -> Specs:
        """Parameters: the blocks and the last norm of `rwkvjax`, between dense layers."""
        return {
            "stem": stem.specs(self.stem, self.glimpses),
            "embed": layers.dense_specs(self.stem.width + self.stem.place, self.width),
            **_block_specs(self),
            "head": layers.dense_specs(self.width, self.outputs),
        }

    def apply(
        self, params: Params, inputs: Mapping[str, jax.Array], key: jax.Array | None = None
    ) -> jax.Array:
        """Logits [N, outputs]; see `Abstractor.apply`."""
        return layers.dense(params["head"], self._hidden(params, inputs, key)[0][:, -1])

    def _hidden(
        self, params: Params, inputs: Mapping[str, jax.Array], key: jax.Array | None = None
    ) -> tuple[jax.Array, Any]:
        joined = jnp.concatenate(stem.apply(params["stem"], self.stem, inputs, key), axis=-1)
        return _read(self, params, layers.dense(params["embed"], joined))


@dataclasses.dataclass(frozen=True)
class SaccadeRwkv:
    """Blocks of RWKV and a decision neuron as the reader of saccades; see `networks.saccadic`.

    Attributes:
      input_size: width of what is read at a saccade.
      version: of RWKV.
      width: D, a multiple of 64 (of a head).
      depth: layers.
    """

    input_size: int
    version: str = "6"
    width: int = 128
    depth: int = 2

    def param_specs(self) -> Specs:
        """Parameters."""
        return {
            "embed": layers.dense_specs(self.input_size, self.width),
            **_block_specs(self),
            "decision": layers.dense_specs(self.width, 1),
        }

    def read(self, params: Params, xs: jax.Array) -> tuple[jax.Array, Any]:
        """(logits [B, S] of inputs [B, S, n], state after the last saccade)."""
        hidden, state = _read(self, params, layers.dense(params["embed"], xs))
        return layers.dense(params["decision"], hidden)[..., 0], state


def _config(net: GlimpseRwkv | SaccadeRwkv) -> config_lib.Config:
    """Of the blocks; there are no tokens, so the vocabulary is a placeholder."""
    return config_lib.Config(version=net.version, vocab_size=1, dim=net.width, layers=net.depth)


def _block_specs(net: GlimpseRwkv | SaccadeRwkv) -> Specs:
    """Parameters of the blocks and of the last norm."""
    specs = model.param_specs(_config(net))
    return {name: specs[name] for name in ("blocks", "ln_out")}


def _read(net: GlimpseRwkv | SaccadeRwkv, params: Params, x: jax.Array) -> tuple[jax.Array, Any]:
    """(outputs of the blocks [N, T, D] for a sequence [N, T, D], state after its end)."""
    cfg = _config(net)
    return model.run_blocks(params, cfg, x, model.init_state(cfg, len(x)))
