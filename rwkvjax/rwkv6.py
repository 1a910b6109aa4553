# SPDX-License-Identifier: Apache-2.0
"""RWKV-6 "Finch" (arXiv 2404.05892): token shift and decay depend on the data.

    z   = x_t + d_t mu_x                                d_t = x_{t-1} - x_t
    x_i = x_t + d_t (mu_i + tanh(z A)_i B_i)            i in w, k, v, r, g          (ddlerp)
    w_t = exp(-exp(time_decay + tanh(x_w C) E))
    y_t = r_t (S_{t-1} + diag(u) k_t^T v_t)
    S_t = diag(w_t) S_{t-1} + k_t^T v_t
    out = W_o (GroupNorm(y) * SiLU(g))

Dimensions: B batch, T time, D model width, A = H N attention width, H heads, N head size,
R rank of the mix, L layers.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core import params as params_lib
from core.params import ParamSpec, Uniform
from core.sharding import Shard
from rwkvjax import layers, wkv
from rwkvjax.config import DDLERP, Config
from rwkvjax.rwkv5 import State as State
from rwkvjax.rwkv5 import head_norm_specs, projection_specs, split_heads
from rwkvjax.rwkv5 import init_state as init_state

Params = dict

MIXES = DDLERP["all"]  # the official order of the five mixes


def att_specs(cfg: Config, layer: int) -> Params:
    """Parameters of the time mixing of one layer."""
    r0, r1 = layers.depth_ratios(cfg, layer)
    ramp, width = layers.channel_ramp(cfg.dim), cfg.resolved_att_dim
    decay_rank = cfg.resolved_decay_rank
    heads, size = cfg.heads, cfg.head_size
    bonus = layers.bonus_ramp(width, r0).reshape(heads, size)
    zeros, small = params_lib.zeros, Uniform(0.01)
    return {
        "time_maa_w": layers.vector(1 - ramp**r1),
        "time_maa_k": layers.vector(1 - ramp**r1),
        "time_maa_v": layers.vector(1 - (ramp**r1 + 0.3 * r0)),
        "time_maa_r": layers.vector(1 - ramp ** (0.5 * r1)),
        "time_maa_g": layers.vector(1 - ramp ** (0.5 * r1)),
        **_ddlerp_specs(cfg, 1 - ramp**r1),
        "time_decay": layers.vector(layers.decay_ramp(width, r0), ("heads",)),
        "time_decay_w1": ParamSpec((cfg.dim, decay_rank), ("embed", "lora"), zeros),
        "time_decay_w2": ParamSpec((decay_rank, width), ("lora", "heads"), small),
        "time_faaaa": layers.vector(bonus, ("heads", "head_dim")),
        **projection_specs(cfg, gate=True),
        "ln_x": head_norm_specs(cfg, layer),
    }


def _ddlerp_specs(cfg: Config, mix: np.ndarray) -> Params:
    count, rank = len(DDLERP[cfg.ddlerp]), cfg.resolved_mix_rank
    if not count:
        return {}
    down, up = (cfg.dim, count * rank), (count, rank, cfg.dim)
    return {
        "time_maa_x": layers.vector(mix),
        "time_maa_w1": ParamSpec(down, ("embed", "lora"), params_lib.zeros),
        "time_maa_w2": ParamSpec(up, (None, "lora", "embed"), Uniform(0.01)),
    }


def ffn_specs(cfg: Config, layer: int) -> Params:
    """Parameters of the channel mixing of one layer (note the cube in its mix)."""
    _, r1 = layers.depth_ratios(cfg, layer)
    ramp = 1 - layers.channel_ramp(cfg.dim) ** (r1**3)
    return layers.channel_mix_specs(cfg, {"time_maa_k": ramp, "time_maa_r": ramp})


def ddlerp(
    p: Params, x: jax.Array, previous: jax.Array, dependent: str = MIXES
) -> dict[str, jax.Array]:
    """The five interpolations between x_t and x_{t-1}, each [B, T, D].

    The weights of those in `dependent` depend on the data; the others are constant.
    """
    delta = previous - x
    weights = {name: p[f"time_maa_{name}"].astype(x.dtype) for name in MIXES}
    if dependent:
        z = x + delta * p["time_maa_x"].astype(x.dtype)
        q = jnp.tanh(layers.project(z, p["time_maa_w1"]))
        q = q.reshape(*q.shape[:-1], len(dependent), -1)  # [B, T, len(dependent), R]
        up = p["time_maa_w2"].astype(x.dtype)
        for i, name in enumerate(dependent):
            weights[name] = weights[name] + q[..., i, :] @ up[i]
    return {name: x + delta * weight for name, weight in weights.items()}


def decay(p: Params, x_w: jax.Array) -> jax.Array:
    """log w_t = -exp(omega_t), float32 [B, T, A]; the sum in omega_t is float32 as well."""
    low_rank = layers.lora(x_w, p["time_decay_w1"], p["time_decay_w2"])
    wide = jnp.promote_types(x_w.dtype, jnp.float32)
    return -jnp.exp(p["time_decay"].astype(wide) + low_rank.astype(wide))


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
    mixed = ddlerp(p, x, previous, DDLERP[cfg.ddlerp])
    r = split_heads(cfg, layers.project(mixed["r"], p["receptance"]), shard)
    k = split_heads(cfg, layers.project(mixed["k"], p["key"]), shard)
    v = split_heads(cfg, layers.project(mixed["v"], p["value"]), shard)
    gate = jax.nn.silu(layers.project(mixed["g"], p["gate"]))
    log_w = split_heads(cfg, decay(p, mixed["w"]), shard)
    u = p["time_faaaa"].astype(log_w.dtype)
    how: dict[str, Any] = {"impl": cfg.wkv, "chunk": cfg.chunk, "time_axis": cfg.time_axis}
    y, new = wkv.wkv6(r, k, v, log_w, u, state.wkv, reset=reset, **how)
    y = layers.group_norm(p["ln_x"], y, cfg.group_norm_eps)
    out = layers.project(y * gate, p["output"])
    return out, state._replace(att_shift=att_shift, wkv=new), cross


def channel_mix(
    p: Params, cfg: Config, x: jax.Array, state: State, reset: jax.Array | None, shard: Shard
) -> tuple[jax.Array, State]:
    """Channel mixing of one layer; version 6 weighs the previous token."""
    previous, ffn_shift = layers.token_shift(x, state.ffn_shift, reset, cfg.time_axis)
    delta = previous - x
    k_in = x + delta * p["time_maa_k"].astype(x.dtype)
    r_in = x + delta * p["time_maa_r"].astype(x.dtype)
    return layers.channel_mix(p, k_in, r_in, shard), state._replace(ffn_shift=ffn_shift)
