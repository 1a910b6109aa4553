# SPDX-License-Identifier: Apache-2.0
"""Products of activations with matrices of narrow storage (8 or 4 bits, bfloat16) on a CPU.

Decoding reads every weight once per token, so narrow weights should be faster in proportion. On a
CPU XLA's own dot of converted weights is up to thirty times slower than the float32 dot instead:
the conversion keeps it from a vectorised loop. Three forms stay fast:

rows (one or two rows of x): the sum over I is cut into J stretches of L = I/J. A product of each
stretch is written out, so that the whole is one elementwise loop over [L, O], which XLA vectorises
and spreads over threads; the L partial sums are joined by a product with ones. Each of the J
streams is read from end to end, which is up to 2.4 times as fast as J neighbouring rows at once.

    p[l, o] = sum_{j < J} x[jL + l] W[jL + l, o]            y[o] = sum_l p[l, o]

With scales of groups the J products are those of neighbouring rows, p[l, o] over x[lJ + j], so that
each partial sum has one scale.

blocks (up to `MOST_ROWS` rows): a loop over stretches of K rows of W widens one stretch at a time,
which stays in the cache, and multiplies by it with the ordinary dot.

halves (more rows, float32, a CPU with bfloat16 matrix units): x = h + l + e with bfloat16 h, l and
|e| <= 2^-17 |x|, and y = h W + l W, both products of the units, summed in float32.

Dimensions: R rows of x, I inputs, O outputs, S rows of the stored array, P inputs that a stored
element holds (2 for 4 bits), G groups of inputs with a scale each.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from core import hardware

# Stored array -> P arrays of its shape, float32; must be elementwise.
Widen = Callable[[jax.Array], tuple[jax.Array, ...]]

FEW_ROWS = 2
MOST_ROWS = 32
_PRODUCTS = 16  # J
_BLOCK = 128
_LARGE = 2**20


def as_stored(stored: jax.Array) -> tuple[jax.Array]:
    """float32 as it is."""
    return (stored,)


def bfloat16_bits(stored: jax.Array) -> tuple[jax.Array]:
    """uint16 bit patterns of bfloat16 numbers, as float32."""
    wide = jnp.left_shift(stored.astype(jnp.uint32), 16)
    return (jax.lax.bitcast_convert_type(wide, jnp.float32),)


def eight_bits(stored: jax.Array) -> tuple[jax.Array]:
    """int8 as float32."""
    return (stored.astype(jnp.float32),)


def four_bits(stored: jax.Array) -> tuple[jax.Array, jax.Array]:
    """uint8 with two signed halves as (low, high), float32."""
    # In 32 bits: shifts of bytes are not vectorised. (x ^ 8) - 8 extends the sign of four bits.
    wide = stored.astype(jnp.int32)
    signed = lambda half: (jnp.bitwise_xor(half, 8) - 8).astype(jnp.float32)
    return signed(jnp.bitwise_and(wide, 15)), signed(jnp.right_shift(wide, 4))


def applies(x: jax.Array, stored: jax.Array) -> bool:
    """Whether `multiply` is meant for this product: a CPU, few rows, and rows that can be cut."""
    rows = math.prod(x.shape[:-1])
    return (
        jax.default_backend() == "cpu"
        and 0 < rows <= MOST_ROWS
        and x.dtype in (jnp.float32, jnp.bfloat16)
        and stored.shape[-2] % _PRODUCTS == 0
    )


def beats_dot(x: jax.Array, weight: jax.Array) -> bool:
    """Whether `multiply` is faster than XLA's float32 dot: a large, tall matrix (by a quarter)."""
    return (
        weight.ndim == 2
        and x.dtype == weight.dtype == jnp.float32
        and math.prod(x.shape[:-1]) <= FEW_ROWS
        and weight.shape[0] >= 2 * weight.shape[1]
        and weight.size >= _LARGE
        and applies(x, weight)
    )


@functools.partial(jax.jit, static_argnames="widen")
def multiply(x: jax.Array, stored: jax.Array, scale: jax.Array | None, widen: Widen) -> jax.Array:
    """x [..., I] @ W [I, O] -> [..., O], in the dtype of x, summed in float32.

    Args:
      x: activations.
      stored: [S, O]; `widen` makes P float32 arrays of it, the p-th of which is the rows
        p S ... (p+1) S - 1 of W (before scaling).
      scale: [G, O] or None; group g of W's rows is multiplied by scale[g]. G must divide I, and
        the P pieces must hold whole groups unless G is 1.
      widen: one of the functions above.
    """
    lead, rows = x.shape[:-1], x.reshape(-1, x.shape[-1]).astype(jnp.float32)
    scale = None if scale is None else scale.astype(jnp.float32)
    after, within = (scale, None) if scale is None or len(scale) == 1 else (None, scale)
    group = None if within is None else x.shape[-1] // len(within)
    if len(rows) <= FEW_ROWS and (group is None or group % _PRODUCTS == 0):
        y = jnp.stack([_row(row, stored, within, widen) for row in rows])
    else:
        y = _blocks(rows, stored, within, widen)
    y = y if after is None else y * after[0]
    return y.reshape(*lead, -1).astype(x.dtype)


def _row(x: jax.Array, stored: jax.Array, scale: jax.Array | None, widen: Widen) -> jax.Array:
    """One row x [I] -> [O]; the groups of `scale` hold whole runs of neighbours."""
    sums, columns = stored.shape[0] // _PRODUCTS, stored.shape[1]
    # The j-th slice of every piece: a stretch, or (a transposed copy would cost more than the
    # product) the j-th of each run of neighbours.
    if scale is None:
        cut, pieces = stored.reshape(_PRODUCTS, sums, columns), x.reshape(-1, _PRODUCTS, sums)
        weights_of, inputs_of = lambda j: cut[j], lambda j: pieces[:, j]
    else:
        cut, pieces = stored.reshape(sums, _PRODUCTS, columns), x.reshape(-1, sums, _PRODUCTS)
        weights_of, inputs_of = lambda j: cut[:, j], lambda j: pieces[:, :, j]
    partial: list[jax.Array] = [jnp.zeros((sums, columns))] * len(pieces)
    for j in range(_PRODUCTS):
        for p, weights in enumerate(widen(weights_of(j))):
            partial[p] = partial[p] + inputs_of(j)[p, :, None] * weights
    if scale is not None:
        factors = scale.reshape(len(pieces), -1, 1, columns)
        repeated = jnp.broadcast_to(
            factors, (*factors.shape[:2], sums // factors.shape[1], columns)
        ).reshape(len(pieces), sums, columns)
        partial = [repeated[p] * part for p, part in enumerate(partial)]
    total = functools.reduce(jnp.add, partial)
    return (jnp.ones((1, sums)) @ total)[0]


def _blocks(x: jax.Array, stored: jax.Array, scale: jax.Array | None, widen: Widen) -> jax.Array:
    """Rows x [R, I] -> [R, O]."""
    length, columns = stored.shape
    count = x.shape[-1] // length  # P
    groups = 1 if scale is None else len(scale) // count  # of one piece
    block = math.gcd(_BLOCK, length)
    if (length // groups) % block and block % (length // groups):
        block = math.gcd(block, length // groups)
    pieces = x.reshape(len(x), count, length)
    scales = None if scale is None else scale.reshape(count, groups, columns)
    share = max(1, groups * block // length)  # groups within a block

    def body(i: jax.Array, total: jax.Array) -> jax.Array:
        part = jax.lax.dynamic_slice_in_dim(stored, i * block, block)
        inputs = jax.lax.dynamic_slice_in_dim(pieces, i * block, block, axis=2)
        for p, weights in enumerate(widen(part)):
            if scales is not None:
                first = i * block * groups // length
                factor = jax.lax.dynamic_slice_in_dim(scales[p], first, share)
                weights = weights.reshape(share, -1, columns) * factor[:, None]
                weights = weights.reshape(block, columns)
            # The barrier keeps the conversion out of the dot, which would no longer be vectorised.
            total = total + inputs[:, p] @ jax.lax.optimization_barrier(weights)
        return total

    return jax.lax.fori_loop(0, length // block, body, jnp.zeros((len(x), columns)))


def many_rows(x: jax.Array, weight: jax.Array) -> jax.Array:
    """x [..., I] @ W [I, O] -> [..., O] in the dtype of x, for any number of rows.

    Args:
      x: activations.
      weight: numbers that bfloat16 holds exactly (bfloat16, int8).
    """
    if jax.default_backend() != "cpu":
        return x @ weight.astype(x.dtype)
    if hardware.cpu_has_bfloat16_units():
        if x.dtype == jnp.float32:
            return in_halves(x, weight)
        if x.dtype == jnp.bfloat16:
            return _units(x, weight).astype(x.dtype)
    return _widened(x, weight)


def _widened(x: jax.Array, weight: jax.Array) -> jax.Array:
    # As one step: fused into the product, the conversion would slow it down.
    return x @ jax.lax.optimization_barrier(weight.astype(x.dtype))


def _units(x: jax.Array, weight: jax.Array) -> jax.Array:
    weight = jax.lax.optimization_barrier(weight.astype(jnp.bfloat16))
    return jnp.matmul(x, weight, preferred_element_type=jnp.float32)


@jax.custom_jvp
def in_halves(x: jax.Array, weight: jax.Array) -> jax.Array:
    """The product of `many_rows` by bfloat16 matrix units: float32 x [..., I], W [I, O].

    The weights are constants: stored narrow, they have no gradient. Activations beyond bfloat16's
    range (3.39e38) count as infinite.
    """
    # reduce_precision, as XLA may leave out a conversion to bfloat16 and back.
    high = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
    low = jnp.where(jnp.isfinite(high), x - high, 0)  # beyond the range: infinity, not NaN
    halves = (high.astype(jnp.bfloat16), low.astype(jnp.bfloat16))
    products = [_units(half, weight) for half in jax.lax.optimization_barrier(halves)]
    high_product, low_product = jax.lax.optimization_barrier(products)
    return high_product + low_product


@in_halves.defjvp
def _in_halves_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    (x, weight), (change, _) = primals, tangents
    return in_halves(x, weight), _widened(change, weight)
