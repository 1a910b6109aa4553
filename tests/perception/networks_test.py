# SPDX-License-Identifier: Apache-2.0
"""Networks over glimpses: published sizes, plain NumPy forwards, what must not matter."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from core import params as params_lib
from perception import networks, rwkv_cells
from perception.networks import StemConfig, stem

T, SIDE = 5, 7
SHAPE = (T, 2, SIDE, SIDE)
SMALL = StemConfig(features=6, hidden=11, place=64)


def cnn(channels, groups=1, fold=1, **more):
    return StemConfig(encoder="cnn", channels=channels, groups=groups, fold=fold, **more)


def abstractor(shape, outputs, stem_cfg, hidden=256):
    return networks.Abstractor(shape, outputs, stem_cfg, depth=24, hidden=hidden)


UNUSED_NORM = 128  # the public Abstractor holds a norm of 64 channels that it never uses
UNUSED_POSITIONS = 16 * 27  # what its Transformer holds beyond ours: a position code, switched off


@pytest.mark.parametrize(
    ("network", "published", "unused"),
    (
        (abstractor((15, 1, 21, 21), 2, cnn(9)), 5_756_946, UNUSED_NORM),
        (abstractor((15, 3, 15, 15), 2, cnn(27, 3, 3)), 5_762_688, UNUSED_NORM),
        (abstractor((15, 3, 21, 21), 2, cnn(9)), 5_757_396, UNUSED_NORM),
        (abstractor((15, 9, 15, 15), 2, cnn(27)), 6_234_108, UNUSED_NORM),
        (abstractor((20, 1, 21, 21), 1, cnn(64)), 7_486_321, UNUSED_NORM),
        (abstractor((45, 3, 15, 15), 1, cnn(64), 512), 8_119_445, UNUSED_NORM),
        (abstractor((35, 9, 15, 15), 1, cnn(64), 512), 8_122_861, UNUSED_NORM),
        (networks.GapTransformer((15, 3, 15, 15), 2, cnn(27)), 2_856_435, UNUSED_POSITIONS),
        (networks.GapTransformer((15, 1, 21, 21), 2, cnn(27)), 2_884_785, UNUSED_POSITIONS),
    ),
)
def test_published_parameter_counts(network, published, unused):
    assert params_lib.count(network.param_specs()) + unused == published


def test_published_encoder_sizes():
    assert params_lib.count(stem.encoder_specs(cnn(9), (1, 21, 21))) == 7_812
    assert params_lib.count(stem.encoder_specs(cnn(27, 3, 3), (3, 15, 15))) == 13_554


# --- one interface ------------------------------------------------------------------------------

GLIMPSE_NETWORKS = {
    "abstractor": networks.Abstractor(SHAPE, 3, SMALL, depth=2, heads=2, hidden=16),
    "transformer": networks.GapTransformer(SHAPE, 3, SMALL, depth=2, heads=2, hidden=16),
    "corelnet": networks.CoRelNet(SHAPE, 3, SMALL, hidden=(16, 8)),
    "esbn": networks.Esbn(SHAPE, 3, SMALL, units=16, key_size=8),
    "rwkv": rwkv_cells.GlimpseRwkv(SHAPE, 3, SMALL, width=64, depth=1),
}
IMAGE_NETWORKS = {
    "cnn": networks.ConvNet((32, 32, 1), 3, (4, 4), 16),
    "resnet": networks.ResNet((32, 32, 1), 3, width=4, blocks=(1, 1), groups=2),
    "vit": networks.VisionTransformer(
        (32, 32, 1), 3, patch=8, depth=1, heads=1, hidden=16, shrink=2
    ),
}

NETWORKS = {**GLIMPSE_NETWORKS, **IMAGE_NETWORKS}


def random_params(network, seed=0, dtype=np.float32):
    """Every parameter random, so that none is without effect."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda s: (
            rng.normal(size=s.shape)
            * (0.5 / max(s.shape[0], 1) ** 0.5 if len(s.shape) > 1 else 0.5)
        ).astype(dtype),
        network.param_specs(),
        is_leaf=params_lib.is_spec,
    )


def batch(rows=3, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {
        "content": rng.random((rows, *SHAPE)).astype(dtype),
        "location": rng.uniform(-1, 1, (rows, T, 2)).astype(dtype),
        "image": rng.random((rows, 32, 32, 1)).astype(dtype),
    }


@functools.cache
def logits_and_gradients(name):
    """A program of (parameters, inputs) that tests share: compiling takes longer than running."""
    network = NETWORKS[name]

    def run(params, inputs):
        loss = lambda p: (network.apply(p, inputs) * jnp.arange(1.0, 4.0)).sum()
        return network.apply(params, inputs), jax.grad(loss)(params)

    return jax.jit(run)


@pytest.mark.parametrize("name", NETWORKS)
def test_rows_are_independent_and_every_parameter_matters(name):
    network, run = NETWORKS[name], logits_and_gradients(name)
    params, inputs = random_params(network), batch()
    inputs = {k: inputs[k] for k in network.inputs}
    logits, grads = run(params, inputs)
    assert logits.shape == (3, 3) and np.isfinite(logits).all()
    changed = {k: v.copy() for k, v in inputs.items()}
    for x in changed.values():
        x[1:] = x[1:][::-1]
    np.testing.assert_allclose(run(params, changed)[0][0], logits[0], atol=1e-5)
    silent = [path for path, g in params_lib.flatten(grads) if not np.abs(np.asarray(g)).max() > 0]
    assert not silent


def test_queries_and_keys_start_equal():
    params = params_lib.init(GLIMPSE_NETWORKS["abstractor"].param_specs(), jax.random.key(0))
    pair = np.asarray(params["blocks"]["relation"]["query_key"])
    np.testing.assert_array_equal(pair[:, 0], pair[:, 1])
    assert np.abs(pair[0] - pair[1]).max() > 0.01  # layers differ
    weights = jax.jit(GLIMPSE_NETWORKS["abstractor"].attention)(params, batch())
    assert weights.shape == (2, 3, 2, T, T)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    logits = np.log(np.asarray(weights[0]))
    relation = logits - np.diagonal(logits, axis1=-2, axis2=-1)[..., None]
    # log w_ij - log w_ii = q_i k_j - q_i k_i; symmetric scores agree in both directions.
    scores = relation[..., 0, 1] - relation[..., 0, 2] + relation[..., 1, 2] - relation[..., 1, 0]
    np.testing.assert_allclose(scores + relation[..., 2, 0] - relation[..., 2, 1], 0, atol=1e-4)


def test_order_of_fixations_does_not_matter_but_to_rwkv():
    """Without the published norm, whose scale and shift belong to time steps."""
    order = np.random.default_rng(0).permutation(T)
    inputs = batch()
    mixed = {k: inputs[k][:, order] for k in ("content", "location")}
    free = StemConfig(features=6, hidden=11, norm="feature")
    for kind, matters in ((networks.Abstractor, False), (networks.GapTransformer, False)):
        network = kind(SHAPE, 3, free, depth=1, heads=1, hidden=8)
        params, apply = random_params(network), jax.jit(network.apply)
        both = apply(params, inputs), apply(params, mixed)
        assert (np.abs(both[0] - both[1]).max() > 1e-4) == matters
    network = rwkv_cells.GlimpseRwkv(SHAPE, 3, free, width=64, depth=1)
    params, apply = random_params(network), jax.jit(network.apply)
    assert np.abs(apply(params, inputs) - apply(params, mixed)).max() > 1e-4


def test_contents_alone_say_nothing_to_the_abstractor():
    """Values come from places only: with equal places, every image gives the same answer."""
    cfg = StemConfig(features=6, hidden=11, streams="content")
    network = networks.Abstractor(SHAPE, 3, cfg, depth=2, heads=2, hidden=16)
    # Scales and shifts of time steps as at the start: random ones would tell the steps apart.
    params = params_lib.init(network.param_specs(), jax.random.key(0))
    logits = np.asarray(jax.jit(network.apply)(params, batch()))
    np.testing.assert_allclose(logits, np.broadcast_to(logits[:1], logits.shape), atol=1e-6)
    cfg = StemConfig(features=6, hidden=11, streams="location")
    network = networks.Abstractor(SHAPE, 3, cfg, depth=2, heads=2, hidden=16)
    first, second = batch(), batch(seed=1)
    second["location"] = first["location"]
    params = random_params(network)
    apply = jax.jit(network.apply)
    np.testing.assert_allclose(apply(params, first), apply(params, second), atol=1e-6)


def test_dropout_needs_a_key():
    network = networks.Abstractor(SHAPE, 3, SMALL, depth=2, heads=2, hidden=16, dropout=0.5)
    params, inputs, apply = random_params(network), batch(), jax.jit(network.apply)
    quiet = apply(params, inputs)
    np.testing.assert_array_equal(quiet, apply(params, inputs))
    loud = [apply(params, inputs, jax.random.key(i)) for i in (0, 0, 1)]
    np.testing.assert_array_equal(loud[0], loud[1])
    assert np.abs(loud[0] - loud[2]).max() > 1e-3 and np.abs(loud[0] - quiet).max() > 1e-3


def test_contents_are_disturbed_in_training_only():
    seen = jax.random.normal(jax.random.key(0), (400, T, 6))
    key = jax.random.key(1)
    assert stem.disturbed(StemConfig(noise=2.0, blank=0.5, swap=0.5), seen, None) is seen
    assert stem.disturbed(StemConfig(), seen, key) is seen
    noise = stem.disturbed(StemConfig(noise=2.0), seen, key) - seen
    assert abs(float(noise.std()) - 2.0) < 0.05 and abs(float(noise.mean())) < 0.05
    # A blank image is blank in all its glimpses, and a swapped one is whole another one.
    blank = (stem.disturbed(StemConfig(blank=0.3), seen, key) == 0).all(axis=(1, 2))
    assert 0.2 < blank.mean() < 0.4
    swapped = np.asarray(stem.disturbed(StemConfig(swap=0.3), seen, key))
    own = (swapped == seen).all(axis=(1, 2))
    assert 0.2 < 1 - own.mean() < 0.4
    np.testing.assert_array_equal(swapped[~own], np.roll(seen, 1, axis=0)[~own])


@pytest.mark.parametrize("name", GLIMPSE_NETWORKS)
def test_every_reader_of_glimpses_disturbs_them_in_training(name, monkeypatch):
    network, keys = GLIMPSE_NETWORKS[name], []
    disturbed = stem.disturbed
    monkeypatch.setattr(stem, "disturbed", lambda *a: (keys.append(a[2]), disturbed(*a))[1])
    for key in (None, jax.random.key(0)):
        jax.eval_shape(network.apply, random_params(network), batch(), key)
    assert keys[0] is None and keys[1] is not None


# --- against plain NumPy ------------------------------------------------------------------------


def numpy_norm(p, x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * p[
        "weight"
    ] + p["bias"]


def numpy_attention(q, k, v, heads):
    out = np.zeros((len(q), heads * 64))
    for h in range(heads):
        part = slice(64 * h, 64 * h + 64)
        scores = np.exp(q[:, part] @ k[:, part].T / 8)
        out[:, part] = scores / scores.sum(-1, keepdims=True) @ v[:, part]
    return out


def numpy_feed_forward(p, x):
    hidden = numpy_norm(p["norm"], x) @ p["up"]["weight"] + p["up"]["bias"]
    hidden = hidden * 0.5 * (1 + erf(hidden / np.sqrt(2)))
    return hidden @ p["down"]["weight"] + p["down"]["bias"]


def numpy_context_norm(p, x):
    """Published form: a layer norm over time of the transposed tensor."""
    return numpy_norm(p, x.T).T


def test_abstractor_is_the_equations_in_float64():
    network = GLIMPSE_NETWORKS["abstractor"]
    with jax.enable_x64(True):
        params, inputs = random_params(network, dtype=np.float64), batch(1, dtype=np.float64)
        found = np.asarray(jax.jit(network.apply)(params, inputs))[0]
    p = params["stem"]
    glimpses = numpy_norm(p["content"]["norm"], inputs["content"][0].reshape(T, -1))
    hidden = np.maximum(glimpses @ p["content"]["up"]["weight"] + p["content"]["up"]["bias"], 0)
    g = hidden @ p["content"]["down"]["weight"] + p["content"]["down"]["bias"]
    g = numpy_context_norm(p["content_norm"], g)
    at = inputs["location"][0]
    at = (at - at.mean(0)) / np.sqrt(at.var(0) + 1e-5)
    at = np.maximum(at @ p["place"]["up"]["weight"] + p["place"]["up"]["bias"], 0)
    s = at @ p["place"]["down"]["weight"] + p["place"]["down"]["bias"]
    s = numpy_context_norm(p["place_norm"], s)
    for layer in range(network.depth):
        b = jax.tree.map(lambda x, layer=layer: x[layer], params["blocks"])
        r, a = b["relation"], b["attention"]
        seen = numpy_norm(r["content_norm"], g)
        value = numpy_norm(r["place_norm"], s) @ r["value"]["weight"]
        out = numpy_attention(seen @ r["query_key"][0], seen @ r["query_key"][1], value, 2)
        s = s + out @ r["out"]["weight"] + r["out"]["bias"]
        s = s + numpy_feed_forward(b["feed_forward"], s)
        x = numpy_norm(a["norm"], s)
        out = numpy_attention(*(x @ a[n]["weight"] for n in ("query", "key", "value")), 2)
        s = s + out @ a["out"]["weight"] + a["out"]["bias"]
        s = s + numpy_feed_forward(b["feed_forward"], s)
    expected = s.mean(0) @ params["head"]["weight"] + params["head"]["bias"]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize(("groups", "fold"), ((1, 1), (3, 3)))
def test_glimpse_cnn_is_the_sum_of_products(groups, fold):
    cfg = StemConfig(encoder="cnn", channels=9, groups=groups, fold=fold, kernels=(3, 3))
    specs = stem.encoder_specs(cfg, (3, SIDE, SIDE))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda s: rng.normal(size=s.shape).astype(np.float32), specs, is_leaf=params_lib.is_spec
    )
    x = rng.random((2, 3, SIDE, SIDE)).astype(np.float32)
    found = jax.jit(stem.encode, static_argnums=1)(params, cfg, jnp.asarray(x))
    assert found.shape == (2, 9 // fold)
    maps = x.astype(np.float64)
    for layer in range(2):
        weight, bias = params[f"conv_{layer}"]["weight"], params[f"conv_{layer}"]["bias"]
        side, inputs, new = maps.shape[-1] - 2, maps.shape[1] // groups, []
        for channel in range(9):
            first = channel // (9 // groups) * inputs  # of the group that the channel belongs to
            total = np.full((2, side, side), bias[channel], np.float64)
            for i in range(inputs):
                for a in range(3):
                    for b in range(3):
                        window = maps[:, first + i, a : a + side, b : b + side]
                        total += weight[a, b, i, channel] * window
            new.append(np.maximum(total, 0))
        maps = np.stack(new, axis=1)
    expected = maps.mean(axis=(2, 3)).reshape(2, -1, fold).sum(-1)
    np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_context_norms():
    x = np.random.default_rng(0).normal(2, 3, (2, T, 4)).astype(np.float32)
    p = {"weight": np.arange(1.0, T + 1), "bias": np.arange(T) * 0.1}
    found = stem.context_norm(p, "step", jnp.asarray(x))
    for row, values in zip(x, found, strict=True):
        np.testing.assert_allclose(values, numpy_context_norm(p, row), atol=1e-5)
    p = {"weight": np.arange(1.0, 5.0), "bias": np.arange(4) * 0.1}
    found = stem.context_norm(p, "feature", jnp.asarray(x))
    sd = np.sqrt(x.var(1, ddof=1, keepdims=True) + 1e-8)
    exact = (x - x.mean(1, keepdims=True)) / sd * p["weight"] + p["bias"]
    np.testing.assert_allclose(found, exact, atol=1e-5)


def test_esbn_is_the_memory_written_out():
    network = GLIMPSE_NETWORKS["esbn"]
    params, inputs = random_params(network), batch(1)
    found = np.asarray(jax.jit(network.apply)(params, inputs))[0]
    z, places = (np.asarray(x)[0] for x in stem.apply(params["stem"], SMALL, inputs))
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    h, cell, r, memory = np.zeros(16), np.zeros(16), np.zeros(9), []
    for t in range(T):
        raw = np.concatenate([r, places[t], h]) @ params["lstm"]["weight"] + params["lstm"]["bias"]
        i, f, g, o = np.split(raw, 4)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(cell)
        gate = sigmoid(h @ params["gate"]["weight"] + params["gate"]["bias"])
        own = np.maximum(h @ params["key"]["weight"] + params["key"]["bias"], 0)
        if memory:
            alike = np.array([z[t] @ seen for _, seen in memory])
            weights = np.exp(alike - alike.max()) / np.exp(alike - alike.max()).sum()
            sure = sigmoid(params["confidence"]["scale"] * alike + params["confidence"]["shift"])
            entries = [np.append(k, c) for (k, _), c in zip(memory, sure, strict=True)]
            r = gate * (weights @ np.array(entries))
        memory.append((own, z[t]))
    np.testing.assert_allclose(
        found, h @ params["head"]["weight"] + params["head"]["bias"], rtol=1e-4
    )


@pytest.mark.parametrize("name", GLIMPSE_NETWORKS)
def test_identical_glimpses_stay_finite(name):
    """Nothing varies over time: the norms divide by the root of epsilon."""
    inputs = {"content": np.zeros((3, *SHAPE)), "location": np.ones((3, T, 2))}
    inputs = {k: v.astype(np.float32) for k, v in inputs.items()}
    found = logits_and_gradients(name)(random_params(NETWORKS[name]), inputs)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))


@pytest.mark.parametrize(
    ("call", "message"),
    (
        (lambda: StemConfig(encoder="eye"), "encoder must be one of"),
        (lambda: StemConfig(channels=9, groups=2), "multiple of"),
        (lambda: StemConfig(noise=-1.0), "noise must not be negative"),
        (lambda: StemConfig(blank=1.1), "blank and swap must be in"),
        (lambda: cnn(9).kernels_of(13), "give `kernels`"),
        (lambda: cnn(9, kernels=(5, 5)).kernels_of(7), "leave nothing"),
        (lambda: stem.encoder_specs(cnn(9, 3), (2, 15, 15)), "cannot form 3 groups"),
        (lambda: networks.Abstractor(SHAPE, depth=0), "at least 1"),
        (lambda: networks.Abstractor(SHAPE, dropout=1.0), "dropout"),
        (lambda: networks.VisionTransformer((32, 32, 1), patch=5), "do not tile"),
        (lambda: networks.ResNet((32, 32, 1), width=12), "not a multiple"),
    ),
)
def test_bad_configurations(call, message):
    with pytest.raises(ValueError, match=message):
        call()
