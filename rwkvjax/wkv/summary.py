# SPDX-License-Identifier: Apache-2.0
"""What a stretch of time does to the RWKV-6 state, as one associative element.

The state after a stretch is diag(total_decay) S + kv, whatever S was before. Two stretches in a
row combine to a third, so time can be split over devices: each computes its summary, gathers the
others', folds those to its left into its own initial state and runs `wkv6` from there.

Dimensions: B batch, T time, H heads, N key channels, M value channels.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rwkvjax.wkv import common, dyadic, linear


class Wkv6Summary(NamedTuple):
    """state_after = total_decay[..., None] * state_before + kv."""

    total_decay: jax.Array  # [B, H, N], in [0, 1]
    kv: jax.Array  # [B, H, N, M]


def after(summary: Wkv6Summary, state: jax.Array) -> jax.Array:
    """The state after a stretch from the one before it, both [B, H, N, M]."""
    return summary.total_decay[..., None] * state + summary.kv


def combine(first: Wkv6Summary, second: Wkv6Summary) -> Wkv6Summary:
    """The summary of `first` followed by `second`; associative, so fit for associative_scan."""
    decay, kv = first
    later_decay, later_kv = second
    return Wkv6Summary(decay * later_decay, later_decay[..., None] * kv + later_kv)


def wkv6_summary(
    k: jax.Array,
    v: jax.Array,
    log_w: jax.Array,
    *,
    reset: jax.Array | None = None,
    chunk: int = 16,
) -> Wkv6Summary:
    """Summary of the whole sequence; about a third of the work of `wkv6`.

    Args:
      k: [B, T, H, N]; v: [B, T, H, M]; log_w: [B, T, H, N], not positive.
      reset: [B, T] bool or None. One True anywhere makes the total decay of that row zero.
      chunk: steps taken in parallel, a power of two.

    Returns:
      total_decay [B, H, N] and kv [B, H, N, M], float32 (float64 for float64 inputs).

    Raises:
      ValueError: shapes do not fit, T = 0, chunk no power of two.
      TypeError: an input is not floating-point or reset is not boolean.
    """
    k, v, log_w = map(jnp.asarray, (k, v, log_w))
    common.check_sequence("k", k, 4)
    common.check_shape("v", v, k.shape[:-1] + v.shape[-1:])
    common.check_shape("log_w", log_w, k.shape)
    common.check_choice("chunked", chunk)
    reset = common.check_reset(reset, k.shape[:2])
    dtype = common.accumulation_dtype(k, v, log_w)
    k, v, log_w = (x.astype(dtype) for x in (k, v, log_w))

    total = jnp.exp(log_w.sum(axis=1))
    cut = None
    if reset is not None:
        total = jnp.where(reset.any(axis=1)[:, None, None], 0, total)
        cut = common.last_steps(reset)[..., None, None]

    def chunks(x: jax.Array) -> jax.Array:  # [B, T, H, N] -> [T / L, B, H, L, N]
        x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % chunk), (0, 0), (0, 0)))
        x = x.reshape(x.shape[0], -1, chunk, *x.shape[2:])
        return x.transpose(1, 0, 3, 2, 4)

    @jax.checkpoint
    def advance(state: jax.Array, xs: tuple) -> tuple[jax.Array, None]:
        k, v, log_w, cut = xs
        w = jnp.exp(log_w)
        if cut is not None:
            k, w = jnp.where(cut, 0, k), jnp.where(cut, 0, w)
        # No axis more than needed: jaxlib 0.10's CPU runtime crashes in the gradient, a reduction
        # over seven axes (docs/scaling.md).
        totals = dyadic.products(w)
        k = dyadic.decay_to_end(k, totals)
        total = totals[-1][..., None, :, :]
        return linear.next_state(k[..., None, :, :], v, total, state), None

    xs = jax.tree.map(chunks, (k, v, log_w, cut))
    empty = jnp.zeros((k.shape[0], *k.shape[2:], v.shape[-1]), dtype)
    kv, _ = lax.scan(advance, common.match_varying(empty, like=xs), xs)
    return Wkv6Summary(total, kv)
