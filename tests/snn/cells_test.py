# SPDX-License-Identifier: Apache-2.0
"""Cells against their equations in NumPy (and flax's LSTM and GRU), stacks, and bad input."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import params as params_lib
from snn import cells
from tests.snn.ostl_nets import params_of

STEPS, BATCH, INPUTS, SIZE = 12, 3, 4, 5


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def run(cell, xs):
    """(params as NumPy, outputs)."""
    params = params_of(cell)
    _, ys = cells.unroll(cell, params, cell.init_state(xs.shape[1], jnp.float64), jnp.asarray(xs))
    return jax.tree.map(np.asarray, params), np.asarray(ys)


@pytest.fixture
def xs():
    return 2 * np.random.default_rng(5).normal(size=(STEPS, BATCH, INPUTS))


def zeros():
    return np.zeros((BATCH, SIZE))


@pytest.mark.parametrize("fire", ["sigmoid", "step"])
@pytest.mark.parametrize("lateral", [False, True])
def test_snu(xs, fire, lateral):
    kind = cells.LateralSnu if lateral else cells.Snu
    cell = kind(INPUTS, SIZE, recurrent=True, fire=fire, membrane="leaky_relu", decay=0.7)
    p, ys = run(cell, xs)
    s, y = zeros(), zeros()
    for x, got in zip(xs, ys, strict=True):
        gate = 1 - (y.max(axis=1, keepdims=True) if lateral else y)
        a = x @ p["w"] + y @ p["h"] + 0.7 * s * gate
        s = np.where(a > 0, a, 0.1 * a)
        v = s + p["bias"]
        y = sigmoid(v) if fire == "sigmoid" else (v > 0).astype(float)
        np.testing.assert_allclose(got, y, atol=1e-12)
    assert fire == "sigmoid" or 0.05 < ys.mean() < 0.95


def test_lateral_inhibition_stays_within_a_sample(xs):
    cell = cells.LateralSnu(INPUTS, SIZE, fire="step", threshold=0.2)
    params = params_of(cell)
    together = cells.unroll(cell, params, cell.init_state(BATCH, jnp.float64), jnp.asarray(xs))[1]
    alone = cells.unroll(cell, params, cell.init_state(1, jnp.float64), jnp.asarray(xs[:, :1]))[1]
    np.testing.assert_array_equal(together[:, :1], alone)


@pytest.mark.parametrize("adaptive", [False, True])
def test_lif(xs, adaptive):
    more = {"beta": 0.5, "adaptation_decay": 0.8} if adaptive else {}
    kind = cells.Alif if adaptive else cells.Lif
    cell = kind(INPUTS, SIZE, recurrent=True, decay=0.9, threshold=0.6, refractory=2, **more)
    p, ys = run(cell, xs)
    v, a, z, wait = zeros(), zeros(), zeros(), zeros()
    for x, got in zip(xs, ys, strict=True):
        v = 0.9 * v + x @ p["w"] + z @ p["h"] - 0.6 * z
        a = 0.8 * a + z
        wait = np.where(z > 0, 2, np.maximum(wait - 1, 0))
        z = (v - 0.6 - (0.5 * a if adaptive else 0) > 0) * (wait == 0) * 1.0
        np.testing.assert_array_equal(got, z)
    assert 0.05 < ys.mean() < 0.5
    assert not np.any(ys[1:] * ys[:-1])  # refractory


def test_modulated_thresholds(xs):
    cell = cells.ThresholdModulated(INPUTS, SIZE, recurrent=True, fire="sigmoid", decay=0.7)
    p, ys = run(cell, xs)
    rho = sigmoid(p["rho_logit"])
    s, a, y = zeros(), zeros(), zeros()
    for x, got in zip(xs, ys, strict=True):
        current = x @ p["w"] + y @ p["h"]
        s = current[:, :SIZE] + 0.7 * s * (1 - y)
        a = rho * a + (1 - rho) * current[:, SIZE:]
        y = sigmoid(s + p["beta"] * a + p["bias"])
        np.testing.assert_allclose(got, y, atol=1e-12)


def test_self_driven_threshold(xs):
    p, ys = run(cells.AdaptiveSnu(INPUTS, SIZE, fire="sigmoid", decay=0.7), xs)
    rho = sigmoid(p["rho_logit"])
    s, a, y = zeros(), zeros(), zeros()
    for x, got in zip(xs, ys, strict=True):
        a = rho * a + (1 - rho) * y
        s = x @ p["w"] + 0.7 * s * (1 - y)
        y = sigmoid(s - p["beta"] * a + p["bias"])
        np.testing.assert_allclose(got, y, atol=1e-12)


@pytest.mark.parametrize("reset_by", ["core", "sent"])
def test_modulated_outputs(xs, reset_by):
    cell = cells.OutputModulated(INPUTS, SIZE, recurrent=True, fire="sigmoid", reset_by=reset_by)
    p, ys = run(cell, xs)
    s, y, r = zeros(), zeros(), zeros()
    for x, got in zip(xs, ys, strict=True):
        current = x @ p["w"] + y @ p["h"]
        s = current[:, :SIZE] + 0.8 * s * (1 - r)
        core = sigmoid(s + p["bias"])
        y = core * sigmoid(current[:, SIZE:] + p["bias_o"])
        r = core if reset_by == "core" else y
        np.testing.assert_allclose(got, y, atol=1e-12)


def test_lru(xs):
    p, ys = run(cells.Lru(INPUTS, SIZE), xs)
    decay = np.exp(-np.exp(p["nu_log"]) + 1j * np.exp(p["theta_log"]))
    h = zeros() + 0j
    for x, got in zip(xs, ys, strict=True):
        current = x @ p["w"]
        drive = current[:, :SIZE] + 1j * current[:, SIZE:]
        h = decay * h + np.sqrt(1 - np.abs(decay) ** 2) * drive
        np.testing.assert_allclose(got, np.concatenate([h.real, h.imag], axis=1), atol=1e-12)


def flax_dense(p, gate, name):
    columns = slice(gate * SIZE, (gate + 1) * SIZE)
    return p[name][:, columns]


def test_lstm_and_gru_agree_with_flax(xs):
    p, ys = run(cells.Lstm(INPUTS, SIZE), xs)
    weights = {}
    for gate, name in enumerate(["i", "f", "g", "o"]):
        weights[f"i{name}"] = {"kernel": flax_dense(p, gate, "w")}
        bias = p["bias"][gate]
        weights[f"h{name}"] = {"kernel": flax_dense(p, gate, "h"), "bias": bias}
    carry = (zeros(), zeros())
    for x, got in zip(xs, ys, strict=True):
        carry, y = nn.OptimizedLSTMCell(SIZE).apply({"params": weights}, carry, x)
        np.testing.assert_allclose(got, y, atol=1e-12)

    p, ys = run(cells.Gru(INPUTS, SIZE), xs)
    weights = {}
    for gate, name in enumerate("rzn"):
        bias = p["bias"][gate]
        weights[f"i{name}"] = {"kernel": flax_dense(p, gate, "w"), "bias": bias}
        weights[f"h{name}"] = {"kernel": flax_dense(p, gate, "h")}
    weights["hn"]["bias"] = p["bias"][3]
    carry = zeros()
    for x, got in zip(xs, ys, strict=True):
        carry, y = nn.GRUCell(SIZE).apply({"params": weights}, carry, x)
        np.testing.assert_allclose(got, y, atol=1e-12)


# --- stacks, time ---------------------------------------------------------------------------------


def small_stack():
    return cells.Stack(
        (
            cells.Dense(INPUTS, SIZE),
            cells.Snu(SIZE, 4, fire="sigmoid"),
            cells.LayerNorm(4),
            cells.Activation(4, "tanh"),
            cells.Gru(4, 3),
        )
    )


def test_chunks_equal_one_run(xs):
    net, xs = small_stack(), jnp.asarray(xs)
    params, start = params_of(net), net.init_state(BATCH, jnp.float64)
    end, ys = cells.unroll(net, params, start, xs)
    middle, first = cells.unroll(net, params, start, xs[:5])
    last, second = cells.unroll(net, params, middle, xs[5:])
    np.testing.assert_array_equal(ys, jnp.concatenate([first, second]))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), end, last))
    state, x = start, xs[0]
    for layer, name, i in zip(net.layers, ["0", "1", "2", None, "4"], range(5), strict=True):
        own = params[f"layer_{name}"] if name else {}
        _, x = layer.step(own, state[i], x)
    np.testing.assert_allclose(x, ys[0], atol=1e-14)


def test_tied_weights():
    net = cells.Stack(
        (cells.Embedding(7, 4), cells.Snu(4, 4, fire="sigmoid"), cells.Dense(4, 7)),
        tied=((2, 0),),
    )
    assert "w" not in net.param_specs()["layer_2"]
    params = params_of(net)
    tokens = jnp.array([[3, 1]])
    _, ys = cells.unroll(net, params, net.init_state(2, jnp.float64), tokens)
    hidden = net.layers[1].step(
        params["layer_1"],
        net.layers[1].init_state(2, jnp.float64),
        params["layer_0"]["w"][tokens[0]],
    )[1]
    wanted = hidden @ params["layer_0"]["w"].T + params["layer_2"]["bias"]
    np.testing.assert_allclose(ys[0], wanted, atol=1e-14)


def test_a_trained_decay_starts_at_its_value():
    cell = cells.Snu(2, 3, decay=0.37, train_decay=True)
    params = params_lib.init(cell.param_specs(), jax.random.key(0))
    np.testing.assert_allclose(cell.leak(params), 0.37, rtol=1e-6)


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.2, 1.7, float("nan")])
def test_decays_lie_between_0_and_1(decay):
    with pytest.raises(ValueError, match="decay must lie strictly between 0 and 1"):
        cells.Snu(2, 3, decay=decay)
    with pytest.raises(ValueError, match="adaptation_decay must lie"):
        cells.Alif(2, 3, adaptation_decay=decay)
    with pytest.raises(ValueError, match="adaptation_decay must lie"):
        cells.ThresholdModulated(2, 3, adaptation_decay=decay)


def test_bad_hyper_parameters():
    for make, words in (
        (lambda: cells.Snu(0, 3), "input_size must be at least 1"),
        (lambda: cells.Snu(1, 3, fire="relu"), "unknown firing function"),
        (lambda: cells.Lif(1, 3, threshold=0.0), "threshold must be positive"),
        (lambda: cells.OutputModulated(1, 3, reset_by="both"), "reset_by must be core or sent"),
        (lambda: cells.Lru(1, 3, outer=1.5), "decays must lie"),
        (lambda: cells.Lru(1, 3, recurrent=True), "no recurrent matrix"),
        (lambda: cells.Activation(3, "swish"), "unknown function"),
        (lambda: cells.Stack(()), "at least one layer"),
        (lambda: cells.Stack((cells.Dense(2, 3), cells.Dense(4, 1))), "layer 0 gives 3 numbers"),
        (lambda: cells.Stack((cells.Dense(2, 3), cells.Dense(3, 3)), ((1, 0),)), "cannot be tied"),
    ):
        with pytest.raises(ValueError, match=words):
            make()


def test_bad_sequences():
    cell = cells.Snu(3, 2)
    params, state = params_of(cell), cell.init_state(2)
    unroll = lambda xs, state=state, params=params: cells.unroll(cell, params, state, xs)
    with pytest.raises(ValueError, match="at least one time step"):
        unroll(jnp.zeros((0, 2, 3)))
    with pytest.raises(ValueError, match=r"inputs must be \[T, B, 3\]"):
        unroll(jnp.zeros((4, 2, 5)))
    with pytest.raises(ValueError, match="must be finite, got 1 NaN"):
        unroll(jnp.zeros((4, 2, 3)).at[1, 0, 0].set(jnp.nan))
    with pytest.raises(ValueError, match="state does not fit the cell and a batch of 2"):
        unroll(jnp.zeros((4, 2, 3)), state=cell.init_state(3))
    with pytest.raises(ValueError, match="state does not fit"):
        unroll(jnp.zeros((4, 2, 3)), state={"s": state["s"]})
    with pytest.raises(ValueError, match="do not fit the config: missing bias"):
        unroll(jnp.zeros((4, 2, 3)), params={"w": params["w"]})
    with pytest.raises(TypeError, match="integer tokens"):
        unroll(jnp.zeros((4, 2, 3), jnp.int32))
