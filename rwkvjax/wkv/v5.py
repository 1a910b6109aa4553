# SPDX-License-Identifier: Apache-2.0
"""The recurrence of RWKV-5 "Eagle" (arXiv 2404.05892, section 4.1): RWKV-6 with a decay that
is constant in time, log_w [H, N].

    y_t = r_t (S_{t-1} + diag(u) k_t^T v_t)
    S_t = diag(w) S_{t-1} + k_t^T v_t              w = exp(log_w)

Dimensions: B batch, T time, H heads, N key channels, M value channels.
"""

import jax
import jax.numpy as jnp

from rwkvjax.wkv import common, v6


def wkv5_step(
    r: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_w: jax.Array,
    u: jax.Array,
    state: jax.Array,
    *,
    reset: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """One token of `wkv5`, for decoding.

    Args:
      r, k, v: [B, H, N]; log_w, u: [H, N]; state: [B, H, N, M]; reset: [B] bool or None.

    Returns:
      (y [B, H, M] in the dtype of v, state).

    Raises:
      ValueError, TypeError: shapes or dtypes do not fit.
    """
    r, log_w = jnp.asarray(r), jnp.asarray(log_w)
    common.check_sequence("r", r, 3)
    common.check_shape("log_w", log_w, r.shape[1:])
    return v6.wkv6_step(r, k, v, jnp.broadcast_to(log_w, r.shape), u, state, reset=reset)


def wkv5(
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
    """RWKV-5 recurrence over a sequence (arXiv 2404.05892, eq. 8 and its recurrent form).

    The arguments, results and errors of `wkv6`, except that log_w is [H, N]; the exponential is
    taken once, not per token.
    """
    r, k, v, log_w, u, state = map(jnp.asarray, (r, k, v, log_w, u, state))
    common.check_sequence("r", r, 4)
    common.check_shape("log_w", log_w, r.shape[2:])
    return v6.run(
        r, k, v, log_w, u, state, reset=reset, impl=impl, chunk=chunk, time_axis=time_axis
    )
