# SPDX-License-Identifier: Apache-2.0
"""One chunk of the RWKV-5/6 recurrence in parallel.

With F, R and W the decays from the chunk's start, to its end and over all of it, and A the scores
of `dyadic` with sum(r u k) on the diagonal:

    y = A v + (r F) S            S_after = diag(W) S + (k R)^T v

`cut` marks the last step of a document: there w is 0 and the key does not enter the state, though
it still meets its own value through the bonus u.

Arrays of a chunk: r, k, w [B, H, L, N], v [B, H, L, M], state [B, H, N, M], u [H, 1, N].
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rwkvjax.wkv import dyadic
from rwkvjax.wkv.chunked import Algebra, Chunk, Gradients
from rwkvjax.wkv.dyadic import dot


class Parts(NamedTuple):
    """The arguments of a chunk by name."""

    v: jax.Array
    r: jax.Array
    k: jax.Array
    u: jax.Array
    k_kept: jax.Array  # the key as later steps see it
    totals: list[jax.Array]  # decays over blocks of 1, 2, 4 ... steps, as later steps see them


def parts(chunk: Chunk) -> Parts:
    """Reads RWKV-6 (log_w among the sequences) or RWKV-5 (log_w shared) arguments."""
    if len(chunk.timed) == 4:
        v, r, k, log_w = chunk.timed
        (u,) = chunk.shared
        w = jnp.exp(log_w)
        w = w if chunk.cut is None else jnp.where(chunk.cut, 0, w)
        totals = dyadic.products(one_kind(w))
    else:
        v, r, k = chunk.timed
        log_w, u = chunk.shared
        totals = constant_totals(log_w, chunk)
    kept = k if chunk.cut is None else jnp.where(chunk.cut, 0, k)
    return Parts(v, r, k, u, kept, totals)


def constant_totals(log_w: jax.Array, chunk: Chunk) -> list[jax.Array]:
    """Totals of a decay constant in time, log_w [H, 1, N]; without cuts the same for all chunks.

    Exponentials of multiples, not products of one rounded exponential: its error would add up,
    step after step in the same direction.
    """
    steps = jnp.ones((chunk.timed[0].shape[-2], 1), log_w.dtype)
    if chunk.real is not None:  # padding must not decay the state
        steps = jnp.where(chunk.real, steps, 0)
    counts = [steps]
    while counts[-1].shape[0] > 1:
        counts.append(counts[-1][0::2] + counts[-1][1::2])
    totals = [one_kind(jnp.exp(count * log_w)) for count in counts]
    if chunk.cut is None:
        return totals
    kept = dyadic.products(one_kind(jnp.where(chunk.cut, jnp.zeros_like(steps), 1)))
    return [total * keep for total, keep in zip(totals, kept, strict=True)]


def one_kind(x: jax.Array) -> jax.Array:
    """[..., L, N] -> [..., 1, L, N]: `dyadic` with one kind of query and of key."""
    return x[..., None, :, :]


def levels_of(p: Parts) -> dyadic.Levels:
    """The levels of `dyadic` for r and k."""
    return dyadic.expand(one_kind(p.r), one_kind(p.k_kept), p.totals)


def scores_with_bonus(levels: dyadic.Levels, p: Parts) -> jax.Array:
    """A with the bonus of the current token on the diagonal."""
    bonus = jnp.sum(p.r * p.u * p.k, axis=-1)[..., None]
    return dyadic.scores(levels) + jnp.where(np.eye(bonus.shape[-2], dtype=bool), bonus, 0)


def next_state(k: jax.Array, v: jax.Array, total: jax.Array, state: jax.Array) -> jax.Array:
    """The state after a chunk; k [..., 1, L, N] decayed to its end, total [..., 1, 1, N]."""
    return jnp.swapaxes(total[..., 0, :, :], -1, -2) * state + dot("tn,tm->nm", k[..., 0, :, :], v)


def forward(chunk: Chunk, state: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Output of one chunk and the state after it."""
    p = parts(chunk)
    levels = levels_of(p)
    y = dot("ts,sm->tm", scores_with_bonus(levels, p), p.v)
    y = y + dot("tn,nm->tm", dyadic.rows(levels.q[-1]), state)
    return y, next_state(levels.k[-1], p.v, levels.total[-1], state)


def advance(chunk: Chunk, state: jax.Array) -> jax.Array:
    """The state after one chunk."""
    p = parts(chunk)
    k = dyadic.decay_to_end(one_kind(p.k_kept), p.totals)
    return next_state(k, p.v, p.totals[-1], state)


def backward(chunk: Chunk, state: jax.Array, dy: jax.Array, dstate: jax.Array) -> Gradients:
    """Transpose of `forward`."""
    p = parts(chunk)
    levels = levels_of(p)
    r_end, k_end = dyadic.rows(levels.q[-1]), dyadic.rows(levels.k[-1])
    total = levels.total[-1]
    dv = dot("ts,tm->sm", scores_with_bonus(levels, p), dy) + dot("tn,nm->tm", k_end, dstate)
    dr, dk, dlog_w = dyadic.descend(
        levels,
        dot("tm,sm->ts", dy, p.v),
        one_kind(dot("tm,nm->tn", dy, state)),
        one_kind(dot("tm,nm->tn", p.v, dstate)),
        total * dot("nm,nm->n", state, dstate)[..., None, None, :],
    )
    dr, dk, dlog_w = (x[..., 0, :, :] for x in (dr, dk, dlog_w))
    if chunk.cut is not None:
        dk = jnp.where(chunk.cut, 0, dk)
    bonus = jnp.sum(dy * p.v, axis=-1, keepdims=True)
    dstate = dot("tn,tm->nm", r_end, dy) + jnp.swapaxes(total[..., 0, :, :], -1, -2) * dstate
    timed = (dv, dr + p.u * p.k * bonus, dk + p.u * p.r * bonus)
    du = jnp.sum(p.r * p.k * bonus, axis=-2)
    if len(chunk.timed) == 4:
        return Gradients((*timed, dlog_w), (du,), dstate)
    if chunk.real is not None:
        dlog_w = jnp.where(chunk.real, dlog_w, 0)
    return Gradients(timed, (jnp.sum(dlog_w, axis=-2), du), dstate)


ALGEBRA = Algebra(forward, advance, backward)
