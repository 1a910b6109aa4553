# SPDX-License-Identifier: Apache-2.0
"""Random orthogonal matrices from matrix products alone.

LAPACK's QR is avoided on purpose: inside a jitted program on a CPU its threads and XLA's can wait
for each other for ever, and on accelerators it is slow. Block Gram-Schmidt over Gaussian columns,
with the polar factor (Newton-Schulz iteration) of each block, draws from the same uniform (Haar)
distribution, because every step commutes with rotations.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

_BLOCK = 32
_HIGHEST = jax.lax.Precision.HIGHEST


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=_HIGHEST)


def polar(x: jax.Array, tolerance: float = 1e-6, max_steps: int = 100) -> jax.Array:
    """The nearest matrix with orthonormal columns: x [m, n], m >= n, of full rank.

    A quintic iteration lifts small singular values quickly, the cubic one then converges
    quadratically to 1.
    """
    x = x / jnp.linalg.norm(x)
    eye = jnp.eye(x.shape[1], dtype=x.dtype)

    def lift(_: int, x: jax.Array) -> jax.Array:
        gram = _dot(x.T, x)
        return _dot(x, 3.4445 * eye - 4.7750 * gram + 2.0315 * _dot(gram, gram))

    def unfinished(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        _, error, step = carry
        return (error > tolerance) & (step < max_steps)

    def refine(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple:
        x, _, step = carry
        gram = _dot(x.T, x)
        error = jnp.abs(gram - eye).max()
        return _dot(x, 1.5 * eye - 0.5 * gram), error, step + 1

    x = jax.lax.fori_loop(0, 8, lift, x)
    start = (x, jnp.asarray(jnp.inf, x.dtype), jnp.asarray(0))
    return jax.lax.while_loop(unfinished, refine, start)[0]


def random_orthonormal(key: jax.Array, rows: int, cols: int) -> jax.Array:
    """A uniformly distributed matrix [rows, cols], rows >= cols, with orthonormal columns."""
    if rows < cols:
        raise ValueError(f"expected rows >= cols, got {rows=} {cols=}")
    gaussian = jax.random.normal(key, (rows, cols), jnp.float32)
    if cols <= _BLOCK:
        return polar(gaussian)
    columns = jnp.arange(cols)

    def add_block(i: jax.Array, q: jax.Array) -> jax.Array:
        # The last block overlaps the one before if the width is not a multiple; it starts afresh.
        start = jnp.minimum(i * _BLOCK, cols - _BLOCK)
        done = jnp.where(columns < start, q, 0)
        block = jax.lax.dynamic_slice_in_dim(gaussian, start, _BLOCK, axis=1)
        for _ in range(2):  # twice is enough
            block = block - _dot(done, _dot(done.T, block))
            block = polar(block)
        return jax.lax.dynamic_update_slice_in_dim(q, block, start, axis=1)

    return jax.lax.fori_loop(0, -(-cols // _BLOCK), add_block, jnp.zeros_like(gaussian))
