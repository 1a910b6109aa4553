# SPDX-License-Identifier: Apache-2.0
"""Multi-query associative recall (MQAR, arXiv 2312.04927): pairs first, questions later.

    k1 v1 k2 v2 ... kK vK  . . . k2 v2 . . . k7 v7 . .

The model sees K different key-value pairs, then every key once more, and has to name its value. The
gaps before the questions follow a power law; what lies between them is random. Only the values of
questions count in the loss.
"""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Recall:
    """A source of MQAR examples, see `rwkvjax.data.windows` for the arrays.

    Attributes:
      steps: T, predictions of an example.
      pairs: K, key-value pairs; 4 K must not exceed T.
      vocab_size: V; keys come from its lower half, values from its upper half.
      size: examples of an epoch.
      seed: of the examples; another seed gives other examples.
      power: exponent of the power law of the gaps; small: most questions come early.
    """

    steps: int
    pairs: int
    vocab_size: int = 8192
    size: int = 100_000
    seed: int = 0
    power: float = 0.01

    def __post_init__(self) -> None:
        if self.pairs < 1 or 4 * self.pairs > self.steps:
            raise ValueError(
                f"{self.pairs} pairs and as many questions need at least {4 * self.pairs} steps,"
                f" got {self.steps}"
            )
        if self.vocab_size < 2 * self.pairs + 2:
            raise ValueError(f"{self.pairs} pairs need more ids than {self.vocab_size=}")
        if self.size < 1 or self.power <= 0:
            raise ValueError(f"expected size >= 1 and power > 0, got {self.size=} {self.power=}")

    def __len__(self) -> int:
        """Examples of an epoch."""
        return self.size

    def get(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Examples by index: tokens [n, T+1], reset [n, T+1], loss_mask [n, T]."""
        rows = [self._example(int(i) % self.size) for i in np.asarray(indices)]
        tokens, mask = (np.stack(column) for column in zip(*rows, strict=True))
        return {"tokens": tokens, "reset": np.zeros(tokens.shape, bool), "loss_mask": mask}

    def _example(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng((self.seed, index))
        half, start = self.vocab_size // 2, 2 * self.pairs
        keys = rng.choice(half, self.pairs, replace=False)
        values = rng.choice(np.arange(half, self.vocab_size), self.pairs, replace=False)
        tokens = rng.integers(0, self.vocab_size, self.steps + 1)
        tokens[0:start:2], tokens[1:start:2] = keys, values
        slots = (self.steps + 1 - start) // 2
        weights = np.arange(1, slots + 1) ** (self.power - 1.0)
        chosen = rng.choice(slots, self.pairs, replace=False, p=weights / weights.sum())
        asked = start + 2 * chosen
        tokens[asked], tokens[asked + 1] = keys, values
        mask = np.zeros(self.steps, np.float32)
        mask[asked] = 1
        return tokens.astype(np.int32), mask
