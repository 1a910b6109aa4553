# SPDX-License-Identifier: Apache-2.0
"""Seeded permutations: bijection, inverse, independence of epochs, uniformity, fixed values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.permute import MAX_SIZE, derive_seed, mix64, order, permute, shuffled, unpermute


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5000), st.integers(-(2**70), 2**70), st.integers(0, 2**40))
def test_is_a_bijection_with_inverse(size, seed, epoch):
    positions = np.arange(size)
    images = permute(positions, size, seed, epoch)
    assert images.dtype == np.int64
    np.testing.assert_array_equal(np.sort(images), positions)
    np.testing.assert_array_equal(unpermute(images, size, seed, epoch), positions)


@pytest.mark.parametrize("size", range(1, 70))
def test_every_small_size_is_a_bijection(size):
    for seed in range(5):
        assert sorted(permute(np.arange(size), size, seed).tolist()) == list(range(size))


@pytest.mark.parametrize("size", [10**12 + 39, 2**40, 2**61 - 1, MAX_SIZE, MAX_SIZE - 1])
def test_huge_sizes_round_trip_without_an_array_of_that_size(size):
    ends = [0, 1, size // 2, size - 2, size - 1]
    positions = np.array(ends + [(i * 0x9E3779B97F4A7C15) % size for i in range(2000)])
    images = permute(positions, size, seed=3, epochs=7)
    assert images.min() >= 0 and images.max() < size
    np.testing.assert_array_equal(unpermute(images, size, 3, 7), positions)
    assert len(np.unique(images)) == len(np.unique(positions))


def test_values_do_not_change_between_releases():
    # Resuming a run depends on these numbers: a change here changes the order of every run.
    assert permute(np.arange(10), 10, seed=0).tolist() == [8, 6, 5, 2, 7, 9, 3, 0, 1, 4]
    images = permute(np.array([0, 1, 10**9]), 10**10, seed=1, epochs=2)
    assert images.tolist() == [4277477933, 3433437953, 8379019321]
    assert derive_seed(0, "a", 1) == 2637490079107948092
    # SplitMix64 from state 1234567: the widely published first two outputs.
    states = np.array([1234567, (1234567 + 0x9E3779B97F4A7C15) % 2**64], np.uint64)
    assert mix64(states).tolist() == [6457827717110365317, 3203168211198807973]


def test_positions_may_be_asked_in_any_order_and_shape():
    whole = permute(np.arange(1000), 1000, 5)
    some = np.array([[999, 3], [3, 0]])
    np.testing.assert_array_equal(permute(some, 1000, 5), whole[some])
    assert permute(np.array(7), 1000, 5).shape == ()
    assert permute(np.zeros((0,), np.int64), 1000, 5).shape == (0,)


def test_epochs_and_seeds_give_different_orders():
    orders = {
        tuple(permute(np.arange(50), 50, seed, epoch).tolist())
        for seed in range(10)
        for epoch in range(10)
    }
    assert len(orders) == 100


def test_shuffled_visits_every_element_once_an_epoch():
    indices = np.arange(3 * 37)
    order = shuffled(indices, 37, seed=2).reshape(3, 37)
    np.testing.assert_array_equal(np.sort(order, axis=1), np.tile(np.arange(37), (3, 1)))
    assert not np.array_equal(order[0], order[1])
    for epoch in range(3):
        np.testing.assert_array_equal(order[epoch], permute(np.arange(37), 37, 2, epoch))


@pytest.mark.parametrize("size", [2, 3, 5, 8, 13, 100])
def test_images_are_uniform_over_seeds(size):
    # Chi-square over 2000 seeds; the bound is the 1 - 1e-6 quantile (Wilson-Hilferty).
    draws = 2000
    for position in {0, size // 2, size - 1}:
        images = permute(np.full(draws, position), size, 11, epochs=np.arange(draws))
        counts = np.bincount(images, minlength=size)
        statistic = float(np.sum((counts - draws / size) ** 2) * size / draws)
        freedom = size - 1
        bound = freedom * (1 - 2 / (9 * freedom) + 4.75 * np.sqrt(2 / (9 * freedom))) ** 3
        assert statistic < bound, (size, position, statistic, bound)


def test_neighbours_do_not_stay_neighbours():
    images = permute(np.arange(100_000), 100_000, 1).astype(float)
    assert abs(np.corrcoef(np.arange(100_000), images)[0, 1]) < 0.015
    assert abs(np.corrcoef(images[:-1], images[1:])[0, 1]) < 0.015


@pytest.mark.parametrize(
    "call",
    [
        lambda: permute(np.arange(5), 4, 0),
        lambda: permute(np.array([-1]), 4, 0),
        lambda: permute(np.arange(0), 0, 0),
        lambda: permute(np.arange(2), MAX_SIZE + 1, 0),
        lambda: permute(np.arange(2), 4, 0, epochs=-1),
        lambda: shuffled(np.arange(2), 0, 0),
    ],
)
def test_values_out_of_range_are_refused(call):
    with pytest.raises(ValueError, match="must"):
        call()


def test_fractions_are_refused():
    with pytest.raises(TypeError, match="integers, got dtype float64"):
        permute(np.array([0.5]), 4, 0)


def test_order_is_shuffled_or_as_given():
    indices = np.arange(12)
    assert order(indices, 5, None).tolist() == [*range(5), *range(5), 0, 1]
    assert (order(indices, 5, 3) == shuffled(indices, 5, 3)).all()
    for seed in (None, 3):
        with pytest.raises(ValueError, match="must not be negative, got -1"):
            order(np.array([2, -1]), 5, seed)
