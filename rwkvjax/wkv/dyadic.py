# SPDX-License-Identifier: Apache-2.0
"""Decayed products within one chunk by recursive halving, exact at any decay.

A linear recurrence whose state decays by w[t] per key channel needs, for all steps s < t of a
chunk, the scores

    A[t, s] = sum_n q[t] k[s] prod_{s<j<t} w[j]

With a decay per channel the product does not factor out of the sum, and writing it as F[t] / F[s]
overflows. Recursive halving never divides: at level b (1, 2, 4, ... L/2) the steps form blocks of
b, and an odd block (the upper half of a pair) meets the even block before it (the lower half) at
their common border,

    A[t, s] = (q[t] F_b[t]) (k[s] R_b[s])

    F_b[t] = product of w from the start of t's block up to and excluding t
    R_b[s] = product of w from s, excluded, to the end of s's block

so every factor is a plain product of decays. Going up one level, F of the upper half is
multiplied by the total decay of the lower half, and R of the lower half by that of the upper.
The gradient of log w is the transpose of the same tree: sums only, no difference of large sums.
Hence a decay of exactly zero is as good as any other, which is how document borders are made.

Arrays here: q [..., Q, L, N] and k [..., K, L, N], Q kinds of queries and K kinds of keys that
share the decays w [..., 1, L, N].
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rwkvjax.wkv.common import PRECISION


class Levels(NamedTuple):
    """What each level needs, from blocks of one step (index 0) to the whole chunk (last)."""

    q: list[jax.Array]  # q F_b, each [..., Q, L, N]
    k: list[jax.Array]  # k R_b, each [..., K, L, N]
    total: list[jax.Array]  # product of w over each block, [..., 1, L / b, N]


def dot(equation: str, left: jax.Array, right: jax.Array) -> jax.Array:
    """einsum at full precision; `equation` without the leading axes."""
    operands, out = equation.split("->")
    one, two = operands.split(",")
    return jnp.einsum(f"...{one},...{two}->...{out}", left, right, precision=PRECISION)


def pairs(x: jax.Array, size: int) -> jax.Array:
    """[..., L, N] -> [..., pair, half, size, N] for blocks of `size` steps."""
    return x.reshape(*x.shape[:-2], x.shape[-2] // (2 * size), 2, size, x.shape[-1])


def rows(x: jax.Array) -> jax.Array:
    """[..., K, L, N] -> [..., K L, N]."""
    return x.reshape(*x.shape[:-3], x.shape[-3] * x.shape[-2], x.shape[-1])


def scale_half(x: jax.Array, total: jax.Array, size: int, *, upper: bool) -> jax.Array:
    """Multiplies each upper half by the total of its lower half, or the reverse.

    A full product with ones in the other half vectorises better than slicing and joining.
    """
    total = pairs(total, 1)
    other = total[..., :1, :, :] if upper else total[..., 1:, :, :]
    mine = np.array([[[False]], [[True]]] if upper else [[[True]], [[False]]])
    out = pairs(x, size) * jnp.where(mine, other, 1)
    return out.reshape(*out.shape[:-4], x.shape[-2], x.shape[-1])


def products(w: jax.Array) -> list[jax.Array]:
    """Products of w [..., L, N] over blocks of 1, 2, 4, ... L steps, each [..., L / b, N]."""
    out = [w]
    while out[-1].shape[-2] > 1:
        halves = pairs(out[-1], 1)
        out.append((halves[..., 0, :, :] * halves[..., 1, :, :])[..., 0, :])
    return out


def expand(q: jax.Array, k: jax.Array, totals: list[jax.Array]) -> Levels:
    """All levels of one chunk, by doubling; `totals` as made by `products`."""
    levels = Levels([q], [k], totals)
    for level, total in enumerate(totals[:-1]):
        levels.q.append(scale_half(levels.q[-1], total, 1 << level, upper=True))
        levels.k.append(scale_half(levels.k[-1], total, 1 << level, upper=False))
    return levels


def decay_to_end(k: jax.Array, totals: list[jax.Array]) -> jax.Array:
    """The last level of k alone."""
    for level, total in enumerate(totals[:-1]):
        k = scale_half(k, total, 1 << level, upper=False)
    return k


def level_masks(length: int) -> list[np.ndarray]:
    """For each level the [L, L] pairs (t, s) it owns: t in an odd block, s in the one before."""
    t, s = np.arange(length)[:, None], np.arange(length)[None, :]
    sizes = [1 << level for level in range(length.bit_length() - 1)]
    return [(t // b % 2 == 1) & (s // b == t // b - 1) for b in sizes]


def scores(levels: Levels) -> jax.Array:
    """A [..., Q L, K L]; zero unless s < t."""
    queries, length = levels.q[0].shape[-3:-1]
    keys = levels.k[0].shape[-3]
    out = jnp.zeros((), levels.q[0].dtype)
    # Whole products under a mask: at these sizes faster than many small blocks.
    for mask, q, k in zip(level_masks(length), levels.q[:-1], levels.k[:-1], strict=True):
        mask = np.tile(mask, (queries, keys))
        out = out + jnp.where(mask, dot("tn,sn->ts", rows(q), rows(k)), 0)
    leading = jnp.broadcast_shapes(levels.q[0].shape[:-3], levels.k[0].shape[:-3])
    return jnp.broadcast_to(out, (*leading, queries * length, keys * length))


def descend(
    levels: Levels, da: jax.Array, dq: jax.Array, dk: jax.Array, dlog: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Takes gradients at the level of the whole chunk down to single steps, adding those of A.

    Args:
      levels: from `expand`.
      da: gradient of A [..., Q L, K L]; entries outside s < t are ignored.
      dq, dk: gradients of q F and k R of the whole chunk, like q and k.
      dlog: gradient of the log of the chunk's total decay [..., 1, 1, N].

    Returns:
      Gradients of q and k, and of log w of every step [..., 1, L, N].
    """
    length = dq.shape[-2]
    da_transposed = jnp.swapaxes(da, -1, -2)
    masks = level_masks(length)
    for level in reversed(range(len(masks))):
        size = 1 << level
        # F of the upper half holds the lower half's total as a factor, R of the lower half the
        # upper's: those factors' log gradients join what the whole pair already owes.
        of_lower = jnp.sum(pairs(levels.q[level + 1] * dq, size)[..., 1, :, :], axis=-2)
        of_upper = jnp.sum(pairs(levels.k[level + 1] * dk, size)[..., 0, :, :], axis=-2)
        of_lower, of_upper = (x.sum(axis=-3, keepdims=True) for x in (of_lower, of_upper))
        dlog = jnp.stack([dlog + of_lower, dlog + of_upper], axis=-2)
        dlog = dlog.reshape(*dlog.shape[:-3], -1, dlog.shape[-1])
        total = levels.total[level]
        mask = np.tile(masks[level], (dq.shape[-3], dk.shape[-3]))
        from_a = dot("ts,sn->tn", jnp.where(mask, da, 0), rows(levels.k[level]))
        dq = scale_half(dq, total, size, upper=True) + from_a.reshape(dq.shape)
        from_a = dot("st,tn->sn", jnp.where(mask.T, da_transposed, 0), rows(levels.q[level]))
        dk = scale_half(dk, total, size, upper=False) + from_a.reshape(dk.shape)
    return dq, dk, dlog
