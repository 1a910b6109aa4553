# SPDX-License-Identifier: Apache-2.0
"""Layers with delays and with kernels other than the B1 ramp, through all back-ends."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snn.ttfs import (
    accounting,
    effects,
    fuse,
    mapping,
    nir_io,
    pictures,
    relu,
    simulate,
    store,
    windows,
)
from snn.ttfs import network as net
from snn.ttfs.kernels import Exponential, General, Lif1, Lif2, Ramp

KERNELS = {
    "ramp": (Ramp(), 0.9),
    "exponential": (Exponential(0.7), 0.6),
    "lif2": (Lif2(0.5), 0.2),
    "lif1": (Lif1(0.6), 0.3),
    "general": (General(lambda dt: dt**2 * jnp.exp(-dt), grid=200), 0.2),
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def small_net(delay="", rule="b1", kernel=None, threshold=1.0):
    """Conv, max pooling, dense, read-out; the options go to both spiking layers."""
    options = {"rule": rule, "kernel": kernel or Ramp(), "threshold": threshold}
    conv = net.Conv(4, (2, 2), strides=(2, 1), padding=((1, 0), (0, 0)), groups=2)
    network = net.Network(
        (3, 3, 2),
        (
            net.Layer("conv", (2, 2, 4), (net.Edge("input", conv, delay),), **options),
            net.Pool("pool", "conv", (2, 1, 4), (1, 2), (1, 2)),
            net.Layer("dense", (5,), (net.Edge("pool", net.Dense(5), delay),), **options),
            net.Layer("readout", (3,), (net.Edge("dense", net.Dense(3), delay),), False),
        ),
    )
    rng = np.random.default_rng(0)

    def draw(key, shape):
        if key.startswith("delay"):
            return rng.uniform(0, 0.5, shape)
        spread = 0.3 if rule == "alpha1" else 0.6  # its slopes 1 + sum J must be positive
        return rng.normal(0.25, spread, shape) * (1.0 if key == "weight" else 0.1)

    params = {
        name: {key: draw(key, shape) for key, shape in block.items()}
        for name, block in net.param_shapes(network).items()
    }
    x = rng.uniform(0, 1, (2, 3, 3, 2))
    x[rng.random(x.shape) < 0.2] = 0.0
    return network, params, x


def agree(network, params, x, deltas, *backends):
    """Runs causal back-ends; they must agree in every lead time."""
    runs = [simulate.run(network, params, x, deltas, "causal", b) for b in backends]
    for run in runs[1:]:
        np.testing.assert_allclose(run.logits, runs[0].logits, atol=1e-10)
        for name, lead in runs[0].leads.items():
            np.testing.assert_allclose(run.leads[name], lead, atol=1e-10, err_msg=name)
    return runs[0]


# --- delays -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("delay", "rule"), [("axonal", "b1"), ("synaptic", "b1"), ("synaptic", "alpha1")]
)
def test_delays_through_all_backends(delay, rule):
    network, params, x = small_net(delay, rule)
    deltas = windows.from_data(network, params, [x], 0.2, "certified")
    assert all(c.holds for c in windows.certify(network, params, x, deltas))
    exact = agree(network, params, x, deltas, "solver", "events")
    closed = simulate.run(network, params, x, deltas, "ideal")
    np.testing.assert_allclose(closed.logits, exact.logits, atol=1e-10)
    for name, lead in exact.leads.items():
        np.testing.assert_allclose(closed.leads[name], lead, atol=1e-10)
    assert (np.asarray(closed.leads["dense"]) > 0).any()
    prompt = {n: {k: v * (k[0] != "d") for k, v in b.items()} for n, b in params.items()}
    assert np.abs(net.closed_form(network, prompt, x)[0] - closed.logits).max() > 1e-2
    short = {k: 0.4 * v for k, v in deltas.items()}
    early = agree(network, params, x, short, "solver", "events")
    assert max(early.early_fraction.values()) > 0
    failed = [c for c in windows.certify(network, params, x, short) if not c.holds]
    assert failed
    with pytest.raises(ValueError, match=f"layer 'conv' .rule '{rule}'.: window .*, needed"):
        simulate.run(network, params, x, short, "ideal")


@pytest.mark.parametrize("delay", ["axonal", "synaptic"])
def test_delays_learn_with_exact_gradients(delay):
    network, params, x = small_net(delay)
    deltas = windows.from_data(network, params, [x], 0.2, "certified")
    mix = np.random.default_rng(1).normal(size=(2, 3))
    forward = {
        "closed": lambda p: net.closed_form(network, p, x)[0],
        "solver": lambda p: simulate.causal(network, p, x, deltas)[0],
    }
    losses = {k: jax.jit(lambda p, f=f: (f(p) * mix).sum()) for k, f in forward.items()}
    found = {k: jax.grad(f)(params) for k, f in losses.items()}
    leaves = (jax.tree.leaves(g) for g in found.values())
    for a, b in zip(*leaves, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)
    loss = losses["closed"]
    for name in ("conv", "dense", "readout"):
        value, step = params[name]["delay"], 1e-6
        for i in range(0, value.size, 3):
            ends = []
            for sign in (1, -1):
                moved = value.copy().ravel()
                moved[i] += sign * step
                block = {**params[name], "delay": moved.reshape(value.shape)}
                ends.append(float(loss({**params, name: block})))
            numeric = (ends[0] - ends[1]) / (2 * step)
            assert abs(numeric - float(found["solver"][name]["delay"].ravel()[i])) < 1e-6
    assert float(np.abs(found["closed"]["conv"]["delay"]).max()) > 1e-2


def test_delays_of_inputs_in_time_are_a_bias():
    network, params, _ = small_net("synaptic")
    layer, block = network.layers[1], params["dense"]
    x = np.random.default_rng(2).uniform(0.6, 1.0, (4, *network.shape_of("pool")))
    late = net.drive(layer, block, {"pool": x})
    bias = mapping.fold_delays(block["weight"], block["bias"], block["delay"])
    prompt = dataclasses.replace(layer, edges=(net.Edge("pool", net.Dense(5)),))
    np.testing.assert_allclose(
        net.drive(prompt, {**block, "bias": bias}, {"pool": x}), late, atol=1e-12
    )


# --- kernels ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("delay", ["", "synaptic"])
def test_kernels_through_solver_and_events(name, delay):
    kernel, threshold = KERNELS[name]
    network, params, x = small_net(delay, "autonomous", kernel, threshold)
    deltas = {"conv": 1.4, "dense": 1.1}
    found = agree(network, params, x, deltas, "solver", "events")
    assert all((found.leads[layer] > 0).any() for layer in deltas)
    assert any((found.leads[layer] == 0).any() for layer in deltas)
    for semantics in ("ideal", "clip"):
        with pytest.raises(ValueError, match=r"layer 'conv': rule 'autonomous' .*no closed form"):
            simulate.run(network, params, x, deltas, semantics)


def test_kernel_gradients_equal_finite_differences():
    kernel, threshold = KERNELS["lif2"]
    network, params, x = small_net("synaptic", "autonomous", kernel, threshold)
    deltas = {"conv": 1.4, "dense": 1.1}
    mix = np.random.default_rng(1).normal(size=(2, 3))
    loss = jax.jit(lambda p: (simulate.causal(network, p, x, deltas)[0] * mix).sum())
    grads, rng, step = jax.jit(jax.grad(loss))(params), np.random.default_rng(3), 1e-6
    checked = 0
    for name, block in params.items():
        for key, value in block.items():
            for i in rng.integers(0, value.size, 4):
                ends = []
                for sign in (1, -1):
                    moved = value.copy().ravel()
                    moved[i] += sign * step
                    changed = {**block, key: moved.reshape(value.shape)}
                    ends.append(float(loss({**params, name: changed})))
                numeric = (ends[0] - ends[1]) / (2 * step)
                exact = float(np.asarray(grads[name][key]).ravel()[i])
                assert abs(numeric - exact) <= 1e-6 * max(1.0, abs(exact)), (name, key, i)
                checked += exact != 0
    assert checked > 15


def test_a_layer_of_each_rule_in_one_network():
    """B1 behind LIF behind B1: the early spikes of LIF neurons act from their arrival on."""
    network, params, x = small_net("axonal")
    first, pool, second, last = network.nodes
    lif = dataclasses.replace(second, rule="autonomous", kernel=Lif2(0.5), threshold=0.2)
    third = net.Layer("late", (4,), (net.Edge("dense", net.Dense(4)),))
    last = dataclasses.replace(last, edges=(net.Edge("late", net.Dense(3)),))
    mixed = net.Network(network.input_shape, (first, pool, lif, third, last))
    rng = np.random.default_rng(5)
    params = {**params, "late": {"weight": rng.normal(0.3, 0.5, (5, 4)), "bias": np.zeros(4)}}
    params["readout"] = {"weight": rng.normal(size=(4, 3)), "bias": np.zeros(3)}
    found = agree(mixed, params, x, {"conv": 2.5, "dense": 0.8, "late": 2.0}, "solver", "events")
    assert found.early_fraction["dense"] > 0 and (found.leads["late"] > 0).any()


# --- around them --------------------------------------------------------------------------------


def test_refused_combinations_name_layer_and_rule():
    edge = (net.Edge("input", net.Dense(2)),)
    with pytest.raises(ValueError, match=r"layer 'a': kernel Lif2.* rule 'b1' is for ramps"):
        net.Layer("a", (2,), edge, kernel=Lif2())
    late = (net.Edge("input", net.Dense(2), "synaptic"),)
    for rule in ("alpha", "b1_forced"):
        with pytest.raises(ValueError, match=f"layer 'a': rule '{rule}' forces .* no delays"):
            net.Layer("a", (2,), late, rule=rule)
    with pytest.raises(ValueError, match="layer 'a': delay must be"):
        net.Layer("a", (2,), (net.Edge("input", net.Scale(), "axonal"),))
    forced = net.Layer("a", (2,), edge, rule="alpha")
    reader = net.Layer("b", (2,), (net.Edge("a", net.Dense(2)),), rule="autonomous")
    last = net.Layer("c", (2,), (net.Edge("b", net.Dense(2)),), False)
    with pytest.raises(ValueError, match="layer 'b': rule 'autonomous' cannot read layer 'a'"):
        net.Network((2,), (forced, reader, last))
    network, params, x = small_net("synaptic", "autonomous", Lif2(0.5), 0.2)
    deltas = {"conv": 1.4, "dense": 1.1}
    message = "layer 'conv': rule 'autonomous' .*no closed form"
    with pytest.raises(ValueError, match=message):
        windows.from_data(network, params, [x])
    with pytest.raises(ValueError, match=message):
        windows.certify(network, params, x, deltas)
    with pytest.raises(ValueError, match=message):
        effects.run(network, params, x, deltas, effects.Effects(), jax.random.key(0))
    with pytest.raises(ValueError, match="layer 'conv': pre-scaling"):
        mapping.prescale(network, params)
    delayed, values, _ = small_net("axonal")
    with pytest.raises(ValueError, match="layer 'conv': pre-scaling"):
        mapping.prescale(delayed, values)
    values["conv"]["delay"][0] = -0.1
    with pytest.raises(ValueError, match="layer 'conv': delay holds negative delays"):
        net.check_params(delayed, values)
    pytest.importorskip("nir")
    layers = (relu.Dense(3), relu.Relu(), relu.Dense(2))
    dense = fuse.structure(layers, (4,))
    node = dataclasses.replace(dense.nodes[0], edges=(net.Edge("input", net.Dense(3), "axonal"),))
    delayed = net.Network((4,), (node, dense.nodes[1]))
    zeros = {
        n: {k: np.zeros(s) for k, s in b.items()} for n, b in net.param_shapes(delayed).items()
    }
    with pytest.raises(ValueError, match="layer 'layer_0': delays are not exported to NIR"):
        nir_io.to_graph(delayed, zeros, {"layer_0": 1.0})


def test_storage_costs_and_pictures(tmp_path):
    network, params, x = small_net("synaptic", "autonomous", Lif2(0.5), 0.2)
    deltas = {"conv": 1.4, "dense": 1.1}
    store.save(tmp_path / "net", network, params, deltas)
    again, read, _, _ = store.load(tmp_path / "net")
    assert again == network
    np.testing.assert_array_equal(read["conv"]["delay"], params["conv"]["delay"])
    general = small_net("", "autonomous", KERNELS["general"][0])
    with pytest.raises(ValueError, match="layer 'conv': a general kernel is a Python function"):
        store.save(tmp_path / "other", general[0], general[1])
    cost = accounting.count(network, params, [x], deltas, "causal")
    leads = simulate.causal(network, params, x, deltas)[1]
    assert cost.spikes["dense"] == pytest.approx(float((leads["dense"] > 0).sum(1).mean()))
    pictures.voltages(network, params, x[0], deltas, "dense", tmp_path / "v.png")
    lead = {k: v[:1] for k, v in leads.items()}
    grid, v, theta = pictures.potentials(network, params, lead, deltas, network.hidden[1], 2000)
    inside = (leads["dense"][0] > 0) & (leads["dense"][0] < grid[-1] - grid[0] - 1e-9)
    assert inside.any()
    for i in np.flatnonzero(inside):
        assert np.interp(grid[-1] - leads["dense"][0, i], grid, v[:, i] - theta[i]) == (
            pytest.approx(0, abs=1e-3)
        )
