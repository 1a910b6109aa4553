# SPDX-License-Identifier: Apache-2.0
"""RWKV-4 (arXiv 2305.13048): the baseline with a vector state.

    r, k, v = W_r x_r, W_k x_k, W_v x_v          x_i = m_i x_t + (1 - m_i) x_{t-1}
    y_t     = (a + e^{u + k_t} v_t) / (b + e^{u + k_t})
    a, b   <- e^w a + e^{k_t} v_t,  e^w b + e^{k_t}          w = -exp(time_decay)
    out     = W_o (sigmoid(r) y)

Dimensions: B batch, T time, D model width, A attention width, L layers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core import params as params_lib
from core.params import Orthogonal
from core.sharding import Shard
from rwkvjax import layers, wkv
from rwkvjax.config import Config

Params = dict


class State(NamedTuple):
    """State of all layers; num and den are stored divided by exp(max)."""

    att_shift: jax.Array  # [L, B, D] float32
    ffn_shift: jax.Array  # [L, B, D] float32
    num: jax.Array  # [L, B, A] float32
    den: jax.Array  # [L, B, A] float32
    max: jax.Array  # [L, B, A] float32


def init_state(cfg: Config, batch_size: int) -> State:
    """The state before the first token."""
    shift = jnp.zeros((cfg.layers, batch_size, cfg.dim), jnp.float32)
    one = wkv.wkv4_initial_state(batch_size, cfg.resolved_att_dim)
    num, den, top = (jnp.broadcast_to(x, (cfg.layers, *x.shape)) for x in one)
    return State(shift, shift, num, den, top)


def att_specs(cfg: Config, layer: int) -> Params:
    """Parameters of the time mixing of one layer."""
    r0, r1 = layers.depth_ratios(cfg, layer)
    ramp, width = layers.channel_ramp(cfg.dim), cfg.resolved_att_dim
    value_gain = max(1.0, width / cfg.dim) ** 0.5
    into, back = ("embed", "heads"), ("heads", "embed")
    return {
        "time_mix_k": layers.vector(ramp**r1),
        "time_mix_v": layers.vector(ramp**r1 + 0.3 * r0),
        "time_mix_r": layers.vector(ramp ** (0.5 * r1)),
        "time_decay": layers.vector(layers.decay_ramp(width, r0, -5.0, 8.0), ("heads",)),
        "time_first": layers.vector(np.log(0.3) + 0.5 * layers.zigzag(width), ("heads",)),
        "receptance": layers.matrix(cfg.dim, width, into, params_lib.zeros),
        "key": layers.matrix(cfg.dim, width, into, params_lib.zeros),
        "value": layers.matrix(cfg.dim, width, into, Orthogonal(value_gain)),
        "output": layers.matrix(width, cfg.dim, back, params_lib.zeros),
    }


def ffn_specs(cfg: Config, layer: int) -> Params:
    """Parameters of the channel mixing of one layer."""
    _, r1 = layers.depth_ratios(cfg, layer)
    mix = layers.channel_ramp(cfg.dim) ** r1
    gain = max(1.0, cfg.resolved_ffn_dim / cfg.dim) ** 0.5
    return layers.channel_mix_specs(cfg, {"time_mix_k": mix, "time_mix_r": mix}, gain)


def mix(weight: jax.Array, x: jax.Array, previous: jax.Array) -> jax.Array:
    """m x_t + (1 - m) x_{t-1}: versions 4 and 5 weigh the current token."""
    weight = weight.astype(x.dtype)
    return x * weight + previous * (1 - weight)


def time_mix(
    p: Params,
    cfg: Config,
    x: jax.Array,
    state: State,
    reset: jax.Array | None,
    cross: tuple,
    layer: jax.Array,
    shard: Shard,
) -> tuple[jax.Array, State, tuple]:
    """Time mixing of one layer: x [B, T, D], state of this layer -> (out [B, T, D], state)."""
    previous, att_shift = layers.token_shift(x, state.att_shift, reset, cfg.time_axis)
    mixed = {name: mix(p[f"time_mix_{name}"], x, previous) for name in "rkv"}
    r = layers.project(mixed["r"], p["receptance"])
    k = layers.project(mixed["k"], p["key"])
    v = layers.project(mixed["v"], p["value"])
    y, new = wkv.wkv4(
        k,
        v,
        -jnp.exp(layers.wide(p["time_decay"])),
        layers.wide(p["time_first"]),
        wkv.Wkv4State(state.num, state.den, state.max),
        reset=reset,
        impl=cfg.wkv,
        time_axis=cfg.time_axis,
    )
    out = layers.project(jax.nn.sigmoid(r) * y, p["output"])
    num, den, top = new
    return out, state._replace(att_shift=att_shift, num=num, den=den, max=top), cross


def channel_mix(
    p: Params, cfg: Config, x: jax.Array, state: Any, reset: jax.Array | None, shard: Shard
) -> tuple[jax.Array, Any]:
    """Channel mixing of one layer (versions 4 and 5); state needs only `ffn_shift`."""
    previous, ffn_shift = layers.token_shift(x, state.ffn_shift, reset, cfg.time_axis)
    k_in = mix(p["time_mix_k"], x, previous)
    r_in = mix(p["time_mix_r"], x, previous)
    return layers.channel_mix(p, k_in, r_in, shard), state._replace(ffn_shift=ffn_shift)
