# SPDX-License-Identifier: Apache-2.0
"""Uncertainty of metrics: bootstrap intervals, paired comparisons, several tests at once.

A metric is a function of summed statistics (see `metrics.py`), so a resample is a vector of
multiplicities times the matrix of statistics. Rows of one text (or annotator) are summed first:
resampling rows that share a text as if they were independent would make intervals too narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Measure = Callable[[np.ndarray], np.ndarray]  # [..., F] -> [...]
_BLOCK = 128  # resamples at a time, to bound memory


class Interval(NamedTuple):
    """A value with the 95 % percentile interval."""

    value: float
    low: float
    high: float


class Comparison(NamedTuple):
    """Second minus first, on the same rows.

    Attributes:
      difference, low, high: with the paired bootstrap's 95 % interval.
      p: two-sided, by approximate randomisation: the two answers to a text are swapped at random.
      n: rows that both have.
    """

    difference: float
    low: float
    high: float
    p: float
    n: int


def cluster(sums: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Sums the rows of each name: [N, F], N names -> [C, F]."""
    _, place = np.unique(np.asarray(names), return_inverse=True)
    out = np.zeros((place.max() + 1 if len(place) else 0, sums.shape[1]))
    np.add.at(out, place, sums)
    return out


def bootstrap(clusters: np.ndarray, measure: Measure, resamples: int, seed: int = 0) -> Interval:
    """Value and percentile interval over resampled clusters [C, F]."""
    value = float(measure(clusters.sum(0)))
    if resamples < 1 or len(clusters) < 2:
        return Interval(value, value, value)
    draws = [measure(w @ clusters) for w in _weights(len(clusters), resamples, seed)]
    low, high = np.percentile(np.concatenate(draws), (2.5, 97.5))
    return Interval(value, float(low), float(high))


def bootstrap_mean(values: np.ndarray, resamples: int, seed: int = 0) -> Interval:
    """Mean of independent values [C] and its percentile interval."""
    stacked = np.stack([values, np.ones_like(values)], axis=1)
    return bootstrap(stacked, lambda s: s[..., 0] / s[..., 1], resamples, seed)


def _weights(n: int, resamples: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    sizes = [min(_BLOCK, resamples - start) for start in range(0, resamples, _BLOCK)]
    return [rng.multinomial(n, np.full(n, 1 / n), size=size).astype(np.float64) for size in sizes]


def compare(
    first: np.ndarray, second: np.ndarray, measure: Measure, resamples: int, seed: int = 0
) -> Comparison:
    """Compares two systems on the same clusters, both [C, F]."""
    if first.shape != second.shape:
        raise ValueError(f"expected equal shapes, got {first.shape} and {second.shape}")
    n = len(first)
    observed = float(measure(second.sum(0)) - measure(first.sum(0)))
    if n < 2 or resamples < 1:
        return Comparison(observed, observed, observed, 1.0, n)
    spread = np.concatenate(
        [measure(w @ second) - measure(w @ first) for w in _weights(n, resamples, seed)]
    )
    low, high = np.percentile(spread, (2.5, 97.5))
    total, gap = first.sum(0), second - first
    rng = np.random.default_rng(seed + 1)
    extreme = 0
    for start in range(0, resamples, _BLOCK):
        swap = rng.integers(0, 2, (min(_BLOCK, resamples - start), n)).astype(np.float64)
        moved = swap @ gap
        shuffled = measure(second.sum(0) - moved) - measure(total + moved)
        extreme += int((np.abs(shuffled) >= abs(observed) - 1e-12).sum())
    p = (extreme + 1) / (resamples + 1)
    return Comparison(observed, float(low), float(high), p, n)


def mcnemar(first_right: np.ndarray, second_right: np.ndarray) -> float:
    """Exact two-sided McNemar test on paired right/wrong answers [N]."""
    from scipy.stats import binomtest

    only_first = int((first_right & ~second_right).sum())
    only_second = int((second_right & ~first_right).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second, 0.5).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the given order."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def gain(personal: float, general: float) -> tuple[float, float]:
    """Personalisation gain of two scores in percent.

    Returns:
      (difference in percentage points, 100 (P - N) / (100 - N)), the group's normalised gain.
    """
    difference = personal - general
    return difference, 100 * difference / (100 - general) if general < 100 else 0.0


def loss(sota: float, model: float) -> float:
    """100 (SOTA - model) / SOTA, in percent."""
    if sota <= 0:
        raise ValueError(f"sota must be positive, got {sota}")
    return 100 * (sota - model) / sota
