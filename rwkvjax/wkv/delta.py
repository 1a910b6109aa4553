# SPDX-License-Identifier: Apache-2.0
"""One chunk of the RWKV-7 recurrence in parallel.

With the key-first state X = S^T and b = kappa * a, a step adds two outer products,

    X_t = diag(w_t) X_{t-1} + k_t^T v_t + b_t^T z_t        z_t = -kappa_t X_{t-1}
    y_t = r_t X_t

so within a chunk it is a linear recurrence with keys [k; b] and values [v; z], where z depends on
the steps before. Written for all steps of a chunk at once, with the scores of `dyadic`,

    (I + A[kappa, b]) z = -((kappa F) X + A[kappa, k] v)

a unit lower triangular system (the WY or UT transform), and then

    y = ((r w) F) X + A[r w, k] v + A[r w, b] z + diag(r k) v + diag(r b) z
    X_after = diag(W) X + (k R)^T v + (b R)^T z

The query r w because the output reads the state after the step's own decay. `cut` marks the last
step of a document: for later steps its decay is 0 and its keys are absent.

Arrays of a chunk: r, w, k, kappa, a [B, H, L, N], v [B, H, L, M], state [B, H, N, M].
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rwkvjax.wkv import dyadic
from rwkvjax.wkv.chunked import Algebra, Chunk, Gradients
from rwkvjax.wkv.dyadic import dot


class Parts(NamedTuple):
    """The arguments of a chunk by name."""

    v: jax.Array
    r: jax.Array
    w: jax.Array
    k: jax.Array
    kappa: jax.Array
    a: jax.Array
    keys: jax.Array  # [k; b], [B, H, 2, L, N]


class Solved(NamedTuple):
    """What the forward and the backward pass both need."""

    levels: dyadic.Levels  # queries [r w; kappa], keys [k; b]
    scores: jax.Array  # [B, H, 2 L, 2 L]
    inverse: jax.Array  # of I + A[kappa, b], [B, H, L, L]
    values: jax.Array  # [v; z], [B, H, 2 L, M]


def parts(chunk: Chunk) -> Parts:
    """Names the arguments."""
    v, r, w_log, k, kappa, a = chunk.timed
    return Parts(v, r, jnp.exp(w_log), k, kappa, a, jnp.stack([k, kappa * a], axis=-3))


def unit_lower_inverse(a: jax.Array) -> jax.Array:
    """(I + a)^-1 for strictly lower a [..., L, L], by halving: as stable as substitution.

    With D the inverse of the diagonal blocks of one size and C the blocks below within pairs, the
    inverse of the blocks of twice the size is D - D C D.
    """
    length = a.shape[-1]
    out = jnp.broadcast_to(jnp.eye(length, dtype=a.dtype), a.shape)
    for mask in dyadic.level_masks(length):
        below = dot("ts,su->tu", jnp.where(mask, a, 0), out)
        out = out - dot("ts,su->tu", out, below)
    return out


def solve(p: Parts, cut: jax.Array | None, state: jax.Array) -> Solved:
    """The levels and the values z of one chunk."""
    length = p.r.shape[-2]
    keys, w = p.keys, p.w
    if cut is not None:
        keys, w = jnp.where(cut[..., None, :, :], 0, keys), jnp.where(cut, 0, w)
    queries = jnp.stack([p.r * p.w, p.kappa], axis=-3)
    levels = dyadic.expand(queries, keys, dyadic.products(w[..., None, :, :]))
    scores = dyadic.scores(levels)
    inverse = unit_lower_inverse(scores[..., length:, length:])
    removed = dot("tn,nm->tm", levels.q[-1][..., 1, :, :], state)
    removed = removed + dot("ts,sm->tm", scores[..., length:, :length], p.v)
    z = -dot("ts,sm->tm", inverse, removed)
    return Solved(levels, scores, inverse, jnp.concatenate([p.v, z], axis=-2))


def own_scores(p: Parts) -> jax.Array:
    """r k and r b of every step, [B, H, 2, L, 1]: how a step reads its own two products."""
    return jnp.sum(p.r[..., None, :, :] * p.keys, axis=-1, keepdims=True)


def halves(x: jax.Array) -> jax.Array:
    """[..., 2 L, N] -> [..., 2, L, N]."""
    return x.reshape(*x.shape[:-2], 2, -1, x.shape[-1])


def next_state(s: Solved, state: jax.Array) -> jax.Array:
    """The state after the chunk."""
    total = jnp.swapaxes(s.levels.total[-1][..., 0, :, :], -1, -2)
    return total * state + dot("tn,tm->nm", dyadic.rows(s.levels.k[-1]), s.values)


def forward(chunk: Chunk, state: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Output of one chunk and the state after it."""
    p = parts(chunk)
    s = solve(p, chunk.cut, state)
    y = dot("tn,nm->tm", s.levels.q[-1][..., 0, :, :], state)
    y = y + dot("ts,sm->tm", s.scores[..., : p.r.shape[-2], :], s.values)
    y = y + jnp.sum(own_scores(p) * halves(s.values), axis=-3)
    return y, next_state(s, state)


def advance(chunk: Chunk, state: jax.Array) -> jax.Array:
    """The state after one chunk."""
    return next_state(solve(parts(chunk), chunk.cut, state), state)


def backward(chunk: Chunk, state: jax.Array, dy: jax.Array, dstate: jax.Array) -> Gradients:
    """Transpose of `forward`."""
    p = parts(chunk)
    s = solve(p, chunk.cut, state)
    length = p.r.shape[-2]
    total = s.levels.total[-1]
    dvalues = dot("ts,tm->sm", s.scores[..., :length, :], dy)
    dvalues = dvalues + dot("tn,nm->tm", dyadic.rows(s.levels.k[-1]), dstate)
    dvalues = halves(dvalues) + own_scores(p) * dy[..., None, :, :]
    # z solves (I + A) z = -removed: the adjoint system, whose solution also reads [v; z].
    dremoved = -dot("ts,tm->sm", s.inverse, dvalues[..., 1, :, :])
    dv = dvalues[..., 0, :, :] + dot("ts,tm->sm", s.scores[..., length:, :length], dremoved)
    readings = jnp.concatenate([dy, dremoved], axis=-2)  # gradients of what the queries read
    dq, dkeys, dlog_w = dyadic.descend(
        s.levels,
        dot("tm,sm->ts", readings, s.values),
        halves(dot("tm,nm->tn", readings, state)),
        halves(dot("tm,nm->tn", s.values, dstate)),
        total * dot("nm,nm->n", state, dstate)[..., None, None, :],
    )
    if chunk.cut is not None:
        dkeys = jnp.where(chunk.cut[..., None, :, :], 0, dkeys)
    dstate = dot("tn,tm->nm", dyadic.rows(s.levels.q[-1]), readings) + (
        jnp.swapaxes(total[..., 0, :, :], -1, -2) * dstate
    )
    down = jnp.sum(dy[..., None, :, :] * halves(s.values), axis=-1, keepdims=True)
    dkeys = dkeys + p.r[..., None, :, :] * down
    dr = dq[..., 0, :, :] * p.w
    db = dkeys[..., 1, :, :]
    timed = (
        dv,
        dr + jnp.sum(p.keys * down, axis=-3),
        dlog_w[..., 0, :, :] + p.r * dr,
        dkeys[..., 0, :, :],
        dq[..., 1, :, :] + p.a * db,
        p.kappa * db,
    )
    return Gradients(timed, (), dstate)


def step(
    state: jax.Array,
    v: jax.Array,
    r: jax.Array,
    w_log: jax.Array,
    k: jax.Array,
    kappa: jax.Array,
    a: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """One token on [B, H, N] arrays: (state, y)."""
    z = -dot("n,nm->m", kappa, state)
    state = jnp.exp(w_log)[..., None] * state
    state = state + k[..., None] * v[..., None, :] + (kappa * a)[..., None] * z[..., None, :]
    return state, dot("n,nm->m", r, state)


ALGEBRA = Algebra(forward, advance, backward)
# The triangular systems make a chunk dearer than its steps on a CPU; not so its derivative.
STEPWISE_FORWARD = ALGEBRA._replace(step=step)
