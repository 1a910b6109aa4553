# SPDX-License-Identifier: Apache-2.0
"""Named random streams: every random number is a function of (seed, name, step)."""

from __future__ import annotations

import zlib

import jax


def stable_hash(name: str) -> int:
    """A 32-bit hash that is the same in every process and version."""
    return zlib.crc32(name.encode())


def stream(seed: int, name: str) -> jax.Array:
    """The key of the stream `name`."""
    return jax.random.fold_in(jax.random.key(seed), stable_hash(name))


def at_step(key: jax.Array, step: jax.Array | int) -> jax.Array:
    """The key of one step of a stream."""
    return jax.random.fold_in(key, step)
