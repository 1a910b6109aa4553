# SPDX-License-Identifier: Apache-2.0
"""Firing functions: values, derivatives, and their behaviour far from the threshold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snn import surrogates


@pytest.mark.parametrize("name", sorted(surrogates.NAMED))
def test_finite_everywhere(name):
    fire = surrogates.get(name)
    v = jnp.array([-1e30, -1e3, -125.0, -1.0, 0.0, 1.0, 125.0, 1e3, 1e30])
    slope = jax.vmap(jax.grad(fire))(v)
    assert np.all(np.isfinite(fire(v))) and np.all(np.isfinite(slope))
    assert np.all(slope >= 0) and np.all(slope[np.array([0, 1, 7, 8])] < 1e-3)


@pytest.mark.parametrize("name", sorted(set(surrogates.NAMED) - {"sigmoid"}))
def test_step_is_strict(name):
    np.testing.assert_array_equal(
        surrogates.get(name)(jnp.array([-0.1, 0.0, 1e-30, 2.0])), [0.0, 0.0, 1.0, 1.0]
    )


def test_derivatives_are_the_stated_ones():
    v = jnp.linspace(-2, 2, 9)
    slope = lambda name: jax.vmap(jax.grad(surrogates.get(name)))(v)
    np.testing.assert_allclose(slope("step"), 1 - np.tanh(v) ** 2, rtol=1e-5)
    np.testing.assert_allclose(slope("step_boxcar"), np.abs(v) < 0.5)
    np.testing.assert_allclose(slope("step_triangle"), 0.3 * np.maximum(0, 1 - np.abs(v)))
    np.testing.assert_allclose(slope("step_fast_sigmoid"), (1 + 25 * np.abs(v)) ** -2.0, rtol=1e-5)
    np.testing.assert_allclose(slope("step_arctan"), 1 / (1 + (np.pi * v) ** 2), rtol=1e-5)
    logistic = 1 / (1 + np.exp(-v))
    for name in ("sigmoid", "step_logistic"):
        np.testing.assert_allclose(slope(name), logistic * (1 - logistic), rtol=1e-5)


def test_own_pair_and_both_modes_of_differentiation():
    fire = surrogates.Surrogate(jnp.sign, lambda v: jnp.full_like(v, 3.0))
    v = jnp.array([0.5, -0.5])
    np.testing.assert_array_equal(jax.jvp(fire, (v,), (jnp.ones(2),))[1], [3.0, 3.0])
    np.testing.assert_array_equal(jax.vjp(fire, v)[1](jnp.ones(2))[0], [3.0, 3.0])
    assert surrogates.get(fire) is fire


def test_unknown_names():
    with pytest.raises(ValueError, match="unknown firing function 'stp'"):
        surrogates.get("stp")
    with pytest.raises(ValueError, match="unknown membrane"):
        surrogates.membrane("swish")
