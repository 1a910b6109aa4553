# SPDX-License-Identifier: Apache-2.0
"""One chunk of the RWKV-5/6 recurrence in parallel, exact at any decay.

Within a chunk of L = 2^m steps the output is y = A v + (r F) S, where
A[t, s] = sum_n r[t] k[s] prod_{s<j<t} w[j] for s < t. With a decay per channel the product does
not factor out of the sum, and factoring it as F[t] / F[s] overflows. Recursive halving never
divides: at level b (1, 2, 4, ... L/2) the steps form blocks of b, and an odd block (the upper
half of a pair) meets the even block before it (the lower half) at their common border,

    A[t, s] = (r[t] F_b[t]) (k[s] R_b[s])

    F_b[t] = product of w from the start of t's block up to and excluding t
    R_b[s] = product of w from s, excluded, to the end of s's block

so every factor is a plain product of decays. Going up one level, F of the upper half is
multiplied by the total decay of the lower half, and R of the lower half by that of the upper.
The gradient of log w is the transpose of the same tree: sums only, no difference of large sums.
Hence a decay of exactly zero is as good as any other, which is how document borders are made.

Arrays here: r, k, w [..., L, N]; v [..., L, M]; state [..., N, M]; u broadcasts against r;
`cut` is None or a boolean [..., L, 1], True on the last step of a document: there w is 0 and the
key does not enter the state, though it still meets its own value through the bonus u.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rwkvjax.wkv.common import PRECISION


class Levels(NamedTuple):
    """What each level needs, from blocks of one step (index 0) to the whole chunk (last)."""

    r: list[jax.Array]  # r F_b, each [..., L, N]
    k: list[jax.Array]  # k R_b, each [..., L, N]
    total: list[jax.Array]  # product of w over each block, [..., L / b, N]


def dot(equation: str, left: jax.Array, right: jax.Array) -> jax.Array:
    """einsum at full precision; `equation` without the leading axes."""
    one, two = equation.split("->")[0].split(",")
    out = equation.split("->")[1]
    return jnp.einsum(f"...{one},...{two}->...{out}", left, right, precision=PRECISION)


def pairs(x: jax.Array, size: int) -> jax.Array:
    """[..., L, N] -> [..., pair, half, size, N] for blocks of `size` steps."""
    return x.reshape(*x.shape[:-2], x.shape[-2] // (2 * size), 2, size, x.shape[-1])


def scale_half(x: jax.Array, total: jax.Array, size: int, *, upper: bool) -> jax.Array:
    """Multiplies each upper half by the total of its lower half, or the reverse.

    A full product with ones in the other half vectorises better than slicing and joining.
    """
    total = pairs(total, 1)
    other = total[..., :1, :, :] if upper else total[..., 1:, :, :]
    mine = np.array([[[False]], [[True]]] if upper else [[[True]], [[False]]])
    out = pairs(x, size) * jnp.where(mine, other, 1)
    return out.reshape(*out.shape[:-4], x.shape[-2], x.shape[-1])


def double(total: jax.Array) -> jax.Array:
    """Totals of blocks twice the size."""
    halves = pairs(total, 1)
    return (halves[..., 0, :, :] * halves[..., 1, :, :])[..., 0, :]


def cut_key(k: jax.Array, w: jax.Array, cut: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """The key and the decay as the state sees them: zero on the last step of a document."""
    if cut is None:
        return k, w
    return jnp.where(cut, 0, k), jnp.where(cut, 0, w)


def expand(r: jax.Array, k: jax.Array, w: jax.Array) -> Levels:
    """All levels of one chunk, by doubling."""
    levels = Levels([r], [k], [w])
    size = 1
    while size < r.shape[-2]:
        total = levels.total[-1]
        levels.r.append(scale_half(levels.r[-1], total, size, upper=True))
        levels.k.append(scale_half(levels.k[-1], total, size, upper=False))
        levels.total.append(double(total))
        size *= 2
    return levels


def level_masks(length: int) -> list[np.ndarray]:
    """For each level the [L, L] pairs (t, s) it owns: t in an odd block, s in the one before."""
    t, s = np.arange(length)[:, None], np.arange(length)[None, :]
    sizes = [1 << level for level in range(length.bit_length() - 1)]
    return [(t // b % 2 == 1) & (s // b == t // b - 1) for b in sizes]


def scores(levels: Levels, bonus: jax.Array) -> jax.Array:
    """A [..., L, L], with `bonus` = sum(r u k) [..., L] on the diagonal."""
    length = bonus.shape[-1]
    out = jnp.where(np.eye(length, dtype=bool), bonus[..., None], 0)
    # Whole products under a mask: at these sizes faster than many small blocks.
    for mask, r, k in zip(level_masks(length), levels.r[:-1], levels.k[:-1], strict=True):
        out = out + jnp.where(mask, dot("tn,sn->ts", r, k), 0)
    return out


def next_state(k: jax.Array, v: jax.Array, total: jax.Array, state: jax.Array) -> jax.Array:
    """The state after a chunk; k decayed to its end, total [..., 1, N]."""
    return jnp.swapaxes(total, -1, -2) * state + dot("tn,tm->nm", k, v)


def advance_chunk(
    k: jax.Array, v: jax.Array, w: jax.Array, state: jax.Array, cut: jax.Array | None
) -> jax.Array:
    """The state after one chunk."""
    k, total = cut_key(k, w, cut)
    size = 1
    while size < k.shape[-2]:
        k, total, size = scale_half(k, total, size, upper=False), double(total), 2 * size
    return next_state(k, v, total, state)


def forward_chunk(
    r: jax.Array,
    k: jax.Array,
    v: jax.Array,
    w: jax.Array,
    u: jax.Array,
    state: jax.Array,
    cut: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """Output [..., L, M] of one chunk and the state after it."""
    levels = expand(r, *cut_key(k, w, cut))
    y = dot("ts,sm->tm", scores(levels, jnp.sum(r * u * k, axis=-1)), v)
    y = y + dot("tn,nm->tm", levels.r[-1], state)
    return y, next_state(levels.k[-1], v, levels.total[-1], state)


class ChunkGradients(NamedTuple):
    """Gradients of one chunk; shapes of the arguments, `log_w` and `u` per step ([..., L, N])."""

    r: jax.Array
    k: jax.Array
    v: jax.Array
    log_w: jax.Array
    u: jax.Array
    state: jax.Array


def backward_chunk(
    r: jax.Array,
    k: jax.Array,
    v: jax.Array,
    w: jax.Array,
    u: jax.Array,
    state: jax.Array,
    cut: jax.Array | None,
    dy: jax.Array,
    dstate: jax.Array,
) -> ChunkGradients:
    """Transpose of `forward_chunk` at cotangents dy [..., L, M] and dstate [..., N, M]."""
    levels = expand(r, *cut_key(k, w, cut))
    a = scores(levels, jnp.sum(r * u * k, axis=-1))
    dv = dot("ts,tm->sm", a, dy) + dot("tn,nm->tm", levels.k[-1], dstate)
    total = levels.total[-1]
    # Gradients of r F and k R at the level of the whole chunk, and of log(total).
    dr = dot("tm,nm->tn", dy, state)
    dk = dot("tm,nm->tn", v, dstate)
    dlog = total * dot("nm,nm->n", state, dstate)[..., None, :]
    dr, dk, dlog = descend(levels, dot("tm,sm->ts", dy, v), dr, dk, dlog)
    if cut is not None:
        dk = jnp.where(cut, 0, dk)
    dbonus = jnp.sum(dy * v, axis=-1, keepdims=True)
    return ChunkGradients(
        r=dr + u * k * dbonus,
        k=dk + u * r * dbonus,
        v=dv,
        log_w=dlog,
        u=r * k * dbonus,
        state=dot("tn,tm->nm", levels.r[-1], dy) + jnp.swapaxes(total, -1, -2) * dstate,
    )


def descend(
    levels: Levels, da: jax.Array, dr: jax.Array, dk: jax.Array, dlog: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Takes the gradients of the top level down to single steps.

    Args:
      levels: from `expand`.
      da: gradient of A [..., L, L].
      dr, dk: gradients of r F and k R of the whole chunk [..., L, N].
      dlog: gradient of the log of its total decay [..., 1, N].

    Returns:
      Gradients of r and k [..., L, N], and of log w of every step [..., L, N].
    """
    length = da.shape[-1]
    da_transposed = jnp.swapaxes(da, -1, -2)
    masks = level_masks(length)
    for level in reversed(range(len(masks))):
        size = 1 << level
        # F of the upper half holds the lower half's total as a factor, R of the lower half the
        # upper's: those factors' log gradients join what the whole pair already owes.
        of_lower = jnp.sum(pairs(levels.r[level + 1] * dr, size)[..., 1, :, :], axis=-2)
        of_upper = jnp.sum(pairs(levels.k[level + 1] * dk, size)[..., 0, :, :], axis=-2)
        dlog = jnp.stack([dlog + of_lower, dlog + of_upper], axis=-2)
        dlog = dlog.reshape(*dlog.shape[:-3], -1, dlog.shape[-1])
        mask, total = masks[level], levels.total[level]
        dr = scale_half(dr, total, size, upper=True)
        dr = dr + dot("ts,sn->tn", jnp.where(mask, da, 0), levels.k[level])
        dk = scale_half(dk, total, size, upper=False)
        dk = dk + dot("st,tn->sn", jnp.where(mask.T, da_transposed, 0), levels.r[level])
    return dr, dk, dlog
