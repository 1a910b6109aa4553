# SPDX-License-Identifier: Apache-2.0
"""Seeded permutations of [0, n) in O(1) memory.

Shuffling a data set of billions of windows must not need an array of billions of indices, and any
host must be able to ask "which example comes at position i of epoch e?" for any i. Both follow
from a keyed bijection of [0, n) that is evaluated only where it is needed:

  write x = left * b + right with left in [0, a), right in [0, b), a = ceil(sqrt n), b = ceil(n/a);
  each round adds a hash of one half to the other half, modulo a or b (a Feistel network);
  as a * b can exceed n, positions that land in [n, a * b) are sent through the network again
  ("cycle walking") until they land in [0, n).

Every round is invertible, so the network is a bijection of [0, a * b), and cycle walking turns it
into one of [0, n). J. Black, P. Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002.
As a * b - n < a, fewer than one position in sqrt(n) walks at all.

The hash is the finaliser of SplitMix64 (G. Steele et al., "Fast splittable pseudorandom number
generators", OOPSLA 2014). It is not meant to resist an attacker.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np

ROUNDS = 8
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIER_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = np.uint64(0x94D049BB133111EB)

# One more bit and a * b, the size of the network's domain, could pass the largest int64.
MAX_SIZE = 1 << 62


def derive_seed(seed: int, *names: int | str) -> int:
    """A seed in [0, 2**63) for the part of a program called `names`; equal on every machine."""
    digest = hashlib.blake2b(digest_size=8)
    for part in (seed, *names):
        text = repr(part) if isinstance(part, str) else repr(int(part))
        digest.update(text.encode() + b"\0")
    return int.from_bytes(digest.digest(), "little") >> 1


def mix64(values: np.ndarray) -> np.ndarray:
    """SplitMix64 of uint64 `values` (any shape but scalar, whose overflow NumPy warns about)."""
    values = values + _GOLDEN
    values = (values ^ (values >> np.uint64(30))) * _MULTIPLIER_1
    values = (values ^ (values >> np.uint64(27))) * _MULTIPLIER_2
    return values ^ (values >> np.uint64(31))


def permute(
    positions: np.ndarray, size: int, seed: int, epochs: np.ndarray | int = 0
) -> np.ndarray:
    """Where a seeded permutation of [0, size) sends `positions`.

    Args:
      positions: int array, any shape, values in [0, size).
      size: number of elements n, 1 <= n <= 2**62.
      seed: any int; each seed gives another permutation.
      epochs: int array that broadcasts against `positions`, or one int, values >= 0; each epoch
        gives another permutation.

    Returns:
      int64 array of the shape of `positions`; for fixed (size, seed, epoch) a bijection.

    Raises:
      ValueError: a size or a position out of range.
      TypeError: positions or epochs that are not integers.
    """
    values, keys, shape = _prepare(positions, size, seed, epochs)
    return _walk(values, keys, size, _encrypt).astype(np.int64).reshape(shape)


def unpermute(images: np.ndarray, size: int, seed: int, epochs: np.ndarray | int = 0) -> np.ndarray:
    """Inverse of `permute`: the positions that are sent to `images`. Same arguments and errors."""
    values, keys, shape = _prepare(images, size, seed, epochs)
    return _walk(values, keys, size, _decrypt).astype(np.int64).reshape(shape)


def shuffled(indices: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Endless reshuffled epochs: global index g -> element permute(g mod size), epoch g // size.

    Args:
      indices: int64 array, any shape, values >= 0 without upper bound.
      size: elements in one epoch.
      seed: any int.

    Returns:
      int64 array of the shape of `indices`, values in [0, size); each run of `size` global
      indices that starts at a multiple of `size` holds every element once.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    indices = np.asarray(indices)
    return permute(indices % size, size, seed, epochs=indices // size)


def order(indices: np.ndarray, size: int, seed: int | None) -> np.ndarray:
    """Elements at the positions `indices` of an endless stream of epochs.

    Args:
      indices: int64 array, any shape, values >= 0 without upper bound.
      size: elements in one epoch.
      seed: of epochs that are shuffled anew, see `shuffled`; None keeps the given order.

    Returns:
      int64 array of the shape of `indices`, values in [0, size).

    Raises:
      ValueError: a negative index.
    """
    indices = np.asarray(indices, np.int64)
    if indices.size and indices.min() < 0:
        raise ValueError(f"indices must not be negative, got {indices.min()}")
    return indices % size if seed is None else shuffled(indices, size, seed)


def _prepare(
    values: np.ndarray, size: int, seed: int, epochs: np.ndarray | int
) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Checks the input; returns uint64 values [n], keys [rounds, n] or [rounds, 1], and a shape."""
    if not 1 <= size <= MAX_SIZE:
        raise ValueError(f"size must be between 1 and 2**62, got {size}")
    values, epochs = np.asarray(values), np.asarray(epochs)
    for name, array in (("positions", values), ("epochs", epochs)):
        if array.size and not np.issubdtype(array.dtype, np.integer):
            raise TypeError(f"{name} must be integers, got dtype {array.dtype}")
    if values.size and not (0 <= int(values.min()) and int(values.max()) < size):
        raise ValueError(
            f"positions must be in [0, {size}), got values from {values.min()} to {values.max()}"
        )
    if epochs.size and int(epochs.min()) < 0:
        raise ValueError(f"epochs must not be negative, got {epochs.min()}")
    if epochs.ndim:
        epochs = np.broadcast_to(epochs, values.shape)
    flat_epochs = epochs.reshape(-1).astype(np.uint64)
    base = mix64(flat_epochs ^ np.uint64(derive_seed(seed, "permute")))
    rounds = np.arange(1, ROUNDS + 1, dtype=np.uint64)[:, None] * _GOLDEN
    return values.reshape(-1).astype(np.uint64), mix64(base[None, :] + rounds), values.shape


def _halves(size: int) -> tuple[np.ndarray, np.ndarray]:
    a = math.isqrt(size - 1) + 1
    return np.array([a], np.uint64), np.array([-(-size // a)], np.uint64)


def _encrypt(values: np.ndarray, keys: np.ndarray, size: int) -> np.ndarray:
    a, b = _halves(size)
    left, right = values // b, values % b
    for index, key in enumerate(keys):
        if index % 2:
            right = (right + mix64(left + key) % b) % b
        else:
            left = (left + mix64(right + key) % a) % a
    return left * b + right


def _decrypt(values: np.ndarray, keys: np.ndarray, size: int) -> np.ndarray:
    a, b = _halves(size)
    left, right = values // b, values % b
    for index in reversed(range(len(keys))):
        if index % 2:
            right = (right + (b - mix64(left + keys[index]) % b)) % b
        else:
            left = (left + (a - mix64(right + keys[index]) % a)) % a
    return left * b + right


def _walk(values: np.ndarray, keys: np.ndarray, size: int, network) -> np.ndarray:
    values = network(values, keys, size)
    outside = np.flatnonzero(values >= size)
    while outside.size:
        chosen = keys if keys.shape[1] == 1 else keys[:, outside]
        values[outside] = network(values[outside], chosen, size)
        outside = outside[values[outside] >= size]
    return values
