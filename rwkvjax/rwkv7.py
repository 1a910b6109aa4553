# SPDX-License-Identifier: Apache-2.0
"""RWKV-7 "Goose" (arXiv 2503.14456): the state is corrected by a generalised delta rule.

    x_i = x_t + (x_{t-1} - x_t) mu_i                              i in r, w, k, v, a, g
    w_t = exp(-e^{-1/2} sigmoid(w0 + tanh(x_w W1) W2))            a_t = sigmoid(a0 + x_a A1 A2)
    g_t = sigmoid(x_g G1) G2
    v_t <- v_t + (v_t^{layer 0} - v_t) sigmoid(v0 + x_v V1 V2)    from the second layer on
    kappa_t = k_t k_k / |k_t k_k|  in each head                   k_t <- k_t (1 + (a_t - 1) k_a)
    S_t = S_{t-1} (diag(w_t) - kappa_t (kappa_t a_t)^T) + v_t k_t^T          S[value, key]
    y_t = GroupNorm(S_t r_t) + (sum of r_t k_t r_k over the head) v_t
    out = W_o (y_t g_t)

and a channel mixing without receptance. Dimensions: B batch, T time, D model width, A = H N
attention width, H heads, N head size, L layers.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core import params as params_lib
from core.params import Constant, Orthogonal, ParamSpec
from core.sharding import Shard
from rwkvjax import layers, wkv
from rwkvjax.config import Config
from rwkvjax.rwkv5 import State, head_norm_specs, init_state, projection_specs, split_heads

__all__ = [
    "State",
    "att_specs",
    "channel_mix",
    "ffn_specs",
    "init_cross",
    "init_state",
    "time_mix",
]

Params = dict

MIXES = "rwkvag"
# Least length that the removal key is divided by, squared.
_MIN_SQUARE = 1e-24


def init_cross(cfg: Config, x: jax.Array) -> tuple[jax.Array]:
    """What passes between layers besides x: the values of layer 0, [B, T, A]."""
    return (jnp.zeros((*x.shape[:-1], cfg.resolved_att_dim), x.dtype),)


def att_specs(cfg: Config, layer: int) -> Params:
    """Parameters of the time mixing of one layer."""
    r0, r1 = layers.depth_ratios(cfg, layer)
    ramp, width = layers.channel_ramp(cfg.dim), cfg.resolved_att_dim
    powers = {"r": 0.2, "w": 0.9, "k": 0.7, "v": 0.7, "a": 0.9, "g": 0.2}
    fraction = np.arange(width) / max(1, width - 1)
    linear, wave = fraction - 0.5, _head_wave(width, cfg.head_size)
    w0 = -6 + 6 * fraction ** (1 + r0**0.3) + 0.5 + 2.5 * wave
    return {
        **{f"x_{i}": layers.vector(1 - ramp ** (powers[i] * r1)) for i in MIXES},
        "w0": layers.vector(w0, ("heads",)),
        "a0": layers.vector(-0.19 + 0.3 * wave + 0.4 * linear, ("heads",)),
        "v0": layers.vector(0.73 - 0.4 * linear, ("heads",)),
        **_lora_specs("w", cfg.dim, cfg.resolved_decay_rank, width),
        **_lora_specs("a", cfg.dim, cfg.resolved_iclr_rank, width),
        **_lora_specs("v", cfg.dim, cfg.resolved_value_rank, width),
        **_lora_specs("g", cfg.dim, cfg.resolved_gate_rank, width),
        "k_k": layers.vector(0.71 - 0.1 * linear, ("heads",)),
        "k_a": ParamSpec((width,), ("heads",), Constant(1.02)),
        "r_k": ParamSpec((cfg.heads, cfg.head_size), ("heads", "head_dim"), Constant(-0.04)),
        **projection_specs(cfg, gate=False),
        "ln_x": head_norm_specs(cfg, layer),
    }


def _head_wave(width: int, head_size: int) -> np.ndarray:
    """s |s| with s rising from -1 to 1 within each head."""
    half = (head_size - 1) / 2
    s = (np.arange(width) % head_size - half) / max(half, 0.5)
    return s * np.abs(s)


def _lora_specs(name: str, dim: int, rank: int, width: int) -> Params:
    gain = 0.1 * max(1.0, math.sqrt(rank / width))
    return {
        f"{name}1": ParamSpec((dim, rank), ("embed", "lora"), params_lib.zeros),
        f"{name}2": ParamSpec((rank, width), ("lora", "heads"), Orthogonal(gain)),
    }


def ffn_specs(cfg: Config, layer: int) -> Params:
    """Parameters of the channel mixing of one layer: F = 4 D, no receptance."""
    _, r1 = layers.depth_ratios(cfg, layer)
    specs = layers.channel_mix_specs(cfg, {"x_k": 1 - layers.channel_ramp(cfg.dim) ** (r1**4)})
    del specs["receptance"]
    return specs


def low_rank(p: Params, name: str, x: jax.Array) -> jax.Array:
    """x @ {name}1 @ {name}2 + {name}0, the sum in float32 [B, T, A]."""
    product = layers.project(layers.project(x, p[f"{name}1"]), p[f"{name}2"])
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return p[f"{name}0"].astype(wide) + product.astype(wide)


def log_decay(p: Params, x_w: jax.Array) -> jax.Array:
    """log w_t = -e^{-1/2} sigmoid(...), float32 [B, T, A], between -0.61 and 0."""
    wide = jnp.promote_types(x_w.dtype, jnp.float32)
    logit = p["w0"].astype(wide) + layers.lora(x_w, p["w1"], p["w2"]).astype(wide)
    return -math.exp(-0.5) * jax.nn.sigmoid(logit)


def unit_length(x: jax.Array) -> jax.Array:
    """x / max(|x|, 1e-12) over the last axis, in float32; the dtype is kept."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    square = jnp.square(wide).sum(axis=-1, keepdims=True)
    return (wide * jax.lax.rsqrt(jnp.maximum(square, _MIN_SQUARE))).astype(x.dtype)


def value_residual(
    p: Params, x_v: jax.Array, v: jax.Array, first: jax.Array, layer: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Mixes v [B, T, A] with the values of layer 0; returns (v, values of layer 0)."""
    first = jnp.where(layer == 0, v, first)
    weight = jax.nn.sigmoid(low_rank(p, "v", x_v)).astype(v.dtype)
    return v + (first - v) * weight, first  # layer 0 mixes v with itself


def time_mix(
    p: Params,
    cfg: Config,
    x: jax.Array,
    state: State,
    reset: jax.Array | None,
    cross: tuple[jax.Array],
    layer: jax.Array,
    shard: Shard,
) -> tuple[jax.Array, State, tuple[jax.Array]]:
    """Time mixing of one layer: x [B, T, D], state of this layer -> (out [B, T, D], state)."""
    previous, att_shift = layers.token_shift(x, state.att_shift, reset, cfg.time_axis)
    delta = previous - x
    mixed = {i: x + delta * p[f"x_{i}"].astype(x.dtype) for i in MIXES}
    heads = lambda y: split_heads(cfg, y, shard)  # [B, T, A] -> [B, T, H, N]

    r = heads(layers.project(mixed["r"], p["receptance"]))
    key = layers.project(mixed["k"], p["key"])
    v, first = value_residual(p, mixed["v"], layers.project(mixed["v"], p["value"]), *cross, layer)
    v = heads(v)
    a = jax.nn.sigmoid(low_rank(p, "a", mixed["a"])).astype(x.dtype)
    gate = layers.project(jax.nn.sigmoid(layers.project(mixed["g"], p["g1"])), p["g2"])
    kappa = unit_length(heads(key * p["k_k"].astype(x.dtype)))
    k = heads(key * (1 + (a - 1) * p["k_a"].astype(x.dtype)))

    log_w = heads(log_decay(p, mixed["w"]))
    how: dict[str, Any] = {"impl": cfg.wkv, "chunk": cfg.chunk, "time_axis": cfg.time_axis}
    y, new = wkv.wkv7(r, log_w, k, v, kappa, heads(a), state.wkv, reset=reset, **how)
    y = layers.group_norm(p["ln_x"], y, cfg.group_norm_eps)
    bonus = (r * k * p["r_k"].astype(x.dtype)).sum(axis=-1, keepdims=True) * v
    out = layers.project((y + bonus.reshape(y.shape)) * gate, p["output"])
    return out, state._replace(att_shift=att_shift, wkv=new), (first,)


def channel_mix(
    p: Params, cfg: Config, x: jax.Array, state: State, reset: jax.Array | None, shard: Shard
) -> tuple[jax.Array, State]:
    """Channel mixing of one layer: W_v relu(W_k x_k)^2."""
    previous, ffn_shift = layers.token_shift(x, state.ffn_shift, reset, cfg.time_axis)
    k_in = x + (previous - x) * p["x_k"].astype(x.dtype)
    hidden = jnp.square(jax.nn.relu(layers.project(k_in, p["key"])))
    hidden = shard(hidden, ("batch", "time", "mlp"))
    return layers.project(hidden, p["value"]), state._replace(ffn_shift=ffn_shift)
