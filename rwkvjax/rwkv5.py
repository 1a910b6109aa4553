# SPDX-License-Identifier: Apache-2.0
"""RWKV-5 "Eagle" (arXiv 2404.05892): matrix-valued states with a learned, constant decay.

    r, k, v, g = W x_i                          x_i = m_i x_t + (1 - m_i) x_{t-1}
    y_t = r_t (S_{t-1} + diag(u) k_t^T v_t)
    S_t = diag(w) S_{t-1} + k_t^T v_t           w = exp(-exp(time_decay))
    out = W_o (GroupNorm(y) * SiLU(g))

Versions 5.0 and 5.1 have one decay and one bonus per head, 5.0 has no gate and stores log u.

Dimensions: B batch, T time, D model width, A = H N attention width, H heads, N head size, L layers.
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
from rwkvjax.rwkv4 import channel_mix as channel_mix
from rwkvjax.rwkv4 import mix

Params = dict


class State(NamedTuple):
    """State of all layers (versions 5, 6 and 7)."""

    att_shift: jax.Array  # [L, B, D] float32
    ffn_shift: jax.Array  # [L, B, D] float32
    wkv: jax.Array  # [L, B, H, N, N] float32; [key, value], version 7 [value, key]


def init_state(cfg: Config, batch_size: int) -> State:
    """The state before the first token: zeros."""
    shift = jnp.zeros((cfg.layers, batch_size, cfg.dim), jnp.float32)
    shape = (cfg.layers, batch_size, cfg.heads, cfg.head_size, cfg.head_size)
    return State(shift, shift, jnp.zeros(shape, jnp.float32))


def projection_specs(cfg: Config, gate: bool) -> Params:
    """Receptance, key, value, output, the head norm and (from 5.1 on) the gate."""
    dim, width = cfg.dim, cfg.resolved_att_dim
    into, back = ("embed", "heads"), ("heads", "embed")
    specs = {
        "receptance": layers.matrix(dim, width, into, Orthogonal(1.0)),
        "key": layers.matrix(dim, width, into, Orthogonal(0.1)),
        "value": layers.matrix(dim, width, into, Orthogonal(1.0)),
        "output": layers.matrix(width, dim, back, params_lib.zeros),
    }
    if gate:
        specs["gate"] = layers.matrix(dim, width, into, Orthogonal(0.1))
    return specs


def head_norm_specs(cfg: Config, layer: int) -> Params:
    """The per-head norm ln_x; its weight grows with depth."""
    return layers.norm_specs(cfg.resolved_att_dim, ((1 + layer) / cfg.layers) ** 0.7)


def att_specs(cfg: Config, layer: int) -> Params:
    """Parameters of the time mixing of one layer."""
    r0, r1 = layers.depth_ratios(cfg, layer)
    ramp, gate = layers.channel_ramp(cfg.dim), cfg.version != "5.0"
    specs = {
        "time_mix_k": layers.vector(ramp**r1),
        "time_mix_v": layers.vector(ramp**r1 + 0.3 * r0),
        "time_mix_r": layers.vector(ramp ** (0.5 * r1)),
        **projection_specs(cfg, gate),
        "ln_x": head_norm_specs(cfg, layer),
    }
    if gate:
        specs["time_mix_g"] = layers.vector(ramp ** (0.5 * r1))
    return {**specs, **_decay_specs(cfg, r0)}


def _decay_specs(cfg: Config, r0: float) -> Params:
    heads, size = cfg.heads, cfg.head_size
    if cfg.version == "5.2":
        axes = ("heads", "head_dim")
        decay = layers.decay_ramp(heads * size, r0).reshape(heads, size)
        u = layers.bonus_ramp(heads * size, r0).reshape(heads, size)
        return {"time_decay": layers.vector(decay, axes), "time_faaaa": layers.vector(u, axes)}
    per_head = layers.vector(layers.decay_ramp(heads, r0, -8.0, 7.0), ("heads",))
    if cfg.version == "5.1":
        bonus = layers.vector(0.05 * np.ones(heads), ("heads",))
        return {"time_decay": per_head, "time_faaaa": bonus}
    log_bonus = layers.vector(np.log(0.3) * np.ones(heads), ("heads",))
    return {"time_decay": per_head, "time_first": log_bonus}


def ffn_specs(cfg: Config, layer: int) -> Params:
    """Parameters of the channel mixing of one layer."""
    _, r1 = layers.depth_ratios(cfg, layer)
    ramp = layers.channel_ramp(cfg.dim) ** r1
    return layers.channel_mix_specs(cfg, {"time_mix_k": ramp, "time_mix_r": ramp})


def decay_and_bonus(p: Params, cfg: Config) -> tuple[jax.Array, jax.Array]:
    """(log w, u), each [H, N] float32, from the parameters of any version 5.x."""
    decay = layers.wide(p["time_decay"])
    bonus = (
        jnp.exp(layers.wide(p["time_first"]))
        if cfg.version == "5.0"
        else layers.wide(p["time_faaaa"])
    )
    shape = (cfg.heads, cfg.head_size)
    if cfg.version != "5.2":
        decay, bonus = decay[:, None], bonus[:, None]
    return jnp.broadcast_to(-jnp.exp(decay), shape), jnp.broadcast_to(bonus, shape)


def split_heads(cfg: Config, x: jax.Array, shard: Shard) -> jax.Array:
    """[B, T, A] -> [B, T, H, N]."""
    x = x.reshape(*x.shape[:-1], cfg.heads, cfg.head_size)
    return shard(x, ("batch", "time", "heads", "head_dim"))


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
    mixed = lambda name: mix(p[f"time_mix_{name}"], x, previous)
    r = split_heads(cfg, layers.project(mixed("r"), p["receptance"]), shard)
    k = split_heads(cfg, layers.project(mixed("k"), p["key"]), shard)
    v = split_heads(cfg, layers.project(mixed("v"), p["value"]), shard)
    log_w, u = decay_and_bonus(p, cfg)
    how: dict[str, Any] = {"impl": cfg.wkv, "chunk": cfg.chunk, "time_axis": cfg.time_axis}
    y, new = wkv.wkv5(r, k, v, log_w, u, state.wkv, reset=reset, **how)
    y = layers.group_norm(p["ln_x"], y, cfg.group_norm_eps)
    if "gate" in p:
        y = y * jax.nn.silu(layers.project(mixed("g"), p["gate"]))
    out = layers.project(y, p["output"])
    return out, state._replace(att_shift=att_shift, wkv=new), cross
