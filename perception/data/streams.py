# SPDX-License-Identifier: Apache-2.0
"""Randomness of procedural images: image k depends on (seed, names, k) and on nothing else.

Layouts draw scalars from a `random.Random` of the image (its `random()` is stable across versions
and twenty times quicker per scalar than a NumPy generator); bulk numbers come from `hashed`, a
counter-based hash that can be evaluated for many images at once and in any order.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from core import permute

T = TypeVar("T")
_ODD = np.uint64(0xD1342543DE82EF95)


def image_keys(seed: int, names: Sequence[int | str], indices: np.ndarray) -> np.ndarray:
    """One key per image: uint64 [n] for int `indices` [n] >= 0.

    Args:
      seed: of the data set.
      names: what the images belong to, for instance ("svrt", 1, "train").
      indices: number of each image within its split.
    """
    base = np.uint64(permute.derive_seed(seed, *names))
    return permute.mix64(np.asarray(indices, np.uint64).reshape(-1) * _ODD + base)


def child_keys(keys: np.ndarray, numbers: np.ndarray | int) -> np.ndarray:
    """Keys of numbered things within the owners of `keys` (broadcasts)."""
    numbers = np.atleast_1d(np.asarray(numbers, np.uint64))
    return permute.mix64(np.atleast_1d(keys) ^ permute.mix64(numbers * _ODD))


def hashed(keys: np.ndarray, counters: np.ndarray) -> np.ndarray:
    """uint64 hash of (key, counter) pairs; both uint64 arrays of one shape."""
    return permute.mix64(keys + counters * _ODD)


class Stream(random.Random):
    """The scalar random numbers of one image."""

    def __init__(self, key: int):
        """Args: key of the image."""
        super().__init__(int(key))

    def integer(self, low: int, high: int) -> int:
        """Uniform integer in [low, high], both included."""
        return low + int(self.random() * (high - low + 1))

    def real(self, low: float, high: float) -> float:
        """Uniform real in [low, high)."""
        return low + (high - low) * self.random()

    def angle(self) -> float:
        """Uniform angle in [0, 2 pi)."""
        return 2.0 * math.pi * self.random()

    def pick(self, items: Sequence[T]) -> T:
        """One of `items`."""
        return items[int(self.random() * len(items))]

    def coin(self, probability: float = 0.5) -> bool:
        """True with the given probability."""
        return self.random() < probability

    def order(self, n: int) -> list[int]:
        """A uniform permutation of 0 ... n-1."""
        numbers = list(range(n))
        for i in range(n - 1, 0, -1):
            j = self.integer(0, i)
            numbers[i], numbers[j] = numbers[j], numbers[i]
        return numbers
