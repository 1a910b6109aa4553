# SPDX-License-Identifier: Apache-2.0
"""The recurrence of RWKV-7 "Goose" (arXiv 2503.14456, section 4): a generalised delta rule.

Per head, with the value-first state S [M, N]:

    S_t = S_{t-1} diag(w_t) - (S_{t-1} kappa_t) (kappa_t * a_t)^T + v_t k_t^T
    y_t = S_t r_t                                  w_t = exp(w_log_t)

The output reads the state after the update; there is no bonus u inside the recurrence.

Dimensions: B batch, T time, H heads, N key channels, M value channels (M = N in the models).
"""

from typing import Any

import jax
import jax.numpy as jnp

from rwkvjax.wkv import chunked, common, delta, time_split

SHORTEST_CHUNKED = 8  # steps; below this a chunk does more work than it saves


def advance(
    state: jax.Array,
    r: jax.Array,
    w: jax.Array,
    k: jax.Array,
    v: jax.Array,
    kappa: jax.Array,
    a: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """One step: state [B, H, M, N]; v [B, H, M], the others [B, H, N]. Returns (state, y)."""
    removed = jnp.einsum("bhmn,bhn->bhm", state, kappa, precision=common.PRECISION)
    state = (
        state * w[..., None, :]
        - removed[..., None] * (kappa * a)[..., None, :]
        + v[..., None] * k[..., None, :]
    )
    return state, jnp.einsum("bhmn,bhn->bhm", state, r, precision=common.PRECISION)


def check(
    r: jax.Array,
    w_log: jax.Array,
    k: jax.Array,
    v: jax.Array,
    kappa: jax.Array,
    a: jax.Array,
    state: jax.Array,
) -> None:
    """Raises ValueError unless the shapes fit; r with or without the time axis."""
    for name, array in (("w_log", w_log), ("k", k), ("kappa", kappa), ("a", a)):
        common.check_shape(name, array, r.shape)
    common.check_shape("v", v, r.shape[:-1] + v.shape[-1:])
    common.check_shape("state", state, (r.shape[0], r.shape[-2], v.shape[-1], r.shape[-1]))


def wkv7_step(
    r: jax.Array,
    w_log: jax.Array,
    k: jax.Array,
    v: jax.Array,
    kappa: jax.Array,
    a: jax.Array,
    state: jax.Array,
    *,
    reset: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """One token of `wkv7`, for decoding.

    Args:
      r, w_log, k, v, kappa, a: [B, H, N]; state: [B, H, M, N]; reset: [B] bool or None.

    Returns:
      (y [B, H, M] in the dtype of v, state).

    Raises:
      ValueError, TypeError: shapes or dtypes do not fit.
    """
    r, w_log, k, v, kappa, a, state = map(jnp.asarray, (r, w_log, k, v, kappa, a, state))
    common.check_sequence("r", r, 3)
    check(r, w_log, k, v, kappa, a, state)
    reset = common.check_reset(reset, r.shape[:1])
    dtype = common.accumulation_dtype(r, w_log, k, v, kappa, a)
    state = common.over_reset(reset, 0.0, state.astype(dtype))
    w = jnp.exp(w_log.astype(dtype))
    state, y = advance(state, r.astype(dtype), w, *(x.astype(dtype) for x in (k, v, kappa, a)))
    return y.astype(v.dtype), state


def wkv7(
    r: jax.Array,
    w_log: jax.Array,
    k: jax.Array,
    v: jax.Array,
    kappa: jax.Array,
    a: jax.Array,
    state: jax.Array,
    *,
    reset: jax.Array | None = None,
    impl: str = "auto",
    chunk: int | None = None,
    time_axis: str = "",
) -> tuple[jax.Array, jax.Array]:
    """RWKV-7 recurrence over a sequence (arXiv 2503.14456, eq. 17).

    Args:
      r, k: receptance and (already gated) key [B, T, H, N], any float dtype.
      w_log: log decay [B, T, H, N], not positive.
      v: value [B, T, H, M].
      kappa: removal key [B, T, H, N], of unit length per head in the model.
      a: in-context learning rate [B, T, H, N], in (0, 1) in the model.
      state: [B, H, M, N] float32, value channel first.
      reset: [B, T] bool; True where a new document starts: the state before that step is
        dropped, values and gradients alike.
      impl: "scan" (step by step, the reference), "chunked" (the same function, exact at any
        decay, reverse-mode derivatives only) or "auto" (chunked; on a CPU only its
        derivative, since the forward pass is faster in steps).
      chunk: chunk length of the chunked form, a power of two; None = 16 on a CPU.
      time_axis: mesh axis over which time is split, inside `shard_map`: then every device gives its
        stretch, `state` belongs to the whole sequence and is the same everywhere.

    Returns:
      (y [B, T, H, M] in the dtype of v, state [B, H, M, N]). Everything is computed in float32,
      or in float64 when an input is float64, and the state is returned in that dtype.

    Raises:
      ValueError: shapes do not fit, T = 0, unknown impl or chunk.
      TypeError: an input is not floating-point or reset is not boolean.
    """
    r, w_log, k, v, kappa, a, state = map(jnp.asarray, (r, w_log, k, v, kappa, a, state))
    common.check_sequence("r", r, 4)
    check(r, w_log, k, v, kappa, a, state)
    common.check_no_kernel(impl)
    common.check_choice(impl, chunk)
    reset = common.check_reset(reset, r.shape[:2])
    dtype = common.accumulation_dtype(r, w_log, k, v, kappa, a)
    if time_axis:
        inputs = (r, w_log, k, v, kappa, a)
        how: dict[str, Any] = {"reset": reset, "impl": impl, "chunk": chunk}
        stretch = summary(inputs, reset, impl, chunk)
        state = time_split.state_before(stretch, state.astype(dtype), after, time_axis)
        y, state = wkv7(*inputs, state, **how)
        return y, time_split.of_last(state, time_axis)
    r, w_log, k, v, kappa, a, state, reset = common.match_varying(
        (r, w_log, k, v, kappa, a, state, reset)
    )
    if impl == "scan" or (impl == "auto" and r.shape[1] < SHORTEST_CHUNKED):
        r, w_log, k, kappa, a, state = (x.astype(dtype) for x in (r, w_log, k, kappa, a, state))
        y, state = scan_wkv7(r, w_log, k, v.astype(dtype), kappa, a, state, reset)
        return y.astype(v.dtype), state
    stepwise = impl == "auto" and jax.default_backend() == "cpu"
    algebra = delta.STEPWISE_FORWARD if stepwise else delta.ALGEBRA
    timed, state = (v, r, w_log, k, kappa, a), jnp.swapaxes(state, -1, -2)
    y, state = chunked.run_sequence(algebra, timed, (), state, reset, chunk, dtype)
    return y, jnp.swapaxes(state, -1, -2)


def summary(
    inputs: tuple[jax.Array, ...], reset: jax.Array | None, impl: str, chunk: int | None
) -> tuple[jax.Array, jax.Array]:
    """(transition [B, H, N, N], added [B, H, M, N]): S after = S before @ transition + added.

    Every row of S moves by itself, and only the values tell the rows apart. So one run yields both:
    M rows that start from zero with the real values, N rows that start from the identity with none.
    """
    r, w_log, k, v, kappa, a = inputs
    batch, _, heads, size = r.shape
    values = v.shape[-1]
    padded = jnp.concatenate([v, jnp.zeros_like(k)], axis=-1)
    start = jnp.concatenate([jnp.zeros((values, size)), jnp.eye(size)]).astype(jnp.float32)
    start = jnp.broadcast_to(start, (batch, heads, values + size, size))
    _, end = wkv7(r, w_log, k, padded, kappa, a, start, reset=reset, impl=impl, chunk=chunk)
    return end[..., values:, :], end[..., :values, :]


def after(stretch: tuple[jax.Array, jax.Array], state: jax.Array) -> jax.Array:
    """The state after a stretch from the one before it, both [B, H, M, N]."""
    transition, added = stretch
    return jnp.matmul(state, transition, precision=common.PRECISION) + added


def scan_wkv7(
    r: jax.Array,
    w_log: jax.Array,
    k: jax.Array,
    v: jax.Array,
    kappa: jax.Array,
    a: jax.Array,
    state: jax.Array,
    reset: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """The recurrence step by step; all float arrays already in the accumulation dtype."""

    def body(state: jax.Array, xs: tuple) -> tuple[jax.Array, jax.Array]:
        inputs_t, reset_t = xs
        return advance(common.over_reset(reset_t, 0.0, state), *inputs_t)

    return common.scan_time(body, state, ((r, jnp.exp(w_log), k, v, kappa, a), reset))
