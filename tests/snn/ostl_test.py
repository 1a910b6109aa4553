# SPDX-License-Identifier: Apache-2.0
"""Online rules: equality with BPTT where they are exact, with plain loops where they are not."""

import gzip
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from core.datasets import find_dataset
from snn import cells, ostl
from tests.snn.ostl_nets import cosine, errors, gradient, problem, snu, squared
from tests.snn.ostl_oracle import layer_gradients

EXACT = 1e-10


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


FEED_FORWARD = {
    "snu": snu(5, 7, membrane="leaky_relu"),
    "snu-step": snu(5, 7, fire="step", membrane="tanh", threshold=0.2),
    "alif-step": cells.Alif(5, 7, train_decay=True, refractory=2, beta=0.3, threshold=0.5),
    "self-driven": cells.AdaptiveSnu(5, 7, fire="sigmoid", train_decay=True),
    "threshold-modulated": cells.ThresholdModulated(5, 7, fire="sigmoid", train_decay=True),
    "output-modulated": cells.OutputModulated(5, 7, fire="sigmoid", train_decay=True),
    "output-modulated-sent": cells.OutputModulated(5, 7, fire="step", reset_by="sent"),
    "lstm": cells.Lstm(5, 7, recurrent=False),
    "lru": cells.Lru(5, 7),
    "lateral": cells.LateralSnu(5, 7, fire="sigmoid"),
}
RECURRENT = {
    "snu": snu(5, 7, membrane="leaky_relu", recurrent=True),
    "snu-step": snu(5, 7, fire="step", threshold=0.2, recurrent=True),
    "alif": cells.Alif(5, 7, fire="sigmoid", beta=0.3, recurrent=True),
    "threshold-modulated": cells.ThresholdModulated(5, 7, fire="step", recurrent=True),
    "output-modulated-sent": cells.OutputModulated(
        5, 7, fire="sigmoid", reset_by="sent", train_decay=True, recurrent=True
    ),
    "lstm": cells.Lstm(5, 7),
    "gru": cells.Gru(5, 7),
}


@pytest.mark.parametrize("name", FEED_FORWARD)
def test_feed_forward_layer_is_exact(name):
    net = FEED_FORWARD[name]
    value, exact = gradient(ostl.Bptt(), net, *problem(net))
    online, grads = gradient(ostl.Ostl(), net, *problem(net))
    assert max(errors(grads, exact).values()) < EXACT
    np.testing.assert_allclose(online, value, rtol=1e-12)


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layer_is_exact(name):
    net = RECURRENT[name]
    _, exact = gradient(ostl.Bptt(), net, *problem(net))
    assert max(errors(gradient(ostl.Ostl(), net, *problem(net))[1], exact).values()) < EXACT
    # The reset of a step without H is exact; with H, dropping its way must show.
    approximate = gradient(ostl.Ostl(recurrent="without_h"), net, *problem(net))[1]
    assert 1e-3 < max(errors(approximate, exact).values()) < 10


def test_exact_for_any_weights_and_inputs():
    """One compiled pair of gradients, many draws: scales, decays, silent and saturated units."""
    hypothesis = pytest.importorskip("hypothesis")
    strategies = hypothesis.strategies
    net = snu(3, 4, recurrent=True, fire="step", membrane="leaky_relu")
    grad = lambda method: jax.jit(
        lambda p, xs, t: ostl.value_and_grad(method, net, squared)(
            p, ostl.init(method, net, p, 1), xs, t
        )[1]
    )
    online, offline = grad(ostl.Ostl()), grad(ostl.Bptt())

    @hypothesis.settings(max_examples=30)
    @hypothesis.given(
        strategies.integers(0, 2**31),
        strategies.floats(0.0, 2.0),
        strategies.floats(-4.0, 4.0),
        strategies.floats(-6.0, 6.0),
    )
    def check(seed, scale, bias, logit):
        rng = np.random.default_rng(seed)
        draw = lambda *shape: jnp.asarray(scale * rng.normal(size=shape))
        params = {"w": draw(3, 4), "h": draw(4, 4), "bias": bias + draw(4)}
        params["decay_logit"] = jnp.full(4, logit)
        xs, targets = draw(15, 1, 3), draw(15, 1, 4)
        found, wanted = online(params, xs, targets), offline(params, xs, targets)
        for name in wanted:
            size = float(jnp.linalg.norm(wanted[name]))
            assert float(jnp.linalg.norm(found[name] - wanted[name])) <= EXACT * size + 1e-300, name

    check()


def test_generic_recursion_gives_the_same_numbers():
    net = RECURRENT["lstm"]
    _, exact = gradient(ostl.Bptt(), net, *problem(net))
    generic = gradient(ostl.Ostl(recurrent="generic"), net, *problem(net))[1]
    assert max(errors(generic, exact).values()) < EXACT


def test_without_h_is_exact_when_h_is_zero():
    net = snu(5, 7, recurrent=True)
    params, xs, targets = problem(net)
    params = {**params, "h": jnp.zeros_like(params["h"])}
    _, exact = gradient(ostl.Bptt(), net, params, xs, targets)
    for method in (ostl.Ostl(recurrent="without_h"), ostl.Snap1()):
        assert max(errors(gradient(method, net, params, xs, targets)[1], exact).values()) < EXACT


@pytest.mark.parametrize(
    "rule, method",
    [
        ("full", ostl.Ostl()),
        ("without_h", ostl.Ostl(recurrent="without_h")),
        ("snap1", ostl.Snap1()),
        ("eprop", ostl.Eprop()),
        ("filter", ostl.Ottt()),
        ("filter", ostl.Rflo()),
    ],
)
def test_rules_equal_their_plain_loops(rule, method):
    net = cells.Snu(5, 7, fire="sigmoid", recurrent=True, decay=0.6)
    params, xs, targets = problem(net, batch=1)
    if rule == "filter":  # the loop treats b as these methods do: by its immediate effect
        params = {**params, "bias": jnp.zeros(7)}
    grads = gradient(method, net, params, xs, targets)[1]
    w, h, b = (np.asarray(params[name]) for name in ("w", "h", "bias"))
    wanted = layer_gradients(
        rule, w.T, h.T, b, 0.6, np.asarray(xs[:, 0]), np.asarray(targets[:, 0])
    )
    for name, want in zip(("w", "h", "bias"), wanted, strict=True):
        np.testing.assert_allclose(grads[name], want.T, rtol=1e-9, atol=1e-12, err_msg=name)


# --- stacks ---------------------------------------------------------------------------------------


def published_stack():
    """6-8-7-6, soft units, d = 0.8, T = 40: the case of the deep error table."""
    net = cells.Stack((snu(6, 8), snu(8, 7), snu(7, 6)))
    return net, problem(net, steps=40, noise=0.0)


def test_deep_error_and_what_keeping_the_past_repairs():
    net, case = published_stack()
    _, exact = gradient(ostl.Bptt(), net, *case)
    dropped = gradient(ostl.Ostl(), net, *case)[1]
    found = errors(dropped, exact)
    # The reference errors are .81, .55 and 3e-16, the cosines .90, .91 and 1.
    assert 0.5 < found["layer_0/w"] < 1.0 and 0.3 < found["layer_1/w"] < 0.8
    assert max(e for path, e in found.items() if path.startswith("layer_2")) < EXACT
    angles = [cosine(dropped[f"layer_{i}"], exact[f"layer_{i}"]) for i in range(3)]
    assert 0.7 < angles[0] < 0.99 and 0.7 < angles[1] < 0.99 and angles[2] > 1 - 1e-12
    assert jnp.linalg.norm(dropped["layer_0"]["w"]) < jnp.linalg.norm(exact["layer_0"]["w"])
    kept = gradient(ostl.Ostl(deep="kept"), net, *case)[1]
    assert max(errors(kept, exact).values()) < EXACT


def mixed_stack():
    return cells.Stack(
        (
            cells.Dense(4, 4),
            snu(4, 5),
            cells.Activation(5, "tanh"),
            cells.Dense(5, 4),
            cells.Gru(4, 4),
            cells.Dense(4, 3),
            cells.Activation(3, "sigmoid"),
        )
    )


def test_mixed_stack_top_is_exact_and_kept_is_exact_everywhere():
    net = mixed_stack()
    case = problem(net)
    _, exact = gradient(ostl.Bptt(), net, *case)
    found = errors(gradient(ostl.Ostl(), net, *case)[1], exact)
    top = {path: e for path, e in found.items() if int(path[6]) >= 4}
    assert max(top.values()) < EXACT and found["layer_0/w"] > 1e-3
    assert max(errors(gradient(ostl.Ostl(deep="kept"), net, *case)[1], exact).values()) < EXACT


def test_tied_weights_with_tokens():
    net = cells.Stack((cells.Embedding(9, 4), snu(4, 4), cells.Dense(4, 9)), tied=((2, 0),))
    params, _, targets = problem(net)
    tokens = jnp.asarray(np.random.default_rng(2).integers(0, 9, targets.shape[:2]))
    _, exact = gradient(ostl.Bptt(), net, params, tokens, targets)
    kept = gradient(ostl.Ostl(deep="kept"), net, params, tokens, targets)[1]
    assert max(errors(kept, exact).values()) < EXACT
    found = errors(gradient(ostl.Ostl(), net, params, tokens, targets)[1], exact)
    assert found["layer_1/w"] < EXACT < found["layer_0/w"] < 1


def test_random_feedback_trains_the_top_exactly_and_the_rest_in_another_direction():
    net = cells.Stack((snu(6, 8), snu(8, 7), cells.Dense(7, 6)))
    case = problem(net)
    exact = gradient(ostl.Ostl(), net, *case)[1]
    random = gradient(ostl.Ostl(feedback="random"), net, *case)[1]
    found = errors(random, exact)
    assert max(e for path, e in found.items() if path.startswith("layer_2")) < EXACT
    assert abs(cosine(random["layer_0"], exact["layer_0"])) < 0.95
    again = gradient(ostl.Ostl(feedback="random", seed=1), net, *case)[1]
    assert errors(again, random)["layer_0/w"] > 0.1


# --- noise, truncation ----------------------------------------------------------------------------


def test_uoro_is_unbiased():
    net = cells.Snu(3, 3, fire="sigmoid", recurrent=True)
    params, xs, targets = problem(net, steps=6, batch=1)
    _, exact = gradient(ostl.Bptt(), net, params, xs, targets)
    carry = ostl.init(ostl.Uoro(), net, params, 1)
    f = ostl.value_and_grad(ostl.Uoro(), net, squared)
    draws = 20_000
    keys = jax.random.key_data(jax.random.split(jax.random.key(3), draws))
    many = jax.jit(jax.vmap(lambda key: f(params, carry._replace(key=key), xs, targets)[1]))(keys)
    for name, wanted in exact.items():
        mean, spread = many[name].mean(0), many[name].std(0)
        assert np.all(spread > 0)
        # Four standard errors, 21 numbers, one fixed seed.
        np.testing.assert_array_less(jnp.abs(mean - wanted), 4 * spread / draws**0.5 + 1e-12)


def test_checkpointed_bptt_is_exact():
    net = snu(4, 5, recurrent=True)
    case = problem(net, steps=11)
    _, exact = gradient(ostl.Bptt(), net, *case)
    for method in (ostl.CheckpointedBptt(), ostl.CheckpointedBptt(4)):
        assert max(errors(gradient(method, net, *case)[1], exact).values()) < EXACT


def test_truncated_bptt_cuts_where_it_says():
    net = snu(4, 5, recurrent=True)
    params, xs, targets = problem(net, steps=10)
    _, whole = gradient(ostl.Bptt(), net, params, xs, targets)
    assert errors(gradient(ostl.TruncatedBptt(10), net, params, xs, targets)[1], whole)["w"] < EXACT
    # Cut after 4 steps: the sum of separate gradients, the state handed on as a constant.
    f = ostl.value_and_grad(ostl.Bptt(), net, squared)
    carry, total = net.init_state(2, jnp.float64), jax.tree.map(jnp.zeros_like, params)
    for part in (slice(0, 4), slice(4, 8), slice(8, 10)):
        (_, carry), total = f(params, carry, xs[part], targets[part], total)
    cut = gradient(ostl.TruncatedBptt(4), net, params, xs, targets)[1]
    assert max(errors(cut, total).values()) < EXACT < errors(cut, whole)["w"]


# --- time: streaming, update modes, memory --------------------------------------------------------


@pytest.mark.parametrize("method", [ostl.Ostl(), ostl.Uoro()], ids=["ostl", "uoro"])
def test_streaming_in_chunks_is_bit_equal(method):
    net = mixed_stack() if isinstance(method, ostl.Ostl) else RECURRENT["gru"]
    params, xs, targets = problem(net, steps=12)
    start = ostl.init(method, net, params, 2)
    f = jax.jit(ostl.value_and_grad(method, net, squared))
    (_, end), whole = f(params, start, xs, targets)
    carry, grads = start, None
    for part in (slice(0, 4), slice(4, 8), slice(8, 12)):
        (_, carry), grads = f(params, carry, xs[part], targets[part], grads)
    same = jax.tree.map(lambda a, b: bool(jnp.all(a == b)), (end, whole), (carry, grads))
    assert jax.tree.all(same)


def test_update_modes():
    net = snu(4, 5, recurrent=True)
    params, xs, targets = problem(net, steps=10)

    def learn(method, rate, every):
        tx = optax.sgd(rate)
        carry = ostl.init(method, net, params, 2)
        f = jax.jit(ostl.update(method, net, squared, tx, every))
        return f(params, tx.init(params), carry, xs, targets)[0]

    change = lambda new: jax.tree.map(jnp.subtract, new, params)
    rate = 1e-3
    deferred = learn(ostl.Ostl(), rate, None)
    exact = jax.tree.map(lambda g: -rate * g, gradient(ostl.Bptt(), net, params, xs, targets)[1])
    assert max(errors(change(deferred), exact).values()) < 1e-9
    # k = T is the deferred mode; the rest of T / k is a shorter stretch.
    assert max(errors(learn(ostl.Ostl(), rate, 10), deferred).values()) < EXACT
    # Learning within the sequence differs to first order in the rate.
    away = [
        errors(change(learn(ostl.Ostl(), r, 1)), change(learn(ostl.Ostl(), r, None)))["w"]
        for r in (1e-3, 1e-4)
    ]
    assert 5 < away[0] / away[1] < 20
    # Plain loop for k = 3: update after steps 3, 6, 9 and 10, traces carried on.
    f = ostl.value_and_grad(ostl.Ostl(), net, squared)
    held, carry = params, ostl.init(ostl.Ostl(), net, params, 2)
    for part in (slice(0, 3), slice(3, 6), slice(6, 9), slice(9, 10)):
        (_, carry), grads = f(held, carry, xs[part], targets[part])
        held = jax.tree.map(lambda p, g: p - rate * g, held, grads)
    assert max(errors(learn(ostl.Ostl(), rate, 3), held).values()) < EXACT


def temporary_bytes(method, net, steps):
    """Compiled temporaries, with the inputs made inside the loop."""
    params, _, _ = problem(net, steps=1)
    carry = ostl.init(method, net, params, 2)
    source = lambda t: jnp.sin(t * jnp.arange(1.0, net.input_size + 1)) * jnp.ones((2, 1))

    class Fed:
        """The net, reading the time instead of an input."""

        input_size, output_size = 1, net.output_size
        param_specs, init_state = net.param_specs, net.init_state

        def step(self, params, state, t):
            return net.step(params, state, source(t[0, 0]))

    if isinstance(method, ostl.Ostl):
        body = lambda held, t: (lambda v, c, g: ((c, jax.tree.map(jnp.add, held[1], g)), v))(
            *method.step(net, squared, params, held[0], source(t), 0.0)
        )
        zero = jax.tree.map(jnp.zeros_like, params)
        f = lambda carry, times: jax.lax.scan(
            lambda held, t: (body(held, t)[0], None), (carry, zero), times
        )[0][1]
        args = (carry, jnp.zeros(steps))
    else:
        f = lambda carry, times: method.grads(Fed(), squared, params, carry, times, times)[2]
        args = (carry, jnp.zeros((steps, 1, 1)))
    return jax.jit(f).lower(*args).compile().memory_analysis().temp_size_in_bytes


def test_memory_does_not_grow_with_time():
    net = snu(16, 32)
    online = [temporary_bytes(ostl.Ostl(), net, steps) for steps in (100, 100_000)]
    offline = [temporary_bytes(ostl.Bptt(), net, steps) for steps in (100, 1000)]
    assert online[1] - online[0] < 1024
    assert offline[1] > 5 * offline[0]


def test_feed_forward_traces_have_one_number_for_each_weight():
    def numbers(net):
        params = problem(net)[0]
        carry = ostl.init(ostl.Ostl(), net, params, 3)
        return sum(leaf.size for leaf in jax.tree.leaves(carry.traces)) / 3

    m, n = 40, 60
    assert m * n < numbers(snu(m, n)) <= m * n + 10 * n
    # Two memories and two matrices: four numbers for each pair of an input and a unit.
    assert 4 * m * n < numbers(cells.ThresholdModulated(m, n)) <= 4 * m * n + 20 * n


# --- the network of the published task ------------------------------------------------------------


def test_jsb_network_of_the_published_size():
    """88-150-88, first training chorale; initial values drawn as the original code draws them."""
    try:
        folder = find_dataset("jsb_chorales")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    with gzip.open(folder / "jsb-chorales-quarter.json.gz") as file:
        chorale = json.load(file)["train"][0]
    roll = np.zeros((len(chorale), 1, 88))
    for t, notes in enumerate(chorale):
        roll[t, 0, np.array(notes, int) - 21] = 1
    assert len(chorale) == 129
    rng = np.random.RandomState(1234)
    glorot = lambda *shape: rng.uniform(-1, 1, shape) * np.sqrt(6 / sum(shape))
    w, h, out = glorot(88, 150), glorot(150, 150), glorot(150, 88)
    net = cells.Stack(
        (
            cells.Snu(88, 150, recurrent=True, fire="sigmoid", decay=0.4, train_decay=True),
            cells.Dense(150, 88),
        )
    )
    params = {
        "layer_0": {
            "w": w,
            "h": h,
            "bias": -np.ones(150),
            "decay_logit": np.full(150, np.log(0.4 / 0.6)),
        },
        "layer_1": {"w": out, "bias": np.zeros(88)},
    }
    params = jax.tree.map(jnp.asarray, params)
    loss = lambda y, t: optax.sigmoid_binary_cross_entropy(y, t).sum()
    xs, targets = jnp.asarray(roll[:-1]), jnp.asarray(roll[1:])
    value, exact = gradient(ostl.Bptt(), net, params, xs, targets, loss)
    online, grads = gradient(ostl.Ostl(), net, params, xs, targets, loss)
    assert max(errors(grads, exact).values()) < EXACT
    np.testing.assert_allclose(value, 8031.176825, rtol=1e-9)
    np.testing.assert_allclose(online, value, rtol=1e-12)
