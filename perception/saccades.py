# SPDX-License-Identifier: Apache-2.0
"""Synthetic saccades over the frames of a problem: which frame is fixated at which step.

S_I initial saccades go over all frames in a random order (again and again in new orders if there
are more than frames), then S_E evaluation saccades go over all frames once more; at these the
network decides. A saccade moves between whole frames.

    plan = saccades.plan(np.arange(32), initial=6, evaluation=6, seed=0)      # int32 [32, 12]

The order of problem n is a pure function of (seed, n), so runs resume and repeat.

Dimensions: B problems, F frames, S = S_I + S_E saccades.
"""

from __future__ import annotations

import numpy as np

from core import permute
from core.data import Source

FRAMES = 6


def check(initial: int, evaluation: int, frames: int = FRAMES) -> None:
    """Raises ValueError unless every frame is evaluated equally often, at least once."""
    if initial < 0:
        raise ValueError(f"initial saccades must be at least 0, got {initial}")
    if evaluation < frames or evaluation % frames:
        raise ValueError(
            f"evaluation saccades must be a positive multiple of the {frames} frames,"
            f" got {evaluation}"
        )


def plan(
    indices: np.ndarray, initial: int = 6, evaluation: int = 6, seed: int = 0, frames: int = FRAMES
) -> np.ndarray:
    """The frames that are fixated, int32 [B, S] in 0 ... F-1.

    Args:
      indices: numbers of the problems [B]; in training those of the stream, so that a problem is
        seen in another order in each epoch.
      initial: S_I. The last round over the frames is cut short if it is not a multiple of F.
      evaluation: S_E, a multiple of F.
      seed: of the orders.
      frames: F.

    Raises:
      ValueError: see `check`.
    """
    check(initial, evaluation, frames)
    indices = np.asarray(indices, np.int64).reshape(-1)
    salt = np.uint64(permute.derive_seed(seed, "saccades"))
    base = permute.mix64(indices.astype(np.uint64) ^ salt)
    found = np.empty((len(indices), initial + evaluation), np.int32)
    before = -(-initial // frames)
    for number in range(before + evaluation // frames):
        # Random numbers for each (problem, round, frame); their ranks are a random order.
        places = np.arange(number * frames, (number + 1) * frames, dtype=np.uint64)
        order = np.argsort(permute.mix64(base[:, None] + places), axis=1, kind="stable")
        if number < before:
            begin, length = number * frames, min(frames, initial - number * frames)
        else:
            begin, length = initial + (number - before) * frames, frames
        found[:, begin : begin + length] = order[:, :length]
    return found


class WithSaccades(Source):
    """The examples of a source with "saccade" int32 [B, S]; see `plan`."""

    def __init__(self, source: Source, initial: int, evaluation: int, seed: int):
        """Args: source: problems; initial, evaluation, seed: as in `plan`."""
        check(initial, evaluation)
        self._source, self._sizes, self._seed = source, (initial, evaluation), seed

    def __len__(self) -> int:
        return len(self._source)

    def get(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """See `Source.get`."""
        batch = self._source.get(indices)
        return {**batch, "saccade": plan(indices, *self._sizes, seed=self._seed)}
