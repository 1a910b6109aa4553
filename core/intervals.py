# SPDX-License-Identifier: Apache-2.0
"""95 % intervals: Wilson's of a proportion, Student's of a mean over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Z = 1.959964  # 97.5 % quantile of the normal distribution


def wilson(right: float, count: float) -> tuple[float, float]:
    """95 % interval of a proportion, in [0, 1]: the score interval of E. B. Wilson (1927).

    Raises:
      ValueError: not 0 <= right <= count, or count is 0.
    """
    if not 0 <= right <= count or count <= 0:
        raise ValueError(f"expected 0 <= right <= count, got {right=} {count=}")
    p, z2 = right / count, Z * Z
    centre = (p + z2 / (2 * count)) / (1 + z2 / count)
    half = Z / (1 + z2 / count) * math.sqrt(p * (1 - p) / count + z2 / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def student(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean of a normal distribution, from independent values: Student's.

    Raises:
      ValueError: fewer than two values.
    """
    from scipy.special import stdtrit  # here: programs without intervals over seeds start sooner

    if len(values) < 2:
        raise ValueError(f"an interval over seeds needs at least two values, got {len(values)}")
    quantile = float(stdtrit(len(values) - 1, 0.975))
    half = quantile * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    mean = float(np.mean(values))
    return mean - half, mean + half


def of_accuracies(values: Sequence[float], count: int) -> tuple[float, float, float]:
    """(mean, low, high) of accuracies in [0, 1], one for each seed, the interval within [0, 1].

    Student's interval over seeds; of a single seed Wilson's over its `count` problems.
    """
    low, high = student(values) if len(values) > 1 else wilson(values[0] * count, count)
    return float(np.mean(values)), max(low, 0.0), min(high, 1.0)
