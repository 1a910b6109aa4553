# SPDX-License-Identifier: Apache-2.0
"""GAP-Transformer: one token for each fixation, its content and its place side by side.

A learned summary token comes last; after `depth` pre-norm layers and a final norm its vector is
read out by an MLP. There is no code of the order of the fixations. Kolner et al., arXiv 2409.20213.

Dimensions: N images, T fixations, D width of a token (content and place), L layers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from core import params as params_lib
from core.params import Normal, ParamSpec
from perception.networks import layers, stem
from perception.networks.layers import Params, Specs

READOUT = (64, 32)  # hidden units of the readout


@dataclasses.dataclass(frozen=True)
class GapTransformer:
    """The network; attributes as in `Abstractor`, with 12 layers in the published runs."""

    glimpses: tuple[int, int, int, int]
    outputs: int = 2
    stem: stem.StemConfig = stem.StemConfig()
    depth: int = 12
    heads: int = 8
    hidden: int = 256

    inputs = ("content", "location")

    def __post_init__(self) -> None:
        if min(self.depth, self.heads, self.hidden, self.outputs) < 1:
            raise ValueError(f"sizes must be at least 1, got {self}")

    def param_specs(self) -> Specs:
        """Parameters; those of the layers are stacked under "blocks"."""
        width = self.stem.width + self.stem.place
        sizes = (width, *READOUT, self.outputs)
        return {
            "stem": stem.specs(self.stem, self.glimpses),
            "summary": ParamSpec((width,), ("embed",), Normal(1.0)),
            "blocks": params_lib.stack([block_specs(width, self.heads, self.hidden)] * self.depth),
            "norm": layers.norm_specs(width),
            "head": {
                f"dense_{i}": layers.dense_specs(*pair)
                for i, pair in enumerate(zip(sizes[:-1], sizes[1:], strict=True))
            },
        }

    def apply(
        self, params: Params, inputs: Mapping[str, jax.Array], key: jax.Array | None = None
    ) -> jax.Array:
        """Logits [N, outputs]; see `Abstractor.apply`."""
        tokens = self._run(params, inputs, key)[0]
        x = layers.layer_norm(params["norm"], tokens[:, -1])
        for i in range(len(READOUT)):
            x = jax.nn.silu(layers.dense(params["head"][f"dense_{i}"], x))
        return layers.dense(params["head"][f"dense_{len(READOUT)}"], x)

    def attention(self, params: Params, inputs: Mapping[str, jax.Array]) -> jax.Array:
        """Attention weights [L, N, heads, T + 1, T + 1]; the summary token comes last."""
        return self._run(params, inputs, None)[1]

    def _run(
        self, params: Params, inputs: Mapping[str, jax.Array], key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        tokens = jnp.concatenate(stem.apply(params["stem"], self.stem, inputs, key), axis=-1)
        summary = jnp.broadcast_to(params["summary"], (len(tokens), 1, tokens.shape[-1]))
        return encode(params["blocks"], jnp.concatenate([tokens, summary], axis=1))


def block_specs(width: int, heads: int, hidden: int) -> Specs:
    """One layer."""
    return {
        "attention": layers.attention_specs(width, heads),
        "feed_forward": layers.feed_forward_specs(width, hidden),
    }


def encode(blocks: Params, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Stacked pre-norm layers: tokens [N, T, D] -> (tokens, weights [L, N, heads, T, T])."""

    def block(x: jax.Array, p: Any) -> tuple[jax.Array, jax.Array]:
        out, weights = layers.self_attention(p["attention"], x)
        x = x + out
        return x + layers.feed_forward(p["feed_forward"], x), weights

    return jax.lax.scan(block, tokens, blocks)
