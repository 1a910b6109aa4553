# SPDX-License-Identifier: Apache-2.0
"""Transducer loss: every path by hand, published values, invariants, the frame-wise joint."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snn.speech import transducer

ROWS, TIME, LABELS, VOCABULARY = 3, 4, 3, 5
FRAMES, COUNTS = np.array([4, 3, 1], np.int32), np.array([3, 0, 2], np.int32)


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def log_softmax(x):
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def brute_force(logits, labels, blank=0, fast_emit=0.0, delay_penalty=0.0):
    """(loss, gradient) of one row [T, U + 1, V] by visiting every path.

    FastEmit scales the derivative with respect to the scores of labels (its definition).
    """
    time, width, _ = logits.shape
    scores = log_softmax(logits)
    paths, nodes = [], []
    # The last step is always the blank of the last frame: order the others freely.
    steps = time - 1 + width - 1
    for moves in itertools.combinations(range(steps), width - 1):
        t = u = 0
        total, visited = 0.0, []
        for step in range(steps):
            if step in moves:
                total += scores[t, u, labels[u]] + delay_penalty * ((time - 1) / 2 - t)
                visited.append((t, u, labels[u]))
                u += 1
            else:
                total += scores[t, u, blank]
                visited.append((t, u, blank))
                t += 1
        paths.append(total + scores[t, u, blank])
        nodes.append([*visited, (t, u, blank)])
    paths = np.array(paths)
    log_p = paths.max() + np.log(np.exp(paths - paths.max()).sum())
    gradient = np.zeros_like(logits)
    for total, visited in zip(paths, nodes, strict=True):
        for t, u, k in visited:
            weight = np.exp(total - log_p) * (1.0 if k == blank else 1 + fast_emit)
            gradient[t, u] += weight * np.exp(scores[t, u])
            gradient[t, u, k] -= weight
    return -log_p, gradient


def random_batch(seed=0, blank=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(ROWS, TIME, LABELS + 1, VOCABULARY)) * 2
    labels = (blank + rng.integers(1, VOCABULARY, (ROWS, LABELS))) % VOCABULARY
    return logits, labels.astype(np.int32)


@jax.jit
def loss_and_gradient(logits, labels, frames, counts):
    losses = lambda x: transducer.transducer_loss(x, labels, frames, counts)
    values, pull_back = jax.vjp(losses, logits)
    return values, pull_back(jnp.ones_like(values))[0]


@pytest.mark.parametrize(
    ("blank", "fast_emit", "delay_penalty"), [(0, 0, 0), (4, 0, 0), (0, 0.3, 0), (2, 0.1, 0.2)]
)
def test_every_path_by_hand(float64, blank, fast_emit, delay_penalty):
    logits, labels = random_batch(blank=blank)
    how = {"blank": blank, "fast_emit": fast_emit, "delay_penalty": delay_penalty}
    losses = lambda x: transducer.transducer_loss(x, labels, FRAMES, COUNTS, **how)
    values, pull_back = jax.vjp(losses, jnp.asarray(logits))
    gradient = np.asarray(pull_back(jnp.ones(ROWS))[0])
    for row, (time, count) in enumerate(zip(FRAMES, COUNTS, strict=True)):
        expected, slope = brute_force(logits[row, :time, : count + 1], labels[row], **how)
        assert abs(values[row] - expected) < 1e-12
        found = gradient[row].copy()
        np.testing.assert_allclose(found[:time, : count + 1], slope, atol=1e-12)
        found[:time, : count + 1] = 0
        assert not found.any(), "the gradient of padding must be exactly zero"


GOLDEN = [
    [[0.1, 0.6, 0.1, 0.1, 0.1], [0.1, 0.1, 0.6, 0.1, 0.1], [0.1, 0.1, 0.2, 0.8, 0.1]],
    [[0.1, 0.6, 0.1, 0.1, 0.1], [0.1, 0.1, 0.2, 0.1, 0.1], [0.7, 0.1, 0.2, 0.1, 0.1]],
]


def test_published_value(float64):
    """The small test of HawkAaron/warp-transducer."""
    values, gradient = loss_and_gradient(
        jnp.asarray([GOLDEN]), jnp.array([[1, 2]]), jnp.array([2]), jnp.array([2])
    )
    assert values[0] == pytest.approx(4.495666, abs=1e-6)
    expected = [-0.131167, -0.399927, 0.177031, 0.177031, 0.177031]
    np.testing.assert_allclose(gradient[0, 0, 0], expected, atol=1e-6)


# fmt: off
WARP_ACTIVATIONS = [
    0.065357, 0.787530, 0.081592, 0.529716, 0.750675, 0.754135, 0.609764, 0.868140, 0.622532,
    0.668522, 0.858039, 0.164539, 0.989780, 0.944298, 0.603168, 0.946783, 0.666203, 0.286882,
    0.094184, 0.366674, 0.736168, 0.166680, 0.714154, 0.399400, 0.535982, 0.291821, 0.612642,
    0.324241, 0.800764, 0.524106, 0.779195, 0.183314, 0.113745, 0.240222, 0.339470, 0.134160,
    0.505562, 0.051597, 0.640290, 0.430733, 0.829473, 0.177467, 0.320700, 0.042883, 0.302803,
    0.675178, 0.569537, 0.558474, 0.083132, 0.060165, 0.107958, 0.748615, 0.943918, 0.486356,
    0.418199, 0.652408, 0.024243, 0.134582, 0.366342, 0.295830, 0.923670, 0.689929, 0.741898,
    0.250005, 0.603430, 0.987289, 0.592606, 0.884672, 0.543450, 0.660770, 0.377128, 0.358021,
]
# fmt: on


def test_published_batch(float64):
    """Two utterances of T = 4, U = 2, V = 3, from HawkAaron/warp-transducer."""
    logits = jnp.asarray(WARP_ACTIVATIONS).reshape(2, 4, 3, 3)
    labels = jnp.array([[1, 2], [1, 1]])
    values, _ = loss_and_gradient(logits, labels, jnp.array([4, 4]), jnp.array([2, 2]))
    np.testing.assert_allclose(values, [4.2806528590890736, 3.9384369822503591], atol=1e-12)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**16), scale=st.sampled_from([0.1, 3.0, 20.0]), data=st.data())
def test_invariants(float64, seed, scale, data):
    """Every frame takes one blank, every label is emitted once, the gradient sums to zero."""
    rng = np.random.default_rng(seed)
    frames = np.array(data.draw(st.lists(st.integers(1, TIME), min_size=ROWS, max_size=ROWS)))
    counts = np.array(data.draw(st.lists(st.integers(0, LABELS), min_size=ROWS, max_size=ROWS)))
    logits, labels = random_batch(seed)
    logits = jnp.asarray(logits * scale)
    taken, emitted = jax.grad(
        lambda x: transducer.lattice_log_prob(*x, jnp.asarray(frames), jnp.asarray(counts)).sum()
    )(_picked(logits, labels))
    for row, (time, count) in enumerate(zip(frames, counts, strict=True)):
        np.testing.assert_allclose(taken[row].sum(axis=1), np.arange(TIME) < time, atol=1e-9)
        np.testing.assert_allclose(emitted[row].sum(axis=0), np.arange(LABELS) < count, atol=1e-9)
    values, gradient = loss_and_gradient(logits, labels, frames, counts)
    np.testing.assert_allclose(gradient.sum(axis=-1), 0, atol=1e-9)
    # beta(0, 0) = log P, with beta by its recursion in plain Python.
    assert float(values[0]) == pytest.approx(
        -_backward(logits[0], labels[0], frames[0], counts[0]), rel=1e-12
    )
    inside = np.arange(TIME)[:, None] < frames[:, None, None]
    inside = inside & (np.arange(LABELS + 1) <= counts[:, None, None])
    noise = np.where(inside[..., None], 0, rng.normal(size=logits.shape) * 100)
    others, _ = loss_and_gradient(logits + noise, labels, frames, counts)
    np.testing.assert_array_equal(values, others)


def _picked(logits, labels):
    scores = jax.nn.log_softmax(logits)
    index = jnp.asarray(labels)[:, None, :, None]
    label = jnp.take_along_axis(scores[:, :, :-1], jnp.broadcast_to(index, (3, 4, 3, 1)), axis=-1)
    return scores[..., 0], label[..., 0]


def _backward(logits, labels, time, count):
    scores = log_softmax(np.asarray(logits))
    beta = np.full((time + 1, count + 2), -np.inf)
    beta[time, count] = 0.0
    for t in reversed(range(time)):
        for u in reversed(range(count + 1)):
            label = scores[t, u, labels[u]] if u < count else -np.inf
            beta[t, u] = np.logaddexp(scores[t, u, 0] + beta[t + 1, u], label + beta[t, u + 1])
    return beta[0, 0]


# --- long utterances and low precision -----------------------------------------------------------


def test_single_precision_on_a_long_utterance():
    rng = np.random.default_rng(0)
    logits = (rng.normal(size=(1, 400, 61, 6)) * 8).astype(np.float32)
    labels = rng.integers(1, 6, (1, 60)).astype(np.int32)
    lengths = np.array([400]), np.array([60])
    single = transducer.transducer_loss(jnp.asarray(logits), labels, *lengths)
    half = transducer.transducer_loss(jnp.asarray(logits, jnp.bfloat16), labels, *lengths)
    with jax.enable_x64(True):
        double = transducer.transducer_loss(jnp.asarray(logits, jnp.float64), labels, *lengths)
    assert float(single[0]) == pytest.approx(float(double[0]), rel=1e-6)
    # Logits of 8 bits carry an error of their own; the lattice adds nothing to it.
    assert half.dtype == jnp.float32 and float(half[0]) == pytest.approx(float(double[0]), rel=5e-3)


# --- the frame-wise joint -------------------------------------------------------------------------


def joint(params, encoded, predicted):
    return jnp.tanh(encoded[:, :, None] * predicted[:, None]) @ params["w"] + params["b"]


@pytest.fixture
def parts():
    rng = np.random.default_rng(1)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape))
    params = {"w": draw(6, VOCABULARY), "b": draw(VOCABULARY)}
    return params, draw(ROWS, TIME, 6), draw(ROWS, LABELS + 1, 6)


@pytest.mark.parametrize("block", [1, 3, 8])
def test_framewise_loss_is_the_same(float64, parts, block):
    with jax.enable_x64(True):
        parts = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), parts)
    labels = jnp.asarray(random_batch()[1])
    how = {"fast_emit": 0.05, "delay_penalty": 0.01}

    def whole(params, encoded, predicted):
        logits = joint(params, encoded, predicted)
        return transducer.transducer_loss(logits, labels, FRAMES, COUNTS, **how).sum()

    def framewise(*args):
        losses = transducer.framewise_loss(joint, *args, labels, FRAMES, COUNTS, block=block, **how)
        return losses.sum()

    expected = jax.value_and_grad(whole, (0, 1, 2))(*parts)
    found = jax.value_and_grad(framewise, (0, 1, 2))(*parts)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), found, expected)


def test_framewise_loss_never_holds_all_logits():
    """The compiled program needs less room than half of [B, T, U + 1, V]."""
    batch, time, width, size, vocabulary = 2, 64, 17, 8, 64
    shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)
    params = {"w": shape(size, vocabulary), "b": shape(vocabulary)}
    labels, lengths = jnp.ones((batch, width - 1), jnp.int32), jnp.full((batch,), width - 1)

    def loss(params, encoded, predicted):
        args = (labels, jnp.full((batch,), time), lengths)
        return transducer.framewise_loss(joint, params, encoded, predicted, *args).sum()

    program = jax.jit(jax.grad(loss, (0, 1, 2))).lower(
        params, shape(batch, time, size), shape(batch, width, size)
    )
    needed = program.compile().memory_analysis().temp_size_in_bytes
    assert needed < batch * time * width * vocabulary * 4 / 2


# --- bad input ------------------------------------------------------------------------------------


def test_bad_targets_are_named():
    logits, labels = random_batch()
    call = lambda *args, **kw: transducer.transducer_loss(jnp.asarray(logits), *args, **kw)
    with pytest.raises(ValueError, match="frames must be in 1 ... 4, got 0 in row 1"):
        call(labels, np.array([4, 0, 1]), COUNTS)
    with pytest.raises(ValueError, match="counts must be in 0 ... 3, got 4 in row 2"):
        call(labels, FRAMES, np.array([0, 0, 4]))
    with pytest.raises(ValueError, match="label 9 in row 0, position 1"):
        call(np.array([[1, 9, 1]] * ROWS), FRAMES, COUNTS)
    with pytest.raises(ValueError, match="label 0 in row 2, position 1: .* the blank"):
        call(np.array([[1, 1, 1], [0, 0, 0], [1, 0, 1]]), FRAMES, COUNTS)
    with pytest.raises(ValueError, match="expected labels"):
        call(labels[:, :2], FRAMES, COUNTS)
    with pytest.raises(ValueError, match="blank must be in 0 ... 4, got 5"):
        call(labels, FRAMES, COUNTS, blank=5)
    with pytest.raises(ValueError, match="expected labels"):
        call(labels[0], FRAMES, COUNTS)


def test_bad_targets_of_the_framewise_joint_are_named():
    """As without it: an index out of range would give a wrong gradient, not an error."""
    args = (jnp.zeros((ROWS, TIME, 6)), jnp.zeros((ROWS, LABELS + 1, 6)))
    params = {"w": jnp.zeros((6, VOCABULARY)), "b": jnp.zeros(VOCABULARY)}
    labels = random_batch()[1]
    call = lambda labels, **kw: transducer.framewise_loss(
        joint, params, *args, labels, FRAMES, COUNTS, **kw
    )
    with pytest.raises(ValueError, match="blank must be in 0 ... 4, got -1"):
        call(labels, blank=-1)
    with pytest.raises(ValueError, match="label 9 in row 0, position 1"):
        call(np.array([[1, 9, 1]] * ROWS))
    with pytest.raises(ValueError, match="block must be at least 1"):
        call(labels, block=0)
