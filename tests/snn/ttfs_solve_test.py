# SPDX-License-Identifier: Apache-2.0
"""The causal solver against dense root finding, finite differences and closed cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from snn.ttfs.kernels import Exponential, General, Lif1, Lif2, Ramp, lambert_w0
from snn.ttfs.solve import causal_solve

KERNELS = {
    "ramp": (Ramp(), 0.8),
    "exponential": (Exponential(0.7), 0.9),
    "lif2": (Lif2(0.5), 0.25),
    "lif1": (Lif1(0.6), 0.4),
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def problem(seed=0, rows=5, inputs=7, neurons=4):
    rng = np.random.default_rng(seed)
    times = rng.uniform(0, 1.5, size=(rows, inputs))
    times[rng.random(times.shape) < 0.15] = np.inf
    return times, rng.normal(0.3, 0.8, size=(inputs, neurons))


def potential(kernel, times, weight, t, drive=0.0, delays=None):
    """V(t) of one neuron, straight from its definition."""
    total = drive * t
    for j, (arrival, w) in enumerate(zip(times, weight, strict=True)):
        arrival = arrival + (0.0 if delays is None else delays[j])
        if np.isfinite(arrival) and t > arrival:
            total += w * float(kernel.value(jnp.asarray(t - arrival)))
    return total


def brute_force(kernel, times, weight, theta, end, drive=0.0, delays=None):
    """First crossing by a dense scan between arrivals and Brent's method."""
    shift = 0.0 if delays is None else delays
    arrivals = np.sort((times + shift)[np.isfinite(times)])
    knots = [0.0, *arrivals[arrivals < end], end]
    f = lambda t: potential(kernel, times, weight, t, drive, delays) - theta
    for low, high in zip(knots[:-1], knots[1:], strict=True):
        ts = np.linspace(low, high, 60)
        vs = [f(t) for t in ts]
        for a, b, va, vb in zip(ts[:-1], ts[1:], vs[:-1], vs[1:], strict=True):
            if va < 0 <= vb:
                return scipy.optimize.brentq(f, a, b, xtol=1e-15, rtol=1e-15)
    return np.inf


@pytest.mark.parametrize("name", KERNELS)
def test_first_crossings_equal_brute_force(name):
    kernel, theta = KERNELS[name]
    times, weight = problem(seed=3)
    found = np.asarray(causal_solve(times, weight, theta, kernel, end=4.0))
    expected = [[brute_force(kernel, row, w, theta, 4.0) for w in weight.T] for row in times]
    assert np.isfinite(found).sum() >= 8 and np.isinf(found).any()
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_crossing_by_the_drive_before_any_input():
    # The published solver, which has no such case, gives 0.536 and 0.571 here.
    found = causal_solve([[0.9, 0.95]], [[0.1], [0.1]], 0.5, drive=1.0)
    np.testing.assert_allclose(found, [[0.5]], atol=1e-15)


@pytest.mark.parametrize("drive", [0.7, -0.2])
def test_drive_equals_brute_force(drive):
    times, weight = problem(seed=5)
    found = np.asarray(causal_solve(times, weight, 0.8, drive=drive, end=3.0))
    expected = [
        [brute_force(Ramp(), row, w, 0.8, 3.0, drive=drive) for w in weight.T] for row in times
    ]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_synaptic_delays_equal_brute_force():
    times, weight = problem(seed=6)
    delays = np.random.default_rng(1).uniform(0, 1, size=weight.shape)
    found = np.asarray(causal_solve(times, weight, 0.25, Lif2(0.5), end=4.0, delays=delays))
    expected = [
        [
            brute_force(Lif2(0.5), row, weight[:, m], 0.25, 4.0, delays=delays[:, m])
            for m in range(weight.shape[1])
        ]
        for row in times
    ]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_newton_of_a_general_kernel_equals_lambert_w():
    times, weight = problem(seed=7)
    exact = causal_solve(times, weight, 0.4, Lif1(0.6), end=4.0)
    function = lambda dt: dt / 0.6 * jnp.exp(-dt / 0.6)
    newton = causal_solve(times, weight, 0.4, General(function, grid=2000), end=4.0)
    np.testing.assert_allclose(newton, exact, atol=1e-12)


@pytest.mark.parametrize("name", [*KERNELS, "drive", "delays"])
def test_gradients_equal_finite_differences(name):
    times, weight = problem(seed=3)
    kernel, theta = KERNELS.get(name, (Ramp(), 0.8))
    silent = np.isinf(times)
    values = {
        "times": jnp.asarray(np.where(silent, 0.0, times)),
        "weight": jnp.asarray(weight),
        "theta": jnp.full(weight.shape[1], theta),
    }
    if name == "drive":
        values["drive"] = jnp.linspace(0.1, 0.6, weight.shape[1])
    if name == "delays":
        values["delays"] = jnp.asarray(np.random.default_rng(1).uniform(0, 1, weight.shape))
    mix = jnp.asarray(np.random.default_rng(2).normal(size=(times.shape[0], weight.shape[1])))

    @jax.jit
    def loss(v):
        t = causal_solve(
            jnp.where(silent, jnp.inf, v["times"]),
            v["weight"],
            v["theta"],
            kernel,
            drive=v.get("drive", 0.0),
            delays=v.get("delays"),
            end=4.0,
        )
        return (jnp.where(jnp.isfinite(t), t, 0.0) * mix).sum()

    grads = jax.jit(jax.grad(loss))(values)
    step = 1e-6
    for key, value in values.items():
        flat = np.asarray(value).ravel()
        for i in range(flat.size):
            ends = []
            for sign in (1, -1):
                moved = flat.copy()
                moved[i] += sign * step
                ends.append(loss({**values, key: jnp.asarray(moved).reshape(value.shape)}))
            numeric = float(ends[0] - ends[1]) / (2 * step)
            found = float(np.asarray(grads[key]).ravel()[i])
            assert abs(numeric - found) <= 1e-6 * max(1.0, abs(found)), (key, i, numeric, found)


def test_time_shift_invariance_of_gradients():
    times, weight = problem(seed=8)
    times = np.where(np.isinf(times), 0.7, times)
    for kernel, theta in KERNELS.values():
        jacobian = jax.jacobian(lambda t, k=kernel, h=theta: causal_solve(t, weight, h, k)[0])
        found = causal_solve(times[:1], weight, theta, kernel)[0]
        sums = jacobian(jnp.asarray(times[:1])).sum(axis=(1, 2))
        np.testing.assert_allclose(sums, np.isfinite(found).astype(float), atol=1e-12)


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=6),
    st.lists(st.integers(-4, 4), min_size=6, max_size=6),
    st.integers(1, 8),
)
def test_ramp_with_ties_and_grazing_potentials(arrivals, weights, theta):
    # Whole numbers make ties and crossings at arrivals common.
    times, weight = np.array([arrivals], float), np.array(weights[: len(arrivals)], float)[:, None]
    found = float(causal_solve(times, weight, float(theta), end=12.0)[0, 0])
    v, expected = 0.0, np.inf
    for t in range(12):
        slope = float(weight[times[0] <= t].sum())
        if slope > 0 and v + slope >= theta:
            expected = t + (theta - v) / slope
            break
        v += slope
    assert found == (pytest.approx(expected, abs=1e-12) if expected < 12 else np.inf)


def test_lambert_w():
    x = np.concatenate([np.linspace(-1 / np.e + 1e-9, 3, 2001), 10.0 ** np.arange(1, 9)])
    expected = scipy.special.lambertw(x).real
    conditioned = 1.0 / np.maximum(np.abs(1.0 + expected), 1e-12)
    error = np.abs(np.asarray(lambert_w0(jnp.asarray(x))) - expected)
    assert (error <= 4e-16 * (1 + np.abs(expected)) * (2 + conditioned)).all()


def test_float32_and_large_times():
    with jax.enable_x64(False):
        times = np.array([[100.0, 100.5, 101.0]], np.float32)
        t = causal_solve(times, np.ones((3, 1), np.float32), 0.4, Exponential(0.3))
        assert t.dtype == jnp.float32
        expected = 100.0 + 0.3 * np.log(1 / 0.6)
        np.testing.assert_allclose(t, [[expected]], atol=2e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([1.0], [[1.0]], 1.0), "expected"),
        (([[1.0, 2.0]], [[1.0]], 1.0), "expected"),
        ((np.zeros((2, 0)), np.zeros((0, 3)), 1.0), "empty"),
    ],
)
def test_bad_shapes_are_explained(arguments, words):
    with pytest.raises(ValueError, match=words):
        causal_solve(*arguments)


def test_neurons_above_threshold_at_the_start_fire_there():
    kernels = [Ramp(), Exponential(), Lif2(0.5), Lif1(0.5), General(Lif1(0.5).value, grid=3)]
    for kernel in kernels:
        found = causal_solve([[-0.7]], [[1.5]], 0.2, kernel, end=4.0)
        np.testing.assert_allclose(found, [[0.0]], atol=1e-15)


def test_impossible_requests_are_explained():
    with pytest.raises(ValueError, match="drive"):
        causal_solve([[1.0]], [[1.0]], 1.0, Lif2(), drive=1.0)
    with pytest.raises(ValueError, match="finite end"):
        causal_solve([[1.0]], [[1.0]], 1.0, General(lambda x: x))


def test_nan_spike_times_are_errors_not_silence():
    weight = np.ones((2, 1))
    with pytest.raises(ValueError, match="1 are NaN or -inf, the first at row 1, input 0"):
        causal_solve([[0.1, 0.2], [np.nan, 0.2]], weight, 1.0)
    with pytest.raises(ValueError, match="weight holds NaN"):
        causal_solve([[0.1, 0.2]], [[1.0], [np.nan]], 1.0)
    with pytest.raises(ValueError, match="delays must not be negative"):
        causal_solve([[0.1, 0.2]], weight, 1.0, delays=[0.1, -0.1])
    for kernel in (Ramp(), Lif2(0.5)):  # under jit values are unknown: NaN comes out
        solve = jax.jit(lambda t, k=kernel: causal_solve(t, weight, 0.2, k))
        found = solve(jnp.array([[0.1, 0.2], [jnp.nan, 0.2]]))
        assert np.isfinite(found[0, 0]) and np.isnan(found[1, 0])


def test_memory_is_linear_in_the_layer():
    rows, inputs, neurons = 32, 200, 100
    solve = lambda t, w: causal_solve(t, w, 1.0).sum()
    arguments = (jnp.zeros((rows, inputs)), jnp.zeros((inputs, neurons)))
    compiled = jax.jit(jax.grad(solve, argnums=(0, 1))).lower(*arguments).compile()
    used = compiled.memory_analysis().temp_size_in_bytes
    assert used < 8 * rows * inputs * neurons / 4


def test_lif_layer_equals_jaxsnn():
    """Spike times of jaxsnn 0.3.0 (event by event, float32), tau_m = 2 tau_s = 2, threshold 0.2."""
    rng = np.random.default_rng(0)
    times = rng.uniform(0, 1, (2, 5)).astype(np.float32)
    weight = (rng.normal(1.0, 2.0, (5, 3)) * 4 / 5).astype(np.float32)
    expected = [[0.20852762, 1.0192485, 0.12140538], [0.7075644, 1.2164176, 0.7084249]]
    found = causal_solve(times, weight, 0.2, Lif2(1.0))
    np.testing.assert_allclose(found, expected, atol=2e-6)
