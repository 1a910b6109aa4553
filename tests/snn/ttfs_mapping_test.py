# SPDX-License-Identifier: Apache-2.0
"""Exactness of the mappings: ReLU logits, the three back-ends, certificates, counter-examples."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snn.ttfs import events, fuse, mapping, relu, simulate, windows
from snn.ttfs import network as net
from tests.snn.ttfs_nets import NETS, random_params, raw_input

RANGE = (-3.0, 3.0)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def case(name, rule="b1", zeta=0.5, mode="certified"):
    """(expected logits, mapped network, input lead times)."""
    layers, shape = NETS[name]
    params = random_params(layers, shape)
    raw = raw_input(shape)
    expected = np.asarray(jax.jit(lambda p, x: relu.apply(layers, p, x))(params, raw))
    x = (raw - RANGE[0]) / (RANGE[1] - RANGE[0])
    mapped = mapping.map_relu(
        layers,
        params,
        shape,
        [x],
        input_range=RANGE,
        rule=rule,
        zeta=zeta,
        windows_from=mode,
    )
    return expected, mapped, x


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        *(("mlp", rule) for rule in ("b1", "b1_forced", "alpha")),
        *(("conv_bn_pool", rule) for rule in ("b1", "alpha")),
        *((name, "b1") for name in ("pool_before_relu", "residual", "vgg")),
    ],
)
def test_all_backends_equal_the_relu_network(name, rule):
    expected, mapped, x = case(name, rule)
    certificates = windows.certify(mapped.network, mapped.params, x, mapped.windows)
    assert all(c.holds for c in certificates)
    results = {}
    for backend in ("closed", "solver", "events"):
        semantics = "clip" if backend == "closed" else "causal"
        run = simulate.run(mapped.network, mapped.params, x, mapped.windows, semantics, backend)
        assert set(run.early_fraction.values()) == {0.0}
        np.testing.assert_allclose(run.logits, expected, atol=1e-10)
        results[backend] = run.leads
    for layer, lead in results["events"].items():
        np.testing.assert_allclose(results["closed"][layer], lead, atol=1e-10)
        np.testing.assert_allclose(results["solver"][layer], lead, atol=1e-10)
    assert any((lead == 0).any() for lead in results["events"].values())


def test_alpha1_equals_the_relu_network():
    expected, mapped, x = case("conv_bn_pool")
    scaled = mapping.prescale(mapped.network, mapped.params, upper=0.5)
    network, params = mapping.to_alpha(mapped.network, scaled, rule="alpha1")
    deltas = windows.from_data(network, params, [x], 0.1, "certified")
    for backend in ("solver", "events"):
        run = simulate.run(network, params, x, deltas, "causal", backend)
        np.testing.assert_allclose(run.logits, expected, atol=1e-10)
    back, again = mapping.to_b1(network, params)
    np.testing.assert_allclose(net.closed_form(back, again, x)[0], expected, atol=1e-10)


@pytest.mark.parametrize("upper", [0.5, 0.99999])
def test_the_cap_of_prescaling_does_not_matter(upper):
    expected, mapped, x = case("vgg")
    scaled = mapping.prescale(mapped.network, mapped.params, upper=upper)
    network, params = mapping.to_alpha(mapped.network, scaled)
    np.testing.assert_allclose(net.closed_form(network, params, x)[0], expected, atol=1e-10)


# --- certificates -------------------------------------------------------------------------------


def tiny(weight, bias=0.0, rule="b1"):
    """One neuron behind the input, and an identity read-out."""
    weight = np.asarray(weight, float)[:, None]
    network = net.Network(
        (len(weight),),
        (
            net.Layer("layer_0", (1,), (net.Edge("input", net.Dense(1)),), rule=rule),
            net.Layer("readout", (1,), (net.Edge("layer_0", net.Dense(1)),), spiking=False),
        ),
    )
    params = {
        "layer_0": {"weight": weight, "bias": np.array([float(bias)])},
        "readout": {"weight": np.eye(1), "bias": np.zeros(1)},
    }
    return network, params


def test_counter_example_of_late_inhibition():
    # Activation 0, but the early input alone carries the potential to 2.5 before the second comes.
    network, params = tiny([5.0, -10.0])
    x = np.array([[1.0, 0.5]])
    small = windows.certify(network, params, x, {"layer_0": 2.4})[0]
    assert not small.holds and small.needed == pytest.approx(2.5) and small.early_fraction == 1
    with pytest.raises(ValueError, match="layer_0.*2.4.*needed 2.5"):
        windows.require([small])
    early = simulate.run(network, params, x, {"layer_0": 2.4}, "causal", "events")
    assert early.early_fraction["layer_0"] == 1.0
    times = early.times(network, {"layer_0": 2.4})["layer_0"]
    np.testing.assert_allclose(times, [[0.48]], atol=1e-12)
    solver = simulate.run(network, params, x, {"layer_0": 2.4}, "causal", "solver")
    np.testing.assert_allclose(solver.leads["layer_0"], early.leads["layer_0"], atol=1e-12)
    with pytest.raises(ValueError, match="layer 'layer_0' .rule 'b1'.: window 2.4, needed 2.5"):
        simulate.run(network, params, x, {"layer_0": 2.4}, "ideal")
    assert simulate.run(network, params, x, {"layer_0": 2.6}, "ideal").leads["layer_0"] == 0
    closed = simulate.run(network, params, x, {"layer_0": 2.4}, "clip")
    assert closed.leads["layer_0"] == 0 and closed.early_fraction["layer_0"] == 0
    assert windows.certify(network, params, x, {"layer_0": 2.6})[0].holds
    for backend in ("solver", "events"):
        run = simulate.run(network, params, x, {"layer_0": 2.6}, "causal", backend)
        assert run.leads["layer_0"] == 0


@pytest.mark.parametrize(
    ("weight", "rule", "window", "needed"),
    [
        ([5.0, -10.0], "b1", 2.5, 2.5),  # touches its threshold before t_min
        ([-3.0, 0.0], "alpha1", 1.0, np.inf),  # slope -2: the threshold is below 0 at the start
    ],
)
def test_certificate_sees_touching_and_falling_potentials(weight, rule, window, needed):
    network, params = tiny(weight, rule=rule)
    x, deltas = np.array([[1.0, 0.5]]), {"layer_0": window}
    found = windows.certify(network, params, x, deltas)[0]
    assert not found.holds and found.needed == pytest.approx(needed)
    listed = windows.summary([found], 1)
    assert not listed["exact"] and json.loads(json.dumps(listed, allow_nan=False)) == listed
    assert simulate.run(network, params, x, deltas, "clip").leads["layer_0"] == 0
    for backend in ("solver", "events"):
        assert simulate.run(network, params, x, deltas, "causal", backend).leads["layer_0"] > window


def test_the_largest_activation_is_not_enough():
    network, params = tiny([5.0, -10.0])
    with pytest.raises(ValueError, match="never spikes"):
        windows.from_data(network, params, [np.array([[1.0, 0.5]])])
    deltas = windows.from_data(network, params, [np.array([[1.0, 0.5]])], 0.0, "certified")
    assert deltas["layer_0"] == pytest.approx(2.5)
    bound = windows.from_data(network, params, [np.array([[1.0, 0.5]])], 0.0, "bound")
    assert bound["layer_0"] == pytest.approx(5.0)


@pytest.mark.parametrize("name", ["mlp", "conv_bn_pool"])
def test_early_spikes_of_solver_and_events_agree(name):
    expected, mapped, x = case(name)
    small = {k: v / 1.5 * 0.6 for k, v in mapped.windows.items()}
    events_run = simulate.run(mapped.network, mapped.params, x, small, "causal", "events")
    solver = simulate.run(mapped.network, mapped.params, x, small, "causal", "solver")
    assert max(events_run.early_fraction.values()) > 0
    assert not all(c.holds for c in windows.certify(mapped.network, mapped.params, x, small))
    np.testing.assert_allclose(solver.logits, events_run.logits, atol=1e-10)
    for layer, lead in events_run.leads.items():
        np.testing.assert_allclose(solver.leads[layer], lead, atol=1e-10)
    assert np.abs(events_run.logits - expected).max() > 1e-3


def test_certificate_is_necessary_and_sufficient_layer_by_layer():
    _, mapped, x = case("mlp", zeta=0.0)
    name = mapped.network.hidden[0].name
    for factor, exact in ((1.0 + 1e-9, True), (1.0 - 1e-6, False)):
        deltas = {**mapped.windows, name: mapped.windows[name] * factor}
        holds = windows.certify(mapped.network, mapped.params, x, deltas)[0].holds
        run = simulate.run(mapped.network, mapped.params, x, deltas, "causal", "events")
        assert holds is exact and (run.early_fraction[name] == 0) is exact


def test_large_windows_in_float32_keep_the_precision_of_relu():
    expected, mapped, x = case("mlp")
    wide = {k: 1000 * v for k, v in mapped.windows.items()}
    with jax.enable_x64(False):
        params = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), mapped.params)
        x32 = jnp.asarray(x, jnp.float32)
        logits, _ = net.closed_form(mapped.network, params, x32, wide, "clip")
        plain, _ = net.closed_form(mapped.network, params, x32)
        np.testing.assert_array_equal(logits, plain)
        np.testing.assert_allclose(logits, expected, atol=5e-5)


# --- common slips -------------------------------------------------------------------------------


def test_one_bias_for_all_positions_would_be_wrong():
    expected, mapped, x = case("conv_bn_pool")
    block = mapped.params["layer_1"]
    assert block["bias"].ndim == 3
    flat = {**mapped.params, "layer_1": {**block, "bias": block["bias"][1, 1]}}
    assert np.abs(net.closed_form(mapped.network, flat, x)[0] - expected).max() > 0.01


def test_forgetting_the_latest_spike_would_be_wrong():
    expected, mapped, x = case("conv_bn_pool")
    nodes = tuple(
        type(n)(**{**n.__dict__, "latest": ()}) if isinstance(n, net.Pool) else n
        for n in mapped.network.nodes
    )
    assert any(any(n.latest) for n in mapped.network.nodes if isinstance(n, net.Pool))
    wrong = net.closed_form(net.Network(mapped.network.input_shape, nodes), mapped.params, x)[0]
    assert np.abs(wrong - expected).max() > 0.01


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ((relu.Flatten(), relu.Dense(4), relu.Relu()), "last layer"),
        ((relu.Flatten(), relu.Dense(4), relu.Dense(3)), "2_dense.*without a ReLU"),
        ((relu.Conv(3, (3, 3)), relu.AvgPool(), relu.Flatten(), relu.Dense(2)), "1_avgpool"),
        ((relu.Conv(3, (3, 3)), relu.Residual((relu.Relu(),)), relu.Flatten()), "1_residual"),
        ((relu.Conv(3, (9, 9), padding="VALID"),), "leaves nothing"),
    ],
)
def test_unsupported_networks_are_explained(layers, words):
    shape = (6, 6, 1)
    with pytest.raises(ValueError, match=words):
        fuse.fuse(layers, random_params(layers, shape), shape)


def test_bad_values_name_layer_and_rule():
    layers, shape = NETS["mlp"]
    params = random_params(layers, shape)
    params["3_dense"]["weight"][2, 2] = np.nan
    with pytest.raises(ValueError, match="3_dense: weight holds NaN"):
        fuse.fuse(layers, params, shape)
    expected, mapped, x = case("mlp")
    with pytest.raises(ValueError, match=r"lead times must lie in \[0, 1\]"):
        simulate.run(mapped.network, mapped.params, 255 * x, mapped.windows, "clip")
    broken = {**mapped.params, "layer_1": {**mapped.params["layer_1"], "weight": np.ones((2, 2))}}
    with pytest.raises(ValueError, match="layer_1.*expected"):
        simulate.run(mapped.network, broken, x, mapped.windows, "clip")
    with pytest.raises(ValueError, match="layer_0.*positive"):
        simulate.run(mapped.network, mapped.params, x, {"layer_0": 0.0}, "clip")
    with pytest.raises(ValueError, match="causal semantics"):
        simulate.run(mapped.network, mapped.params, x, mapped.windows, "causal", "closed")
    with pytest.raises(ValueError, match="layer_0.*prescale"):
        mapping.to_alpha(*_steep())
    with pytest.raises(ValueError, match="empty"):
        net.Layer("layer_0", (0,), (net.Edge("input", net.Dense(0)),))


def _steep():
    return tiny([2.0, 1.0])


def test_events_handle_an_empty_input():
    network, params = tiny([1.0, 1.0], bias=0.25)
    logits, leads = events.run(network, params, np.zeros((1, 2)), {"layer_0": 2.0})
    assert logits[0, 0] == pytest.approx(0.25) and leads["layer_0"][0, 0] == pytest.approx(0.25)
