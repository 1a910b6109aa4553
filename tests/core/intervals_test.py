# SPDX-License-Identifier: Apache-2.0
"""Intervals of accuracies and of means over seeds."""

import numpy as np
import pytest
from scipy import stats

from core import intervals


def test_intervals_are_those_of_scipy():
    for right, count in ((0, 10), (5, 10), (1990, 2000), (7, 7)):
        exact = stats.binomtest(right, count).proportion_ci(0.95, "wilson")
        np.testing.assert_allclose(intervals.wilson(right, count), exact, atol=1e-6)
    for values in ([0.91, 0.95, 0.94], list(np.linspace(0.5, 0.9, 14))):
        exact = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        np.testing.assert_allclose(intervals.student(values), exact, atol=1e-9)
    # 8 of 10 (R, prop.test without continuity correction).
    np.testing.assert_allclose(intervals.wilson(8, 10), (0.4902, 0.9433), atol=1e-4)
    with pytest.raises(ValueError, match="at least two"):
        intervals.student([0.5])
    with pytest.raises(ValueError, match="right <= count"):
        intervals.wilson(5, 4)


def test_students_interval_covers_at_its_rate():
    """Of many experiments with 3 and with 12 seeds, 95 % of the intervals hold the true mean."""
    rng = np.random.default_rng(0)
    for count in (3, 12):
        draws = rng.normal(0.8, 0.1, (2000, count))
        held = [low < 0.8 < high for low, high in map(intervals.student, draws)]
        assert 0.935 < np.mean(held) < 0.965  # sd of the share: 0.005


def test_accuracies_of_seeds_and_of_a_single_run():
    assert intervals.of_accuracies([0.9], 10) == (0.9, *intervals.wilson(9, 10))
    mean, low, high = intervals.of_accuracies([0.99, 0.95, 0.99], 10)
    assert mean == pytest.approx(0.97667, abs=1e-5) and high == 1.0  # cut off
    assert low == intervals.student([0.99, 0.95, 0.99])[0]
