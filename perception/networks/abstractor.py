# SPDX-License-Identifier: Apache-2.0
"""GAP-Abstractor: content asks, place answers.

g_t codes what was seen at fixation t and stays as it is; s_t starts as the code of its place. In
each layer

    s <- s + W_o concat_h softmax((W_q LN(g)) (W_k LN(g))^T / 8) (W_v LN'(s))
    s <- s + FF(s);   s <- s + SelfAttention(LN(s));   s <- s + FF(s)     (the same FF twice)

and the mean of s over the fixations is read out. Queries and keys come from contents, values from
places, so that what is passed on is relations of what was seen, not what was seen. W_q and W_k of
a layer start equal: the relation is symmetric at first. Kolner et al., arXiv 2409.20213; the layers
are those of S. S. Mondal et al., "Slot Abstractors", ICML 2024.

Dimensions: N images, T fixations, Dg width of contents, D width of places, L layers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from core import params as params_lib
from core.params import ParamSpec, Random
from perception.networks import layers, stem
from perception.networks.layers import HEAD, Params, Specs


@dataclasses.dataclass(frozen=True)
class Twins(Random):
    """Uniform on (-scale, scale); the slices along the first axis are equal."""

    scale: float

    @staticmethod
    def draw(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """See `Random.draw`."""
        one = lambda key: jax.random.uniform(key, shape[1:], jnp.float32, -1.0, 1.0)
        return jnp.broadcast_to(jax.vmap(one)(keys)[:, None], (len(keys), *shape))


@dataclasses.dataclass(frozen=True)
class Abstractor:
    """The network.

    Attributes:
      glimpses: shape (T, K, g, g) of the contents.
      outputs: number of logits.
      stem: encoders of content and location.
      depth: layers; 24 in the published runs.
      heads: heads of 64 channels.
      hidden: width of the feed-forward layers; 512 for CLEVR-ART.
      dropout: rate after every sublayer; 0.5 in the published log-polar runs on SVRT#1-OOD.
    """

    glimpses: tuple[int, int, int, int]
    outputs: int = 2
    stem: stem.StemConfig = stem.StemConfig()
    depth: int = 24
    heads: int = 8
    hidden: int = 256
    dropout: float = 0.0

    inputs = ("content", "location")

    def __post_init__(self) -> None:
        if min(self.depth, self.heads, self.hidden, self.outputs) < 1:
            raise ValueError(f"sizes must be at least 1, got {self}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")

    def param_specs(self) -> Specs:
        """Parameters; those of the layers are stacked under "blocks"."""
        return {
            "stem": stem.specs(self.stem, self.glimpses),
            "blocks": params_lib.stack([self._block_specs()] * self.depth),
            "head": layers.dense_specs(self.stem.place, self.outputs),
        }

    def _block_specs(self) -> Specs:
        seen, place, inner = self.stem.width, self.stem.place, self.heads * HEAD
        relation = ParamSpec((2, seen, inner), (None, "embed", "mlp"), Twins(seen**-0.5))
        return {
            "relation": {
                "content_norm": layers.norm_specs(seen),
                "query_key": relation,
                "place_norm": layers.norm_specs(place),
                "value": layers.dense_specs(place, inner, bias=False),
                "out": layers.dense_specs(inner, place),
            },
            "attention": layers.attention_specs(place, self.heads),
            "feed_forward": layers.feed_forward_specs(place, self.hidden),
        }

    def apply(
        self, params: Params, inputs: Mapping[str, jax.Array], key: jax.Array | None = None
    ) -> jax.Array:
        """Logits [N, outputs].

        Args:
          params: see `param_specs`.
          inputs: "content" [N, T, K, g, g] and "location" [N, T, 2].
          key: of noise and dropout in training; None switches them off.
        """
        places, _ = self._run(params, inputs, key)
        return layers.dense(params["head"], places.mean(axis=1))

    def attention(self, params: Params, inputs: Mapping[str, jax.Array]) -> jax.Array:
        """Weights [L, N, heads, T, T] of the relational cross-attention; rows sum to 1."""
        return self._run(params, inputs, None)[1]

    def _run(
        self, params: Params, inputs: Mapping[str, jax.Array], key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        of_stem, of_drop = jax.random.split(key) if key is not None else (None, None)
        seen, places = stem.apply(params["stem"], self.stem, inputs, of_stem)
        drop = self.dropout if of_drop is not None else 0.0
        keys = jax.random.split(of_drop, self.depth) if of_drop is not None and drop else None

        def block(s: jax.Array, layer: tuple[Any, Any]) -> tuple[jax.Array, jax.Array]:
            p, own = layer
            four = jax.random.split(own, 4) if own is not None else (None,) * 4
            out, weights = _relate(p["relation"], seen, s)
            s = s + layers.dropout(out, drop, four[0])
            s = s + layers.dropout(layers.feed_forward(p["feed_forward"], s), drop, four[1])
            s = s + layers.dropout(layers.self_attention(p["attention"], s)[0], drop, four[2])
            s = s + layers.dropout(layers.feed_forward(p["feed_forward"], s), drop, four[3])
            return s, weights

        return jax.lax.scan(block, places, (params["blocks"], keys))


def _relate(p: Params, seen: jax.Array, places: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Relational cross-attention: (update of the places [N, T, D], weights [N, heads, T, T])."""
    seen = layers.layer_norm(p["content_norm"], seen)
    query, key = (seen @ p["query_key"][i] for i in (0, 1))
    value = layers.dense(p["value"], layers.layer_norm(p["place_norm"], places))
    out, weights = layers.attend(query, key, value)
    return layers.dense(p["out"], out), weights
