# SPDX-License-Identifier: Apache-2.0
"""Sequences of unequal length as padded batches.

A batch is {"x": [B, T, ...], "target": [B, T, ...], "weight": [B, T]}; weight 0 marks padding, and
steps that are input only. Batch-major, since the loop shards the leading axis; tasks transpose.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core import permute


def pad_length(longest: int, multiple: int) -> int:
    """The least multiple of `multiple` that is at least `longest`."""
    if longest < 1 or multiple < 1:
        raise ValueError(f"lengths must be at least 1, got {longest=} and {multiple=}")
    return -(-longest // multiple) * multiple


class Sequences:
    """Padded batches of stored sequences; see `core.data.Source`.

    The time axis of a batch is as long as its longest sequence, rounded up to a multiple of
    `multiple`: short batches are cheap, and few lengths are compiled.
    """

    def __init__(
        self,
        inputs: Sequence[np.ndarray],
        targets: Sequence[np.ndarray],
        weights: Sequence[np.ndarray] | None = None,
        *,
        seed: int | None = 0,
        multiple: int = 32,
        fixed_length: int = 0,
    ):
        """Stores sequences.

        Args:
          inputs, targets: arrays [T_i, ...] of each sequence.
          weights: [T_i] of each sequence; ones by default.
          seed: of the order; None keeps the given order.
          multiple: see the class.
          fixed_length: pad every batch to this length instead.

        Raises:
          ValueError: no sequences, an empty one, or unequal lengths of input and target.
        """
        if not inputs or len(inputs) != len(targets):
            raise ValueError(f"{len(inputs)} input and {len(targets)} target sequences")
        self.lengths = np.array([len(x) for x in inputs])
        others = np.array([len(y) for y in targets])
        wrong = np.flatnonzero((self.lengths != others) | (self.lengths < 1))
        if wrong.size:
            i = int(wrong[0])
            raise ValueError(f"sequence {i}: {self.lengths[i]} inputs and {others[i]} targets")
        if fixed_length and fixed_length < self.lengths.max():
            raise ValueError(f"{fixed_length=} is less than the longest, {self.lengths.max()}")
        self._inputs, self._targets = list(inputs), list(targets)
        ones = [np.ones(n, np.float32) for n in self.lengths]
        self._weights = list(weights) if weights is not None else ones
        self._seed, self._multiple, self._fixed = seed, multiple, fixed_length

    def __len__(self) -> int:
        return len(self._inputs)

    def get(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """See `core.data.Source.get`."""
        rows = permute.order(indices, len(self), self._seed)
        time = self._fixed or pad_length(int(self.lengths[rows].max()), self._multiple)
        return {
            "x": _stack([self._inputs[i] for i in rows], time),
            "target": _stack([self._targets[i] for i in rows], time),
            "weight": _stack([self._weights[i] for i in rows], time).astype(np.float32),
        }


def _stack(parts: list[np.ndarray], time: int) -> np.ndarray:
    out = np.zeros((len(parts), time, *parts[0].shape[1:]), parts[0].dtype)
    for row, part in zip(out, parts, strict=True):
        row[: len(part)] = part
    return out
