# SPDX-License-Identifier: Apache-2.0
"""The recurrence of RWKV-4 (arXiv 2305.13048, section 3.1): a decaying weighted average.

    y_t = (a_{t-1} + e^{u + k_t} v_t) / (b_{t-1} + e^{u + k_t})
    a_t = e^{log_w} a_{t-1} + e^{k_t} v_t          b_t = e^{log_w} b_{t-1} + e^{k_t}

per channel. The state holds a and b divided by e^max, with a running maximum of the exponents,
so that nothing overflows.

Dimensions: B batch, T time, D channels.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rwkvjax.wkv import common, time_split

EMPTY = -1e30  # the maximum over no exponent
SEGMENT = 16  # steps run again per stored state in the backward pass


class Wkv4State(NamedTuple):
    """The running sums over e^max; every leaf [B, D] float32."""

    num: jax.Array
    den: jax.Array
    max: jax.Array


def wkv4_initial_state(batch: int, dim: int) -> Wkv4State:
    """The state before the first token: empty sums, maximum -1e30."""
    zero = jnp.zeros((batch, dim), jnp.float32)
    return Wkv4State(num=zero, den=zero, max=jnp.full((batch, dim), EMPTY, jnp.float32))


def advance(
    state: Wkv4State, k: jax.Array, v: jax.Array, log_w: jax.Array, u: jax.Array
) -> tuple[Wkv4State, jax.Array]:
    """One step on [B, D] arrays: (state, y)."""
    num, den, top = state
    peak = jnp.maximum(top, u + k)
    past, now = jnp.exp(top - peak), jnp.exp(u + k - peak)
    y = (past * num + now * v) / (past * den + now)
    peak = jnp.maximum(top + log_w, k)
    past, now = jnp.exp(top + log_w - peak), jnp.exp(k - peak)
    return Wkv4State(past * num + now * v, past * den + now, peak), y


def drop(reset: jax.Array | None, state: Wkv4State) -> Wkv4State:
    """`state` with the rows where `reset` [B] is True empty."""
    num, den, top = state
    return Wkv4State(
        common.over_reset(reset, 0.0, num),
        common.over_reset(reset, 0.0, den),
        common.over_reset(reset, EMPTY, top),
    )


def check(
    k: jax.Array, v: jax.Array, log_w: jax.Array, u: jax.Array, state: Wkv4State
) -> tuple[jnp.dtype, Wkv4State]:
    """Checks shapes; returns the accumulation dtype and the state in it."""
    common.check_shape("v", v, k.shape)
    common.check_shape("log_w", log_w, k.shape[-1:])
    common.check_shape("u", u, k.shape[-1:])
    for name, leaf in zip(Wkv4State._fields, state, strict=True):
        common.check_shape(f"state.{name}", leaf, (k.shape[0], k.shape[-1]))
    dtype = common.accumulation_dtype(k, v, log_w)
    return dtype, Wkv4State(*(leaf.astype(dtype) for leaf in state))


def wkv4_step(
    k: jax.Array,
    v: jax.Array,
    log_w: jax.Array,
    u: jax.Array,
    state: Wkv4State,
    *,
    reset: jax.Array | None = None,
) -> tuple[jax.Array, Wkv4State]:
    """One token of `wkv4`, for decoding.

    Args:
      k, v: [B, D]; log_w, u: [D]; state: see `Wkv4State`; reset: [B] bool or None.

    Returns:
      (y [B, D] in the dtype of v, state).

    Raises:
      ValueError, TypeError: shapes or dtypes do not fit.
    """
    k, v, log_w, u = map(jnp.asarray, (k, v, log_w, u))
    common.check_sequence("k", k, 2)
    reset = common.check_reset(reset, k.shape[:1])
    dtype, state = check(k, v, log_w, u, Wkv4State(*map(jnp.asarray, state)))
    k, log_w, u = (x.astype(dtype) for x in (k, log_w, u))
    state, y = advance(drop(reset, state), k, v.astype(dtype), log_w, u)
    return y.astype(v.dtype), state


def wkv4(
    k: jax.Array,
    v: jax.Array,
    log_w: jax.Array,
    u: jax.Array,
    state: Wkv4State,
    *,
    reset: jax.Array | None = None,
    impl: str = "auto",
    time_axis: str = "",
) -> tuple[jax.Array, Wkv4State]:
    """RWKV-4 recurrence over a sequence (arXiv 2305.13048, eq. 14 and appendix).

    The gate sigmoid(r) is applied by the caller.

    Args:
      k, v: key and value [B, T, D], any float dtype.
      log_w: log decay [D], -exp(time_decay), not positive.
      u: bonus of the current token [D].
      state: sums before the first step; see `wkv4_initial_state`.
      reset: [B, T] bool; True where a new document starts: the state before that step is
        dropped, values and gradients alike.
      impl: "scan" (step by step, the reference), "chunked" (the same steps, with the backward
        pass recomputing segments of 16: same numbers, less memory) or "auto" (= "chunked").
        A step is a few operations per channel, so forms that combine stretches of time in
        parallel do more work than they save on a CPU.
      time_axis: mesh axis over which time is split, inside `shard_map`: then every device gives its
        stretch, `state` belongs to the whole sequence and is the same everywhere.

    Returns:
      (y [B, T, D] in the dtype of v, state). Everything is computed in float32, or in float64
      when an input is float64, and the state is returned in that dtype.

    Raises:
      ValueError: shapes do not fit, T = 0, unknown impl.
      TypeError: an input is not floating-point or reset is not boolean.
    """
    k, v, log_w, u = map(jnp.asarray, (k, v, log_w, u))
    common.check_sequence("k", k, 3)
    common.check_no_kernel(impl)
    common.check_choice(impl, None)
    reset = common.check_reset(reset, k.shape[:2])
    dtype, state = check(k, v, log_w, u, Wkv4State(*map(jnp.asarray, state)))
    if time_axis:
        stretch = summary(k, v, log_w, reset, impl)
        state = time_split.state_before(stretch, state, after, time_axis)
        y, state = wkv4(k, v, log_w, u, state, reset=reset, impl=impl)
        return y, time_split.of_last(state, time_axis)
    k, v, log_w, u, state, reset = common.match_varying((k, v, log_w, u, state, reset))
    k, log_w, u = (x.astype(dtype) for x in (k, log_w, u))
    segment = None if impl == "scan" else SEGMENT
    y, state = scan_wkv4(k, v.astype(dtype), log_w, u, state, reset, segment)
    return y.astype(v.dtype), state


class Summary(NamedTuple):
    """What a stretch of time does to a state."""

    log_decay: jax.Array  # [B, D], the decay of the sums over the stretch
    dropped: jax.Array  # [B, D] bool, True if a document starts in it
    added: Wkv4State  # its own sums


def summary(
    k: jax.Array, v: jax.Array, log_w: jax.Array, reset: jax.Array | None, impl: str
) -> Summary:
    """The summary of k, v [B, T, D] with decay log_w [D]."""
    batch, steps, dim = k.shape
    empty, none = wkv4_initial_state(batch, dim), jnp.zeros((dim,), log_w.dtype)
    _, added = wkv4(k, v, log_w, none, empty, reset=reset, impl=impl)
    dropped = jnp.zeros((batch, 1), bool) if reset is None else reset.any(axis=1, keepdims=True)
    shape = added.num.shape
    log_decay = jnp.broadcast_to((steps * log_w).astype(added.num.dtype), shape)
    return Summary(log_decay, jnp.broadcast_to(dropped, shape), added)


def after(stretch: Summary, state: Wkv4State) -> Wkv4State:
    """The state after a stretch from the one before it."""
    num, den, top = state
    top = jnp.where(stretch.dropped, EMPTY, top + stretch.log_decay)
    num, den = (jnp.where(stretch.dropped, 0, x) for x in (num, den))
    peak = jnp.maximum(top, stretch.added.max)
    past, new = jnp.exp(top - peak), jnp.exp(stretch.added.max - peak)
    added = stretch.added
    return Wkv4State(past * num + new * added.num, past * den + new * added.den, peak)


def scan_wkv4(
    k: jax.Array,
    v: jax.Array,
    log_w: jax.Array,
    u: jax.Array,
    state: Wkv4State,
    reset: jax.Array | None,
    segment: int | None,
) -> tuple[jax.Array, Wkv4State]:
    """The recurrence step by step; all arrays already in the accumulation dtype."""

    def body(state: Wkv4State, xs: tuple) -> tuple[Wkv4State, jax.Array]:
        k_t, v_t, reset_t = xs
        return advance(drop(reset_t, state), k_t, v_t, log_w, u)

    return common.scan_time(body, state, (k, v, reset), segment)
