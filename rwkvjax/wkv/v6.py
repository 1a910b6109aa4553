# SPDX-License-Identifier: Apache-2.0
"""The recurrence of RWKV-6 "Finch" (arXiv 2404.05892, section 4.2).

Per head, with the key-first state S [N, M]:

    y_t = r_t (S_{t-1} + diag(u) k_t^T v_t)
    S_t = diag(w_t) S_{t-1} + k_t^T v_t            w_t = exp(log_w_t)

Dimensions: B batch, T time, H heads, N key channels, M value channels (M = N in the models).
"""

import jax
import jax.numpy as jnp

from rwkvjax.wkv import chunked, common, linear, pallas, summary, time_split

SHORTEST_CHUNKED = 8  # steps; below this a chunk does more work than it saves


def advance(
    state: jax.Array, r: jax.Array, k: jax.Array, v: jax.Array, w: jax.Array, u: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """One step: state [B, H, N, M]; r, k [B, H, N]; v [B, H, M]; w, u broadcast against r.

    Returns:
      (state, y [B, H, M]). The bonus term r (diag(u) k^T v) is the number sum(r u k) times v.
    """
    y = jnp.einsum("bhn,bhnm->bhm", r, state, precision=common.PRECISION)
    y = y + jnp.sum(r * u * k, axis=-1, keepdims=True) * v
    return w[..., None] * state + k[..., None] * v[..., None, :], y


def check(r: jax.Array, k: jax.Array, v: jax.Array, u: jax.Array, state: jax.Array) -> None:
    """Raises ValueError unless the shapes shared by RWKV-5 and RWKV-6 fit together.

    r may have the time axis ([B, T, H, N]) or not ([B, H, N]).
    """
    common.check_sequence("r", r, 4 if r.ndim != 3 else 3)
    batch, heads, key_size = r.shape[0], r.shape[-2], r.shape[-1]
    common.check_shape("k", k, r.shape)
    common.check_shape("v", v, r.shape[:-1] + v.shape[-1:])
    common.check_shape("u", u, (heads, key_size))
    common.check_shape("state", state, (batch, heads, key_size, v.shape[-1]))


def wkv6_step(
    r: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_w: jax.Array,
    u: jax.Array,
    state: jax.Array,
    *,
    reset: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """One token of `wkv6`, for decoding.

    Args:
      r, k, v, log_w: [B, H, N]; u: [H, N]; state: [B, H, N, M]; reset: [B] bool or None.

    Returns:
      (y [B, H, M] in the dtype of v, state).

    Raises:
      ValueError, TypeError: shapes or dtypes do not fit.
    """
    r, k, v, log_w, u, state = map(jnp.asarray, (r, k, v, log_w, u, state))
    common.check_sequence("r", r, 3)
    check(r, k, v, u, state)
    common.check_shape("log_w", log_w, r.shape)
    reset = common.check_reset(reset, r.shape[:1])
    dtype = common.accumulation_dtype(r, k, v, log_w)
    state = common.over_reset(reset, 0.0, state.astype(dtype))
    w = jnp.exp(log_w.astype(dtype))
    r, k, u = (x.astype(dtype) for x in (r, k, u))
    state, y = advance(state, r, k, v.astype(dtype), w, u)
    return y.astype(v.dtype), state


def scan_wkv(
    r: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_w: jax.Array,
    u: jax.Array,
    state: jax.Array,
    reset: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """The recurrence step by step, for log_w [B, T, H, N] or constant in time [H, N].

    All float arrays already have the accumulation dtype.
    """
    constant = log_w.ndim == 2
    w = jnp.exp(log_w)

    def body(state: jax.Array, xs: tuple) -> tuple[jax.Array, jax.Array]:
        (r_t, k_t, v_t), w_t, reset_t = xs
        state = common.over_reset(reset_t, 0.0, state)
        return advance(state, r_t, k_t, v_t, w if constant else w_t, u)

    return common.scan_time(body, state, ((r, k, v), None if constant else w, reset))


def wkv6(
    r: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_w: jax.Array,
    u: jax.Array,
    state: jax.Array,
    *,
    reset: jax.Array | None = None,
    impl: str = "auto",
    chunk: int | None = None,
    time_axis: str = "",
) -> tuple[jax.Array, jax.Array]:
    """RWKV-6 recurrence over a sequence (arXiv 2404.05892, eq. 19 and its recurrent form).

    Args:
      r, k: receptance and key [B, T, H, N], any float dtype.
      v: value [B, T, H, M].
      log_w: log decay [B, T, H, N], -exp(omega), not positive; applied after step t.
      u: bonus of the current token [H, N].
      state: [B, H, N, M] float32, the state before the first step.
      reset: [B, T] bool; True where a new document starts: the state before that step is
        dropped, values and gradients alike.
      impl: "scan" (step by step, the reference), "chunked" (the same function, exact at any
        decay, reverse-mode derivatives only), "pallas" (the same as a kernel for TPU or GPU, in
        float32 alone; interpreted elsewhere), or "auto" (chunked; in steps for a few tokens).
      chunk: chunk length of the chunked form, a power of two; None = 16 on a CPU.
      time_axis: mesh axis over which time is split, inside `shard_map`: then every device gives its
        stretch, `state` belongs to the whole sequence and is the same everywhere.

    Returns:
      (y [B, T, H, M] in the dtype of v, state [B, H, N, M]). Everything is computed in float32,
      or in float64 when an input is float64, and the state is returned in that dtype.

    Raises:
      ValueError: shapes do not fit, T = 0, unknown impl or chunk.
      TypeError: an input is not floating-point or reset is not boolean.
    """
    r, k, v, log_w, u, state = map(jnp.asarray, (r, k, v, log_w, u, state))
    common.check_sequence("r", r, 4)
    common.check_shape("log_w", log_w, r.shape)
    return run(r, k, v, log_w, u, state, reset=reset, impl=impl, chunk=chunk, time_axis=time_axis)


def run(
    r: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_w: jax.Array,
    u: jax.Array,
    state: jax.Array,
    *,
    reset: jax.Array | None,
    impl: str,
    chunk: int | None,
    time_axis: str,
) -> tuple[jax.Array, jax.Array]:
    """Checks, casts and dispatches for RWKV-5 (log_w [H, N]) and RWKV-6 (log_w like r)."""
    check(r, k, v, u, state)
    common.check_choice(impl, chunk)
    reset = common.check_reset(reset, r.shape[:2])
    dtype = common.accumulation_dtype(r, k, v, log_w)
    if time_axis:
        stretch = summary.wkv6_summary(k, v, jnp.broadcast_to(log_w, r.shape), reset=reset)
        state = state.astype(dtype)
        state = time_split.state_before(stretch, state, summary.after, time_axis)
        y, state = run(r, k, v, log_w, u, state, reset=reset, impl=impl, chunk=chunk, time_axis="")
        return y, time_split.of_last(state, time_axis)
    r, k, v, log_w, u, state, reset = common.match_varying((r, k, v, log_w, u, state, reset))
    if impl == "scan" or (impl == "auto" and r.shape[1] < SHORTEST_CHUNKED):
        r, k, log_w, u, state = (x.astype(dtype) for x in (r, k, log_w, u, state))
        y, state = scan_wkv(r, k, v.astype(dtype), log_w, u, state, reset)
        return y.astype(v.dtype), state
    if impl == "pallas":
        return pallas.run_sequence(r, k, v, log_w, u, state, reset, chunk)
    timed, shared = ((v, r, k), (log_w, u)) if log_w.ndim == 2 else ((v, r, k, log_w), (u,))
    return chunked.run_sequence(linear.ALGEBRA, timed, shared, state, reset, chunk, dtype)
