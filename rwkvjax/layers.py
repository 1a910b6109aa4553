# SPDX-License-Identifier: Apache-2.0
"""What the blocks of every RWKV version share: norms, token shift, channel mixing, initial ramps.

Dimensions: B batch, T time, D model width, A attention width, F feed-forward width, H heads,
N head size.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core import params as params_lib
from core.params import Orthogonal, ParamSpec, Values
from core.sharding import Shard
from rwkvjax import matrices
from rwkvjax.config import Config
from rwkvjax.wkv import time_split

Params = dict


def matrix(
    rows: int, cols: int, axes: tuple[str | None, str | None], init: params_lib.Initializer
) -> ParamSpec:
    """A projection [in, out]; its initial values are drawn for the transpose, as the official
    code stores [out, in] (the two have the same distribution)."""
    return ParamSpec((rows, cols), axes, init)


def vector(values: np.ndarray, axes: tuple[str | None, ...] | None = None) -> ParamSpec:
    """A vector (or small array) with computed initial values."""
    values = np.asarray(values, np.float32)
    return ParamSpec(values.shape, axes or (None,) * values.ndim, Values(values))


def norm_specs(dim: int, weight: float = 1.0) -> Params:
    """Weight and bias of a norm over `dim` channels."""
    return {
        "weight": ParamSpec((dim,), (None,), params_lib.Constant(weight)),
        "bias": ParamSpec((dim,), (None,), params_lib.zeros),
    }


def layer_norm(p: Params, x: jax.Array, eps: float) -> jax.Array:
    """LayerNorm over the last axis, computed in float32; the dtype of x is kept."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    wide = x.astype(dtype)
    centred = wide - wide.mean(axis=-1, keepdims=True)
    variance = jnp.square(centred).mean(axis=-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(variance + eps)
    return (normed * p["weight"].astype(dtype) + p["bias"].astype(dtype)).astype(x.dtype)


def group_norm(p: Params, y: jax.Array, eps: float) -> jax.Array:
    """Normalises each head, then scales each channel: y [B, T, H, N] -> [B, T, A]."""
    dtype = jnp.promote_types(y.dtype, jnp.float32)
    wide = y.astype(dtype)
    centred = wide - wide.mean(axis=-1, keepdims=True)
    variance = jnp.square(centred).mean(axis=-1, keepdims=True)
    normed = (centred * jax.lax.rsqrt(variance + eps)).reshape(*y.shape[:-2], -1)
    return (normed * p["weight"].astype(dtype) + p["bias"].astype(dtype)).astype(y.dtype)


def token_shift(
    x: jax.Array, last: jax.Array, reset: jax.Array | None, time_axis: str = ""
) -> tuple[jax.Array, jax.Array]:
    """The previous token's value at every position.

    Args:
      x: [B, T, D]. last: value before the first position [B, D] float32.
      reset: [B, T] bool or None; a document starts where True, and its predecessor counts as zero.
      time_axis: mesh axis over which time is split, inside shard_map; then x is this device's
        stretch, and `last` belongs to the whole sequence.

    Returns:
      (x_{t-1} [B, T, D], new last [B, D] in the dtype of `last`).
    """
    before, after = last.astype(x.dtype), x[:, -1]
    if time_axis:
        before = time_split.from_left(after, before, time_axis)
        after = time_split.of_last(after, time_axis)
    previous = jnp.concatenate([before[:, None], x[:, :-1]], axis=1)
    if reset is not None:
        previous = jnp.where(reset[..., None], 0, previous)
    return previous, after.astype(last.dtype)


def wide(x: jax.Array) -> jax.Array:
    """x in at least float32, for what must not be rounded further (decays, bonus)."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def project(x: jax.Array, weight: Any) -> jax.Array:
    """x @ weight in the dtype of x; the weight may be one of `rwkvjax.matrices`."""
    return matrices.matmul(x, weight)


def lora(x: jax.Array, down: jax.Array, up: jax.Array) -> jax.Array:
    """tanh(x @ down) @ up in the dtype of x."""
    return project(jnp.tanh(project(x, down)), up)


# --- ramps of the official initialisation (rwkv.md 1.7) ------------------------------------------


def depth_ratios(cfg: Config, layer: int) -> tuple[float, float]:
    """(r0, r1): depth from 0 to 1, and from 1 to almost 0. A single layer counts as half-way."""
    r0 = layer / (cfg.layers - 1) if cfg.layers > 1 else 0.5
    return r0, 1 - layer / cfg.layers


def channel_ramp(dim: int) -> np.ndarray:
    """c_i = i / D."""
    return np.arange(dim) / dim


def decay_ramp(width: int, r0: float, low: float = -6.0, span: float = 5.0) -> np.ndarray:
    """Decay logits omega: low + span (n / (A-1))^(0.7 + 1.3 r0)."""
    return low + span * _fraction(width) ** (0.7 + 1.3 * r0)


def bonus_ramp(width: int, r0: float) -> np.ndarray:
    """u: r0 (1 - n / (A-1)) plus a zigzag of 0.1."""
    return r0 * (1 - _fraction(width)) + 0.1 * zigzag(width)


def zigzag(width: int) -> np.ndarray:
    """0, 1, -1, 0, 1, -1, ..."""
    return (np.arange(width) + 1) % 3 - 1.0


def _fraction(width: int) -> np.ndarray:
    return np.arange(width) / max(1, width - 1)


# --- channel mixing ----------------------------------------------------------------------


def channel_mix_specs(cfg: Config, mix: dict[str, np.ndarray], key_gain: float = 1.0) -> Params:
    """Parameters of the channel mixing; `mix` holds the token-shift vectors by name."""
    dim, hidden = cfg.dim, cfg.resolved_ffn_dim
    return {
        **{name: vector(values) for name, values in mix.items()},
        "key": matrix(dim, hidden, ("embed", "mlp"), Orthogonal(key_gain)),
        "receptance": matrix(dim, dim, ("embed", None), params_lib.zeros),
        "value": matrix(hidden, dim, ("mlp", "embed"), params_lib.zeros),
    }


def channel_mix(p: Params, k_in: jax.Array, r_in: jax.Array, shard: Shard) -> jax.Array:
    """sigmoid(W_r r_in) * W_v relu(W_k k_in)^2; inputs and output [B, T, D]."""
    hidden = shard(jnp.square(jax.nn.relu(project(k_in, p["key"]))), ("batch", "time", "mlp"))
    return jax.nn.sigmoid(project(r_in, p["receptance"])) * project(hidden, p["value"])
