# SPDX-License-Identifier: Apache-2.0
"""Properties that every version of the model has; agreement with the official package is tested
in golden_test.py."""

import dataclasses
import json
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rwkvjax
from core import params as params_lib
from rwkvjax import flops, model, rwkv4, rwkv6, weights
from rwkvjax.config import SIZES, Config

VERSIONS = ("4", "5.0", "5.1", "5.2", "6", "7")
MAIN = ("4", "5.2", "6", "7")
B, T, V = 2, 12, 37
_CORRECTION = ("time_maa_w1", "time_maa_w2")


def _config(version, **kwargs):
    small = {"vocab_size": V, "dim": 32, "layers": 2, "head_size": 16, "ffn_dim": 64}
    ranks = {"mix_rank": 4, "decay_rank": 8, "iclr_rank": 8, "value_rank": 8, "gate_rank": 8}
    # The scan form compiles fastest; the chunked form is compared with it below.
    return Config(version=version, **{**small, **ranks, "wkv": "scan", **kwargs})


def _busy_params(cfg):
    """The official start has zero outputs, which would hide mistakes; perturb everything."""
    params = jax.jit(lambda: model.init(jax.random.key(0), cfg))()
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    noisy = [x + 0.2 * rng.normal(size=x.shape).astype(x.dtype) for x in leaves]
    return jax.tree.unflatten(structure, noisy)


@pytest.fixture(scope="module", params=MAIN)
def setup(request):
    cfg = _config(request.param)
    tokens = np.random.default_rng(1).integers(0, V, (B, T)).astype(np.int32)
    return cfg, _busy_params(cfg), tokens


_apply = jax.jit(model.apply, static_argnums=1)
_step = jax.jit(model.step, static_argnums=1)


def test_pieces_and_steps_equal_the_whole(setup):
    cfg, params, tokens = setup
    whole, end = _apply(params, cfg, tokens, model.init_state(cfg, B))
    first, state = _apply(params, cfg, tokens[:, :5], model.init_state(cfg, B))
    second, end_pieces = _apply(params, cfg, tokens[:, 5:], state)
    np.testing.assert_allclose(jnp.concatenate([first, second], 1), whole, atol=3e-5)
    state, steps = model.init_state(cfg, B), []
    for t in range(T):
        logits, state = _step(params, cfg, tokens[:, t], state)
        steps.append(logits)
    np.testing.assert_allclose(jnp.stack(steps, 1), whole, atol=3e-5)
    chex.assert_trees_all_close(end_pieces, end, atol=3e-5)
    chex.assert_trees_all_close(state, end, atol=3e-5)
    assert whole.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(end))


def test_packed_documents_equal_the_documents_alone(setup):
    cfg, params, tokens = setup
    reset = np.zeros((B, T), bool)
    reset[:, 0] = reset[:, 7] = True
    other = jax.tree.map(lambda x: x + 0.7, model.init_state(cfg, B))  # must be forgotten
    packed, end = jax.jit(lambda p, s: model.apply(p, cfg, tokens, s, reset=reset))(params, other)
    first, _ = _apply(params, cfg, tokens[:, :7], model.init_state(cfg, B))
    second, end_second = _apply(params, cfg, tokens[:, 7:], model.init_state(cfg, B))
    np.testing.assert_allclose(packed[:, :7], first, atol=3e-5)
    np.testing.assert_allclose(packed[:, 7:], second, atol=3e-5)
    chex.assert_trees_all_close(end, end_second, atol=3e-5)


def test_no_position_sees_the_future_or_another_document(setup):
    cfg, params, tokens = setup
    reset = np.zeros((B, T), bool)
    reset[:, 7] = True

    def logit(emb, at):
        changed = {**params, "emb": {"weight": emb}}
        logits, _ = model.apply(changed, cfg, unique, None, reset=reset[:1])
        return logits[0, at].sum()

    unique = np.arange(T, dtype=np.int32)[None]  # one embedding row for each position
    grads = jax.jit(jax.jacobian(lambda e: jnp.stack([logit(e, 4), logit(e, 9)])))(
        params["emb"]["weight"]
    )
    seen = np.abs(np.asarray(grads)).sum(-1)[:, :T] > 0
    np.testing.assert_array_equal(np.flatnonzero(seen[0]), np.arange(0, 5))
    np.testing.assert_array_equal(np.flatnonzero(seen[1]), np.arange(7, 10))


def test_gradients_equal_finite_differences_in_float64(setup):
    cfg, params, tokens = setup
    with jax.enable_x64(True):
        cfg = dataclasses.replace(cfg, dtype="float64")
        wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), params)
        state = jax.tree.map(lambda x: x.astype(jnp.float64), model.init_state(cfg, B))

        @jax.jit
        def loss(params, state):
            logits, end = model.apply(params, cfg, tokens, state)
            used = jax.tree.leaves(end)[:2] if cfg.version == "4" else jax.tree.leaves(end)
            return jnp.square(logits).mean() + sum(jnp.square(x).mean() for x in used)

        grads = jax.jit(jax.grad(loss, argnums=(0, 1)))(wide, state)
        rng = np.random.default_rng(2)
        direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), (wide, state))
        shifted = lambda h: loss(*jax.tree.map(lambda x, d: x + h * d, (wide, state), direction))
        numeric = (shifted(1e-6) - shifted(-1e-6)) / 2e-6
        exact = sum(
            jnp.vdot(g, d)
            for g, d in zip(jax.tree.leaves(grads), jax.tree.leaves(direction), strict=True)
        )
        np.testing.assert_allclose(numeric, exact, rtol=2e-6)


def test_remat_and_chunks_change_nothing(setup):
    cfg, params, tokens = setup

    def grads(cfg):
        loss = lambda p: jnp.square(model.apply(p, cfg, tokens)[0]).mean()
        return jax.jit(jax.grad(loss))(params)

    expected = grads(cfg)
    for change in ({"remat": "full"}, {"remat": "dots", "wkv": "chunked"}):
        chex.assert_trees_all_close(grads(dataclasses.replace(cfg, **change)), expected, atol=2e-4)


def test_bfloat16_stays_near_float32(setup):
    cfg, params, tokens = setup
    expected, _ = _apply(params, cfg, tokens, model.init_state(cfg, B))
    half = dataclasses.replace(cfg, dtype="bfloat16")
    found, state = _apply(params, half, tokens, model.init_state(cfg, B))
    assert found.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state))
    error = np.abs(np.asarray(found) - expected).max() / np.abs(np.asarray(expected)).max()
    assert error < 0.1


@pytest.mark.parametrize("version", VERSIONS)
def test_official_start_is_an_identity_with_loss_log_v(version):
    cfg = _config(version)
    params = jax.jit(lambda: model.init(jax.random.key(3), cfg))()
    tokens = np.arange(24, dtype=np.int32).reshape(2, 12) % V
    x, _ = model.hidden(params, cfg, tokens, model.init_state(cfg, 2))
    embedded = params["emb"]["weight"][tokens]
    from rwkvjax import layers

    expected = layers.layer_norm(params["ln0"], embedded, 1e-5)
    expected = layers.layer_norm(params["ln_out"], expected, 1e-5)
    np.testing.assert_allclose(x, expected, atol=1e-5)
    log_p = jax.nn.log_softmax(model.logits_of(params, x))
    assert abs(-np.mean(log_p) - np.log(V) - 0.12) < 0.08


@pytest.mark.parametrize("kept", ["decay", "none"])
def test_token_shifts_that_do_not_depend_on_the_data(kept):
    """They are the published ones whose correction is zero, without its parameters."""
    cfg, rank = _config("6"), 4
    params = _busy_params(cfg)
    att = dict(params["blocks"]["att"])
    down, up = att["time_maa_w1"], att["time_maa_w2"]
    if kept == "decay":  # the first of the five
        small = {**att, "time_maa_w1": down[..., :rank], "time_maa_w2": up[:, :1]}
        corrected = up.at[:, 1:].set(0)
    else:
        small = {k: v for k, v in att.items() if k not in ("time_maa_x", *_CORRECTION)}
        corrected = jnp.zeros_like(up)
    nest = lambda att: {**params, "blocks": {**params["blocks"], "att": att}}
    less = dataclasses.replace(cfg, ddlerp=kept)
    params_lib.check(nest(small), model.param_specs(less), what="parameters")
    tokens = np.random.default_rng(1).integers(0, V, (B, T)).astype(np.int32)
    found, _ = _apply(nest(small), less, tokens, model.init_state(cfg, B))
    wide = nest({**att, "time_maa_w2": corrected})
    expected, _ = _apply(wide, cfg, tokens, model.init_state(cfg, B))
    np.testing.assert_allclose(found, expected, atol=3e-5)
    assert np.abs(found - _apply(params, cfg, tokens, model.init_state(cfg, B))[0]).max() > 1e-2
    with pytest.raises(ValueError, match="official layout needs ddlerp='all'"):
        weights.official_tensors(less, nest(small))


def test_the_plain_token_shift_is_that_of_eagle():
    x, previous = np.random.default_rng(0).normal(size=(2, B, T, 8)).astype(np.float32)
    mu = {name: np.linspace(0, 1, 8, dtype=np.float32) ** i for i, name in enumerate("wkvrg")}
    p = {f"time_maa_{name}": jnp.asarray(value) for name, value in mu.items()}
    found = rwkv6.ddlerp(p, jnp.asarray(x), jnp.asarray(previous), dependent="")
    assert list(found) == list(mu)
    for name, value in mu.items():
        eagle = rwkv4.mix(jnp.asarray(1 - value), jnp.asarray(x), jnp.asarray(previous))
        np.testing.assert_allclose(found[name], (1 - value) * x + value * previous, atol=1e-6)
        np.testing.assert_allclose(found[name], eagle, atol=1e-6)


def test_a_single_layer_works():
    for version in MAIN:
        cfg = _config(version, layers=1)
        params = jax.jit(lambda cfg=cfg: model.init(jax.random.key(0), cfg))()
        logits, _ = _apply(params, cfg, np.zeros((1, 3), np.int32), model.init_state(cfg, 1))
        assert np.isfinite(logits).all()


# --- initial values, sizes --------------------------------------------------------------------


def test_official_ramps_of_finch():
    cfg = Config(version="6", vocab_size=V, dim=64, layers=4, head_size=32)
    att = params_lib.init(model.param_specs(cfg), jax.random.key(0))["blocks"]["att"]
    n, layer = np.arange(64), 2
    r0, r1 = layer / 3, 1 - layer / 4
    c = n / 64
    ramp = lambda name: np.asarray(att[name][layer])
    np.testing.assert_allclose(ramp("time_maa_k"), 1 - c**r1, atol=1e-6)
    np.testing.assert_allclose(ramp("time_maa_v"), 1 - (c**r1 + 0.3 * r0), atol=1e-6)
    np.testing.assert_allclose(ramp("time_maa_g"), 1 - c ** (0.5 * r1), atol=1e-6)
    omega = -6 + 5 * (n / 63) ** (0.7 + 1.3 * r0)
    np.testing.assert_allclose(ramp("time_decay"), omega, atol=1e-5)
    u = r0 * (1 - n / 63) + 0.1 * ((n + 1) % 3 - 1)
    np.testing.assert_allclose(ramp("time_faaaa").ravel(), u, atol=1e-6)
    np.testing.assert_array_equal(ramp("time_maa_w1"), 0)
    np.testing.assert_allclose(att["ln_x"]["weight"][layer], (3 / 4) ** 0.7, atol=1e-6)
    for name, gain in (("receptance", 1.0), ("key", 0.1), ("value", 1.0), ("gate", 0.1)):
        w = ramp(name)
        np.testing.assert_allclose(w.T @ w, gain**2 * np.eye(64), atol=1e-5)
    assert not ramp("output").any()


PUBLISHED_COUNTS = {
    "rwkv4-pile-0.1b": 169_342_464,
    "rwkv4-pile-0.4b": 430_397_440,
    "rwkv4-pile-1.5b": 1_515_106_304,
    "rwkv4-pile-3b": 2_984_627_200,
    "rwkv4-pile-7b": 7_392_649_216,
    "rwkv4-pile-14b": 14_148_597_760,
    "eagle-0.1b": 192_807_936,
    "eagle-0.4b": 461_721_600,
    "eagle-1.5b": 1_577_754_624,
    "eagle-3b": 3_062_999_040,
    "eagle-7b": 7_518_044_160,
    "finch-1.6b": 1_599_873_024,
    "finch-3b": 3_099_863_040,
    "finch-7b": 7_635_746_816,
    "finch-14b": 14_069_088_256,
}


@pytest.mark.parametrize("name", PUBLISHED_COUNTS)
def test_parameter_counts_are_the_published_ones(name):
    assert params_lib.count(model.param_specs(SIZES[name])) == PUBLISHED_COUNTS[name]


@pytest.mark.parametrize(
    "name, per_token",
    [("eagle-0.4b", 9.33e8), ("eagle-7b", 1.51e10), ("finch-1.6b", 3.22e9), ("finch-3b", 6.23e9)],
)
def test_flops_are_the_published_ones(name, per_token):
    found = flops.forward_flops_per_token(SIZES[name], count_embedding=True)
    assert found == pytest.approx(per_token, rel=4e-3)
    assert flops.train_flops_per_token(SIZES[name]) < 3 * found


def test_matrix_flops_agree_with_the_compiler():
    """Unrolled at T = 1, where XLA's count is right, the matrix products are nearly everything."""
    cfg = _config("6", dim=128, ffn_dim=448, layers=1, vocab_size=512)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), cfg))
    state = jax.eval_shape(lambda: model.init_state(cfg, 1))
    token = jax.ShapeDtypeStruct((1,), jnp.int32)
    compiled = jax.jit(model.step, static_argnums=1).lower(params, cfg, token, state).compile()
    counted = compiled.cost_analysis()["flops"]
    assert counted == pytest.approx(flops.forward_flops_per_token(cfg), rel=0.1)


def test_shapes_and_axes_of_published_sizes_do_not_change(repo):
    """A snapshot of (path -> shape, axes): sharding and checkpoints depend on it."""
    found = {
        name: {
            path: [list(spec.shape), list(spec.axes)]
            for path, spec in params_lib.flatten(model.param_specs(SIZES[name]))
        }
        for name in ("rwkv4-pile-0.1b", "eagle-0.1b", "finch-0.1b", "goose-0.1b")
    }
    stored = pathlib.Path(repo, "tests/rwkvjax/golden/param_specs.json")
    assert found == json.loads(stored.read_text())


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tokens, error, message",
    [
        (np.zeros((2, 0), np.int32), ValueError, r"T >= 1, got shape \(2, 0\)"),
        (np.zeros(3, np.int32), ValueError, r"got shape \(3,\)"),
        (np.zeros((1, 3), np.float32), TypeError, "integers, got dtype float32"),
        (np.array([[0, V]], np.int32), ValueError, f"0 ... {V - 1}, got 0 ... {V}"),
        (np.array([[-1, 2]], np.int32), ValueError, "got -1 ... 2"),
    ],
)
def test_bad_tokens(setup, tokens, error, message):
    cfg, params, _ = setup
    with pytest.raises(error, match=message):
        rwkvjax.apply(params, cfg, tokens)


def test_bad_state_and_reset(setup):
    cfg, params, tokens = setup
    with pytest.raises(ValueError, match="state does not fit the config and a batch of 2"):
        rwkvjax.apply(params, cfg, tokens, rwkvjax.init_state(cfg, 3))
    with pytest.raises(ValueError, match="reset must have the shape of tokens"):
        rwkvjax.apply(params, cfg, tokens, reset=np.zeros((B, T + 1), bool))
    with pytest.raises(ValueError, match="one token for each sequence"):
        rwkvjax.step(params, cfg, tokens, rwkvjax.init_state(cfg, B))
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        rwkvjax.init_state(cfg, 0)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"version": "8"}, "version must be one of"),
        ({"dim": 100}, "not a multiple of"),
        ({"layers": 0}, "layers must be at least 1"),
        ({"remat": "some"}, "remat must be"),
        ({"dtype": "int8"}, "dtype must name"),
        ({"wkv": "cuda"}, "wkv must be"),
        ({"ddlerp": "off"}, "ddlerp must be"),
    ],
)
def test_bad_configs(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Config(**kwargs)


def test_unknown_size():
    with pytest.raises(ValueError, match="unknown size 'finch-2b'"):
        rwkvjax.get_config("finch-2b")
    assert rwkvjax.get_config("finch-1.6b", dtype="bfloat16").dtype == "bfloat16"
