# SPDX-License-Identifier: Apache-2.0
"""Training: gradients and trajectories of B1 against ReLU, alpha1, windows, effects, a run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from core import params as params_lib
from snn.tasks import ttfs as task_lib
from snn.ttfs import effects, fuse, images, mapping, relu, simulate, windows
from snn.ttfs import network as net
from snn.ttfs.solve import causal_solve
from tests.snn.ttfs_nets import NETS, random_params

DEEP, SHALLOW = (64,) * 7, (48, 32)


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def digits():
    pytest.importorskip("sklearn")
    data = images.load("digits")
    return data.train / 16.0, data.train_labels.astype(np.int32)


def relu_params(params, layers, network):
    """The parameters of a B1 network under the names of the ReLU network."""
    names = [
        name
        for name, layer in zip(relu.layer_names(layers), layers, strict=True)
        if isinstance(layer, relu.Dense | relu.Conv)
    ]
    return {a: params[b.name] for a, b in zip(names, network.layers, strict=True)}


def test_b1_gradients_equal_the_relu_networks(float64):
    layers, shape = relu.lenet((3, 4), (12,), 10), (18, 18, 2)
    network, params = fuse.fuse(layers, random_params(layers, shape), shape)
    rng = np.random.default_rng(0)
    x, labels = rng.uniform(size=(6, *shape)), rng.integers(0, 10, 6)
    deltas = windows.from_data(network, params, [x], 0.1, "certified")

    def spiking(p, semantics):
        if semantics == "causal":
            logits, _ = simulate.causal(network, p, x, deltas)
        else:
            logits, _ = net.closed_form(network, p, x, deltas, semantics)
        return task_lib.cross_entropy(logits, labels)

    plain = lambda p: task_lib.cross_entropy(relu.apply(layers, p, x), labels)
    expected = jax.jit(jax.grad(plain))(relu_params(params, layers, network))
    for semantics in ("ideal", "clip", "causal"):
        found = jax.jit(jax.grad(spiking), static_argnums=1)(params, semantics)
        for a, b in zip(
            jax.tree.leaves(relu_params(found, layers, network)),
            jax.tree.leaves(expected),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * float(jnp.abs(b).max() + 1))


def train(loss, params, steps, rate, tx=None):
    """Parameters after SGD (or tx) on the digits, batch 16, in the given order."""
    x, labels = digits()
    tx = tx or optax.sgd(rate)

    @jax.jit
    def step(carry, start):
        params, state = carry
        rows = (start * 16 + jnp.arange(16)) % len(labels)
        grads = jax.grad(loss)(params, jnp.asarray(x)[rows], jnp.asarray(labels)[rows])
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), jnp.arange(steps))
    return params


def initial(hidden, rule="b1", init="he"):
    layers = relu.mlp(hidden, 10)
    network = fuse.structure(layers, (8, 8, 1)).with_rule(rule)
    specs = task_lib.param_specs(network, init)
    params = params_lib.init(specs, jax.random.key(3))
    return layers, network, jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)


@pytest.mark.parametrize(
    ("hidden", "rate", "adam", "steps", "tolerance"),
    [
        (SHALLOW, 5e-2, False, 200, 8e-16),
        (DEEP, 5e-2, False, 200, 8e-15),
        (SHALLOW, 5e-4, True, 5000, 1e-14),
        (DEEP, 5e-4, True, 5000, 7e-8),
    ],
)
def test_b1_trajectory_equals_the_relu_networks(float64, hidden, rate, adam, steps, tolerance):
    layers, network, params = initial(hidden)
    spiking = lambda p, x, y: task_lib.cross_entropy(net.closed_form(network, p, x)[0], y)
    plain = lambda p, x, y: task_lib.cross_entropy(relu.apply(layers, p, x), y)
    tx = optax.adam(rate) if adam else None
    ours = train(spiking, params, steps, rate, tx)
    theirs = train(plain, relu_params(params, layers, network), steps, rate, tx)
    gap = jax.tree.map(
        lambda a, b: float(jnp.abs(a - b).max()), relu_params(ours, layers, network), theirs
    )
    assert max(jax.tree.leaves(gap)) <= tolerance
    moved = jnp.abs(ours["layer_0"]["weight"] - params["layer_0"]["weight"]).max()
    assert moved > 1e-3


def single_regime(network, params, x):
    """B1 by spike times alone: every layer is solved from arrivals, constant drives 1 - sum W and
    thresholds, over its whole window; silent neurons are forced to spike at its end."""
    lead, before = x.reshape(x.shape[0], -1), 1.0
    for layer, window in zip(network.hidden, (10.0, 100.0), strict=True):  # thresholds stay > 0
        weight, bias = params[layer.name]["weight"], params[layer.name]["bias"]
        drive = 1.0 - weight.sum(axis=0)
        theta = window + drive * before - bias
        times = causal_solve(-lead, weight, theta, drive=drive, start=-before)
        lead, before = jnp.where(times < window, window - times, 0.0), window
    last = params[network.readout.name]
    return last["bias"] + lead @ last["weight"]


@pytest.mark.parametrize(
    ("form", "tolerance"), [("causal", 8e-16), ("single regime", 1e-13), ("deep causal", 8e-15)]
)
def test_b1_trajectory_of_the_full_simulator(float64, form, tolerance):
    layers, network, params = initial(DEEP if "deep" in form else SHALLOW)
    deltas = {layer.name: 30.0 for layer in network.hidden}

    def spiking(p, x, y):
        if form == "single regime":
            return task_lib.cross_entropy(single_regime(network, p, x), y)
        return task_lib.cross_entropy(simulate.causal(network, p, x, deltas)[0], y)

    plain = lambda p, x, y: task_lib.cross_entropy(relu.apply(layers, p, x), y)
    ours = train(spiking, params, 200, 5e-2)
    theirs = train(plain, relu_params(params, layers, network), 200, 5e-2)
    pairs = zip(
        jax.tree.leaves(relu_params(ours, layers, network)), jax.tree.leaves(theirs), strict=True
    )
    gap = max(float(jnp.abs(a - b).max()) for a, b in pairs)
    assert gap <= tolerance, gap
    moved = jnp.abs(ours["layer_0"]["weight"] - params["layer_0"]["weight"]).max()
    assert moved > 1e-3


def test_alpha1_smart_leaves_the_relu_trajectory(float64):
    # The published finding: equal at step 0, another metric afterwards.
    layers, network, params = initial(SHALLOW, "alpha1", "alpha1_smart")
    b1, effective = mapping.to_b1(network, params)
    x, _ = digits()
    np.testing.assert_allclose(
        net.closed_form(network, params, x[:50])[0],
        net.closed_form(b1, effective, x[:50])[0],
        atol=1e-10,
    )
    loss = lambda n: lambda p, x, y: task_lib.cross_entropy(net.closed_form(n, p, x)[0], y)
    _, alpha = mapping.to_b1(network, train(loss(network), params, 200, 5e-4))
    reference = train(loss(b1), jax.tree.map(jnp.asarray, effective), 200, 5e-4)
    flat = lambda p: jnp.concatenate([x.ravel() for x in jax.tree.leaves(p)])
    a, b = flat(alpha), flat(reference)
    distance = 1 - float(a @ b / jnp.linalg.norm(a) / jnp.linalg.norm(b))
    assert 1e-5 < distance < 0.05


def test_standard_alpha1_initialisation_has_neurons_that_cannot_fire():
    network = fuse.structure(relu.mlp((340,), 10), (18, 18, 1)).with_rule("alpha1")
    params = params_lib.init(task_lib.param_specs(network), jax.random.key(0))
    slope = 1.0 + net.weight_sums(network.layers[0], params["layer_0"])
    assert 0.12 < float((slope <= 0).mean()) < 0.35  # about 0.22 for He initialisation
    smart = params_lib.init(task_lib.param_specs(network, "alpha1_smart"), jax.random.key(0))
    slope = 1.0 + net.weight_sums(network.layers[0], smart["layer_0"])
    assert float(slope.min()) > 0


def test_windows_grow_with_gamma_and_only_grow():
    network = fuse.structure(relu.mlp((6,), 3), (4, 4, 1))
    task = task_lib.TtfsTask(network, task_lib.TaskConfig(window=2.0))
    params = params_lib.init(task.param_specs(), jax.random.key(0))
    batch = {
        "image": np.full((2, 4, 4, 1), 255, np.uint8),
        "label": np.zeros(2, np.int32),
    }
    _, (carry, aux) = task.loss(params, task.init_carry(2), batch, jax.random.key(1))
    _, leads = net.closed_form(network, params, jnp.ones((2, 4, 4, 1)))
    expected = max(2.0, 10.0 * float(leads["layer_0"].max()))
    assert float(carry["layer_0"]) == pytest.approx(expected) and expected > 2.0
    assert float(aux["latency"]) == pytest.approx(1.0 + expected)
    dark = {**batch, "image": np.zeros((2, 4, 4, 1), np.uint8)}
    _, (again, _) = task.loss(params, carry, dark, jax.random.key(1))
    assert float(again["layer_0"]) == float(carry["layer_0"])


# --- effects ------------------------------------------------------------------------------------


def small_net():
    layers, shape = NETS["mlp"]
    network, params = fuse.fuse(layers, random_params(layers, shape), shape)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(5, *shape)), jnp.float32)
    return network, params, x, windows.from_data(network, params, [x])


def run_effects(how, seed=0):
    network, params, x, deltas = small_net()
    return effects.run(network, params, x, deltas, how, jax.random.key(seed))


def test_effects_off_is_the_ideal_network_and_on_changes_it():
    network, params, x, deltas = small_net()
    logits, _ = net.closed_form(network, params, x, deltas, "clip")
    np.testing.assert_array_equal(run_effects(effects.Effects())[0], logits)
    for change in ("jitter", "missing", "threshold", "slope"):
        other, leads = run_effects(effects.Effects(**{change: 0.1}))
        assert np.abs(other - logits).max() > 1e-3, change
        assert all(float(v.min()) >= 0 for v in leads.values())
    for change in ("time_bits", "weight_bits"):
        errors = [
            float(np.abs(run_effects(effects.Effects(**{change: b}))[0] - logits).max())
            for b in (3, 6, 12)
        ]
        assert errors[0] > errors[1] > errors[2] > 0


def test_jitter_creates_no_spikes_and_times_lie_on_the_clock():
    network, params, x, deltas = small_net()
    _, clean = net.closed_form(network, params, x, deltas, "clip")
    _, noisy = run_effects(effects.Effects(jitter=0.5))
    first = network.hidden[0].name
    assert bool(((noisy["input"] > 0) <= (clean["input"] > 0)).all())
    assert not np.array_equal(noisy["input"], clean["input"])
    _, clocked = run_effects(effects.Effects(time_bits=4))
    steps = np.asarray(clocked[first]) / (deltas[first] / 15)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)


def test_rounding_passes_gradients_straight_through():
    grad = jax.grad(lambda x: effects.quantise_times(x, 2.0, 3).sum())
    np.testing.assert_array_equal(grad(jnp.array([0.1, 1.3, 2.5])), [1.0, 1.0, 0.0])
    block = {"weight": jnp.array([[0.3, -1.0]]), "bias": jnp.array([0.123])}
    rounded = effects.quantise_weights(block, 3)
    np.testing.assert_allclose(rounded["weight"], [[1 / 3, -1.0]], rtol=1e-6)
    assert float(rounded["bias"][0]) == float(block["bias"][0])


def test_bad_effects_are_explained():
    with pytest.raises(ValueError, match="missing < 1"):
        effects.Effects(missing=1.0)
    with pytest.raises(ValueError, match="bits"):
        effects.Effects(weight_bits=1)
