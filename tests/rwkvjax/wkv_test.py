# SPDX-License-Identifier: Apache-2.0
"""The recurrences against the original implementation, the float64 scan and themselves."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rwkvjax import wkv

GOLDEN = pathlib.Path(__file__).parent / "wkv_golden.npz"
VERSIONS = ("v4", "v5", "v6", "v7")


def sequence(version, impl, chunk=4):
    """f(args, reset) -> (y, state) for `args` as made by `inputs`."""
    function = getattr(wkv, version.replace("v", "wkv"))
    options = {"impl": impl} if version == "v4" else {"impl": impl, "chunk": chunk}
    return lambda args, reset: function(*args, reset=reset, **options)


def step(version):
    function = getattr(wkv, version.replace("v", "wkv") + "_step")
    return lambda args, reset: function(*args, reset=reset)


def inputs(version, batch=2, steps=9, heads=2, size=8, value_size=None, seed=0, omega=(-4, 2)):
    """Random float64 arguments of one version; sequences first, the state last."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.normal(size=shape)
    decay = lambda *shape: -np.exp(rng.uniform(*omega, size=shape))
    key, value = (batch, steps, heads, size), (batch, steps, heads, value_size or size)
    state = (batch, heads, size, value_size or size)
    if version == "v4":
        dim = heads * size
        sums = (normal(batch, dim), np.exp(normal(batch, dim)), normal(batch, dim))
        k, v = 2 * normal(batch, steps, dim), normal(batch, steps, dim)
        return (k, v, decay(dim), normal(dim), wkv.Wkv4State(*sums))
    if version == "v7":
        kappa = normal(*key)
        kappa /= np.linalg.norm(kappa, axis=-1, keepdims=True)
        rate = rng.uniform(size=key)
        state = (batch, heads, value_size or size, size)
        return (
            normal(*key), decay(*key), normal(*key), normal(*value), kappa, rate, normal(*state)
        )  # fmt: skip
    log_w = decay(*(key if version == "v6" else key[2:]))
    return (normal(*key), normal(*key), normal(*value), log_w, normal(heads, size), normal(*state))


def is_sequence(version):
    """Which of the arguments have a time axis."""
    return {
        "v4": (True, True, False, False, False),
        "v5": (True, True, True, False, False, False),
        "v6": (True, True, True, True, False, False),
        "v7": (True, True, True, True, True, True, False),
    }[version]


def at(version, args, index):
    """The arguments at time `index` (an integer or a slice)."""
    return tuple(
        a[:, index] if timed else a for a, timed in zip(args, is_sequence(version), strict=True)
    )


def cotangents(tree, seed=7):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(size=x.shape), tree)


def with_gradients(function):
    """Jitted f(args, reset, cotangents) -> ((y, state), gradients)."""

    def run(args, reset, cotangent):
        out, pull = jax.vjp(lambda args: function(args, reset), args)
        cotangent = jax.tree.map(lambda c, o: jnp.asarray(c, o.dtype), cotangent, out)
        return out, pull(cotangent)[0]

    return jax.jit(run)


def worst(actual, expected):
    """Largest over the leaves of max |difference| / max |expected|; inf if anything is NaN."""
    errors = []
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        a, e = np.asarray(a, np.float64), np.asarray(e, np.float64)
        error = np.abs(a - e).max() / max(np.abs(e).max(), 1e-30)
        errors.append(error if np.isfinite(error) else np.inf)
    return max(errors)


# --- against the original ------------------------------------------------------------------


@pytest.mark.parametrize("impl", ["scan", "chunked"])
@pytest.mark.parametrize("version", VERSIONS)
def test_equals_original_implementation(version, impl):
    """Inputs and outputs of the time-mixing functions of the pip package rwkv 0.8.32."""
    golden = {
        name.removeprefix(version + "_"): value
        for name, value in np.load(GOLDEN, allow_pickle=False).items()
        if name.startswith(version)
    }
    order = {
        "v4": ("k", "v", "log_w", "u"),
        "v5": ("r", "k", "v", "log_w", "u"),
        "v6": ("r", "k", "v", "log_w", "u"),
        "v7": ("r", "w_log", "k", "v", "kappa", "a"),
    }[version]
    timed = is_sequence(version)
    args = [golden[name][None] if timed[i] else golden[name] for i, name in enumerate(order)]
    if version == "v4":
        parts = ("num", "den", "max")
        state = wkv.Wkv4State(*(golden[name + "0"][None] for name in parts))
        expected = wkv.Wkv4State(*(golden[name][None] for name in parts))
    else:
        state, expected = golden["state0"][None], golden["state"][None]
    y, after = sequence(version, impl, chunk=16)((*args, state), None)
    assert worst((y, after), (golden["y"][None], expected)) < 2e-6


# --- the forms against each other ----------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "steps"),
    [("v6", t) for t in (1, 2, 3, 4, 5, 12, 37)]
    + [(v, t) for v in ("v5", "v7") for t in (1, 5, 12)]
    + [("v4", t) for t in (1, 16, 35)],
)
def test_chunked_equals_scan_with_gradients(version, steps):
    """float64, chunk 4, with an initial state and random document borders (also at t = 0)."""
    with jax.enable_x64(True):
        args = jax.tree.map(jnp.asarray, inputs(version, steps=steps, seed=steps))
        reset = np.random.default_rng(steps).random((2, steps)) < 0.3
        reset[1, 0] = True
        scan = with_gradients(sequence(version, "scan"))
        out = jax.eval_shape(lambda: sequence(version, "scan")(args, reset))
        expected = scan(args, reset, cotangents(out))
        actual = with_gradients(sequence(version, "chunked"))(args, reset, cotangents(out))
        assert worst(actual, expected) < 1e-12


@pytest.mark.parametrize("version", VERSIONS)
def test_gradients_equal_finite_differences(version):
    with jax.enable_x64(True):
        args = jax.tree.map(jnp.asarray, inputs(version, batch=1, steps=6, heads=1, size=2))
        reset = jnp.zeros((1, 6), bool).at[0, 4].set(True)
        function = jax.jit(lambda *args: sequence(version, "chunked")(args, reset))
        check_grads(function, args, order=1, modes=["rev"], eps=1e-6)


@pytest.mark.parametrize(
    ("version", "size", "value_size"),
    [("v6", 16, 16), ("v6", 32, 8), ("v6", 128, 128), ("v7", 32, 8)],
)
def test_head_sizes(version, size, value_size):
    args = inputs(version, batch=1, steps=10, heads=1, size=size, value_size=value_size)
    out = jax.eval_shape(lambda: sequence(version, "scan")(args, None))
    with jax.enable_x64(True):
        expected = with_gradients(sequence(version, "scan"))(args, None, cotangents(out))
    args = jax.tree.map(np.float32, args)
    actual = with_gradients(sequence(version, "chunked"))(args, None, cotangents(out))
    assert worst(actual, expected) < 2e-6


@pytest.mark.parametrize("version", VERSIONS)
def test_split_and_steps_equal_whole(version):
    """T in one go, T1 then T2, and one token at a time."""
    args = jax.tree.map(jnp.float32, inputs(version, steps=9))
    reset = jnp.zeros((2, 9), bool).at[0, 3].set(True).at[1, 6].set(True)
    function = jax.jit(sequence(version, "auto"))
    y, state = function(args, reset)
    first, middle = function(at(version, args, slice(0, 6)), reset[:, :6])
    second, end = function((*at(version, args, slice(6, 9))[:-1], middle), reset[:, 6:])
    assert worst((jnp.concatenate([first, second], 1), end), (y, state)) < 2e-6
    one, carry, ys = jax.jit(step(version)), args[-1], []
    for t in range(9):
        y_t, carry = one((*at(version, args, t)[:-1], carry), reset[:, t])
        ys.append(y_t)
    assert worst((jnp.stack(ys, 1), carry), (y, state)) < 2e-6


@pytest.mark.parametrize("impl", ["scan", "chunked"])
@pytest.mark.parametrize("version", VERSIONS)
def test_packed_documents_equal_separate_ones(version, impl):
    """Values, and exactly no gradient across the border."""
    args = jax.tree.map(jnp.float32, inputs(version, steps=9))
    reset = jnp.zeros((2, 9), bool).at[:, 5].set(True)
    function = jax.jit(sequence(version, impl))
    y, state = function(args, reset)
    fresh = jax.tree.map(jnp.zeros_like, args[-1])
    if version == "v4":
        fresh = wkv.wkv4_initial_state(2, 16)
    second = (*at(version, args, slice(5, 9))[:-1], fresh)
    y_alone, state_alone = function(second, jnp.zeros((2, 4), bool))
    assert worst((y[:, 5:], state), (y_alone, state_alone)) < 2e-6

    def later(args):
        y, state = sequence(version, impl)(args, reset)
        return y[:, 5:].sum() + sum(leaf.sum() for leaf in jax.tree.leaves(state))

    gradients = jax.jit(jax.grad(later))(args)
    for gradient, timed in zip(gradients, is_sequence(version), strict=True):
        if timed:
            np.testing.assert_array_equal(gradient[:, :5], 0)
            assert np.abs(gradient[:, 5:]).max() > 0
    for leaf in jax.tree.leaves(gradients[-1]):
        np.testing.assert_array_equal(leaf, 0)


# --- precision -----------------------------------------------------------------------------


@functools.cache
def precise(version, impl):
    """with_gradients of one form, chunk 16; cached so that every case shares the compilation."""
    return with_gradients(sequence(version, impl, chunk=16))


def check_precision(version, args, reset=None):
    """float32 within 2e-6 of the float64 scan: outputs and every gradient."""
    decay = 1 if version == "v7" else 3  # position of the log decay
    args = jax.tree.map(np.float32, args)
    if reset is None:
        reset = np.zeros(args[0].shape[:2], bool)
    out = cotangents(jax.eval_shape(lambda: sequence(version, "scan")(args, None)))
    with jax.enable_x64(True):
        wide = jax.tree.map(np.float64, args)
        expected = precise(version, "scan")(wide, reset, out)
    actual = precise(version, "chunked")(args, reset, out)
    assert worst(actual, expected) < 2e-6
    # the gradient of omega, where log_w = -exp(omega)
    by_omega = lambda result: np.asarray(result[1][decay], np.float64) * wide[decay]
    assert worst(by_omega(actual), by_omega(expected)) < 2e-6


@pytest.mark.parametrize("version", ["v5", "v6", "v7"])
@pytest.mark.parametrize("omega", [(-8, 1), (0, 1), (1, 2), (2, 4)])
def test_float32_at_every_decay(version, omega):
    """At most 2e-6 of the largest magnitude, for y, the state and every gradient."""
    check_precision(version, inputs(version, steps=128, size=64, omega=omega))


@pytest.mark.parametrize("log_w", [-1e2, -2e3, -1e5])
def test_float32_with_steps_of_total_decay(log_w):
    args = inputs("v6", steps=128, size=64, omega=(-6.5, -6.4))
    args[3][:, ::16] = log_w
    args[3][:, 37] = log_w
    check_precision("v6", args)


@pytest.mark.parametrize("version", ["v5", "v6", "v7"])
def test_float32_with_document_borders(version):
    args = inputs(version, steps=128, size=64, omega=(-8, 1))
    check_precision(version, args, np.random.default_rng(0).random((2, 128)) < 0.1)


def test_bfloat16_inputs_are_accumulated_in_float32():
    args = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), inputs("v6", steps=12))
    args = (*args[:-1], args[-1].astype(jnp.float32))
    out = cotangents((args[2], args[-1]))
    y, state = sequence("v6", "chunked")(args, None)
    assert (y.dtype, state.dtype) == (jnp.bfloat16, jnp.float32)
    gradients = with_gradients(sequence("v6", "chunked"))(args, None, out)[1]
    assert [g.dtype for g in gradients] == [jnp.bfloat16] * 5 + [jnp.float32]
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), args)
    out = jax.tree.map(lambda c, o: jnp.asarray(c, o.dtype).astype(jnp.float32), out, (y, state))
    expected = with_gradients(sequence("v6", "scan"))(wide, None, out)
    assert worst(state, expected[0][1]) < 2e-6
    assert worst((y, gradients), (expected[0][0], expected[1])) < 2**-8


def test_backward_memory_is_linear_and_small():
    """Temporary memory of the gradient: at most 1.3 kB a token and head (a scan needs 16 kB)."""
    steps, heads = 2048, 2
    args = inputs("v6", batch=1, steps=steps, heads=heads, size=64)
    args = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), args)
    gradient = with_gradients(sequence("v6", "chunked", 16))
    compiled = gradient.lower(args, None, (args[2], args[-1])).compile()
    temporary = compiled.memory_analysis().temp_size_in_bytes
    assert 0 < temporary / (steps * heads) <= 1300


# --- bad input -----------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_bad_input_is_refused(version):
    args = jax.tree.map(jnp.float32, inputs(version, steps=3))
    function = getattr(wkv, version.replace("v", "wkv"))
    with pytest.raises(ValueError, match="at least one time step"):
        function(*at(version, args, slice(0, 0)))
    with pytest.raises(ValueError, match="impl='fast'"):
        function(*args, impl="fast")
    with pytest.raises(ValueError, match=r"reset of shape \(2, 3\)"):
        function(*args, reset=jnp.zeros((3, 2), bool))
    with pytest.raises(TypeError, match="reset to be boolean"):
        function(*args, reset=jnp.zeros((2, 3)))
    with pytest.raises(TypeError, match="floating-point"):
        function(args[0].astype(jnp.int32), *args[1:])
    with pytest.raises(ValueError, match="expected k|expected w_log|expected v"):
        function(args[0], args[1][:, :2], *args[2:])
    with pytest.raises(ValueError, match="state"):
        function(*args[:-1], jax.tree.map(lambda x: x[:1], args[-1]))
    if version != "v4":
        with pytest.raises(ValueError, match="chunk=3"):
            function(*args, chunk=3)
    one = getattr(wkv, version.replace("v", "wkv") + "_step")
    with pytest.raises(ValueError, match="axes"):
        one(*args)
