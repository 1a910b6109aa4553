# SPDX-License-Identifier: Apache-2.0
"""The chunked recurrence under jit, vmap, scan, checkpoint and sharding; time split over devices;
and no NaN at any finite input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from rwkvjax.wkv import Wkv6Summary, combine, wkv4, wkv4_initial_state, wkv6, wkv6_summary, wkv7

BATCH, STEPS, HEADS, SIZE = 4, 16, 2, 8
chunked = functools.partial(wkv6, impl="chunked", chunk=4)


def arguments(seed=0):
    """r, k, v, log_w, u, state, float32."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
    shape = (BATCH, STEPS, HEADS, SIZE)
    log_w = -np.exp(rng.uniform(-4, 2, size=shape)).astype(np.float32)
    state = normal(BATCH, HEADS, SIZE, SIZE)
    return (normal(*shape), normal(*shape), normal(*shape), log_w, normal(HEADS, SIZE), state)


def some_resets(seed=3):
    return np.random.default_rng(seed).random((BATCH, STEPS)) < 0.2


def loss(function):
    """Scalar of the six arguments that weighs every output differently."""

    def run(args, reset):
        y, state = function(*args, reset=reset)
        return jnp.sum(y * jnp.cos(jnp.arange(y.size).reshape(y.shape))) + jnp.sum(state**2)

    return run


@functools.cache
def expected():
    """Value, outputs and gradients of the scan."""
    args, reset = arguments(), some_resets()
    scan = functools.partial(wkv6, impl="scan")
    return (
        scan(*args, reset=reset),
        jax.jit(jax.grad(loss(scan)))(args, reset),
    )


def assert_close(actual, wanted):
    for a, w in zip(jax.tree.leaves(actual), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, w, atol=3e-6 * np.abs(w).max(), rtol=0)


def mesh():
    return jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def test_vmap_over_sequences():
    args, reset = arguments(), some_resets()

    def one(r, k, v, log_w, state, reset):
        add = lambda x: x[None]
        y, state = chunked(
            add(r), add(k), add(v), add(log_w), args[4], add(state), reset=add(reset)
        )
        return y[0], state[0]

    mapped = lambda r, k, v, log_w, u, state, reset: jax.vmap(one)(r, k, v, log_w, state, reset)
    assert_close(mapped(*args, reset), expected()[0])
    inner = jax.vmap(jax.grad(lambda r, *rest: one(r, *rest)[0].sum()))
    scan = lambda r: wkv6(r, *args[1:], reset=reset, impl="scan")[0].sum()
    assert_close(inner(*args[:4], args[5], reset), jax.grad(scan)(jnp.asarray(args[0])))


def test_sharded_arrays():
    """Batch over one mesh axis, heads over the other; the result keeps the sharding."""
    specs = (*[P("data", None, "model")] * 4, P("model"), P("data", "model"))
    args = tuple(
        jax.device_put(a, NamedSharding(mesh(), s)) for a, s in zip(arguments(), specs, strict=True)
    )
    reset = jax.device_put(some_resets(), NamedSharding(mesh(), P("data")))
    y, state = jax.jit(chunked)(*args, reset=reset)
    assert_close((y, state), expected()[0])
    assert y.sharding.is_equivalent_to(NamedSharding(mesh(), specs[0]), y.ndim)
    assert_close(jax.jit(jax.grad(loss(chunked)))(args, reset), expected()[1])


@pytest.mark.parametrize("function", [chunked, functools.partial(wkv6, impl="scan")])
def test_shard_map_with_replicated_state_and_bonus(function):
    """u is replicated and the zero state is made inside: both are fitted to the varying inputs."""
    r, k, v, log_w, u, _ = arguments()

    @functools.partial(
        jax.shard_map, mesh=mesh(), in_specs=(*[P("data")] * 4, P()), out_specs=(P("data"),) * 2
    )
    def mapped(r, k, v, log_w, u):
        return function(r, k, v, log_w, u, jnp.zeros((r.shape[0], HEADS, SIZE, SIZE)))

    zero = jnp.zeros((BATCH, HEADS, SIZE, SIZE))
    plain = lambda *args: wkv6(*args, zero, impl="scan")
    assert_close(jax.jit(mapped)(r, k, v, log_w, u), plain(r, k, v, log_w, u))
    total = lambda f: lambda *args: sum((x**2).sum() for x in f(*args))
    gradient = lambda f: jax.jit(jax.grad(total(f), argnums=range(5)))(r, k, v, log_w, u)
    assert_close(gradient(mapped), gradient(plain))


def test_shard_map_of_the_other_versions():
    r, k, v, log_w, u, _ = arguments()
    split = functools.partial(jax.shard_map, mesh=mesh(), out_specs=P("data"))

    def four(k, v, log_w, u):
        return wkv4(k, v, log_w, u, wkv4_initial_state(k.shape[0], SIZE))[0]

    def seven(r, w_log, k, v):
        state = jnp.zeros((r.shape[0], HEADS, SIZE, SIZE))
        return wkv7(r, w_log, k, v, 0.3 * k, jax.nn.sigmoid(v), state)[0]

    args = (k[:, :, 0], v[:, :, 0], log_w[0, 0, 0], u[0])
    mapped = split(four, in_specs=(P("data"), P("data"), P(), P()))
    assert_close(jax.jit(mapped)(*args), four(*args))
    args = (r, log_w, k, v)
    assert_close(jax.jit(split(seven, in_specs=(P("data"),) * 4))(*args), seven(*args))


def test_scan_over_checkpointed_layers():
    """Two layers under lax.scan and jax.checkpoint, with and without the named values saved."""
    r, k, v, log_w, u, state = arguments()
    names = ("wkv_out", "wkv_states")

    def gradient(function, *names):
        policy = jax.checkpoint_policies.save_only_these_names(*names)

        def layer(v, scale):
            y, _ = function(scale * r, k, v, log_w, u, state)
            return jnp.tanh(y), None

        layer = jax.checkpoint(layer, policy=policy)
        total = lambda scale, v: jax.lax.scan(layer, v, scale)[0].sum()
        return jax.grad(total, argnums=(0, 1))

    scale = jnp.array([0.5, 1.5])
    expected = jax.jit(gradient(functools.partial(wkv6, impl="scan")))(scale, v)
    assert_close(jax.jit(gradient(chunked))(scale, v), expected)
    assert_close(jax.jit(gradient(chunked, *names))(scale, v), expected)
    # Saving them spares the second run of the forward loop.
    products = lambda f: str(jax.make_jaxpr(f)(scale, v)).count("dot_general")
    assert products(gradient(chunked, *names)) < products(gradient(chunked))


# --- summaries -----------------------------------------------------------------------------


def test_summary_is_what_the_sequence_does_to_the_state():
    r, k, v, log_w, u, state = arguments()
    for reset in (None, some_resets()):
        decay, kv = wkv6_summary(k, v, log_w, reset=reset, chunk=4)
        assert_close(decay[..., None] * state + kv, wkv6(r, k, v, log_w, u, state, reset=reset)[1])
    assert (np.asarray(decay)[some_resets().any(1)] == 0).all()


def test_combine_is_associative_and_equals_the_whole():
    _, k, v, log_w, _, _ = arguments()
    cuts = [slice(0, 3), slice(3, 4), slice(4, 16)]
    one, two, three = (wkv6_summary(k[:, c], v[:, c], log_w[:, c]) for c in cuts)
    whole = wkv6_summary(k, v, log_w)
    assert_close(combine(combine(one, two), three), whole)
    assert_close(combine(one, combine(two, three)), whole)
    identity = Wkv6Summary(jnp.ones_like(one.total_decay), jnp.zeros_like(one.kv))
    assert_close(combine(identity, one), one)
    assert_close(combine(one, identity), one)


def test_time_split_over_four_devices_equals_one():
    """Sequence parallelism: gather the summaries, fold those to the left, then run as usual."""
    args, reset = arguments(), some_resets()
    line = jax.make_mesh((4,), ("time",), axis_types=(AxisType.Auto,))
    along = P(None, "time")

    @functools.partial(
        jax.shard_map,
        mesh=line,
        in_specs=(along, along, along, along, P(), P(), along),
        out_specs=(along, P("time")),
    )
    def split(r, k, v, log_w, u, state, reset):
        mine = wkv6_summary(k, v, log_w, reset=reset, chunk=4)
        everyone = jax.lax.all_gather(mine, "time")
        before = Wkv6Summary(jnp.ones_like(mine.total_decay), jnp.zeros_like(mine.kv))
        for device in range(3):
            left = jax.tree.map(lambda x, d=device: x[d], everyone)
            use = device < jax.lax.axis_index("time")
            joined = combine(before, left)
            before = jax.tree.map(lambda new, old, u=use: jnp.where(u, new, old), joined, before)
        state = before.total_decay[..., None] * state + before.kv
        y, state = chunked(r, k, v, log_w, u, state, reset=reset)
        return y, state[None]

    def unsplit(*args, reset):
        y, states = split(*args, reset)
        return y, states[-1]

    assert_close(jax.jit(unsplit)(*args, reset=reset), expected()[0])
    assert_close(jax.jit(jax.grad(loss(unsplit)))(args, reset), expected()[1])


# --- extreme inputs ------------------------------------------------------------------------


@functools.cache
def everything():
    """Outputs and gradients of the chunked form, compiled once."""

    def run(args, reset):
        return chunked(*args, reset=reset), jax.grad(loss(chunked))(args, reset)

    return jax.jit(run)


@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e6]),
    decays=st.lists(
        st.sampled_from([0.0, -1e-38, -1e-7, -1.0, -50.0, -87.5, -104.0, -1e5, -3e38]),
        min_size=1,
        max_size=4,
    ),
    borders=st.sampled_from([0.0, 0.2, 1.0]),
)
def test_finite_inputs_never_give_nan(seed, scale, decays, borders):
    """And the values are those of the float64 scan."""
    rng = np.random.default_rng(seed)
    r, k, v, _, u, state = arguments(seed % 1000)
    log_w = rng.choice(np.float32(decays), size=r.shape)
    reset = rng.random((BATCH, STEPS)) < borders
    args = (r, scale * k, v, log_w, u, scale * state)
    args = tuple(np.asarray(a, np.float32) for a in args)
    (y, final), gradients = everything()(args, reset)
    for leaf in jax.tree.leaves((y, final, gradients)):
        assert np.isfinite(leaf).all()
    with jax.enable_x64(True):
        wide = tuple(np.float64(a) for a in args)
        assert_close((y, final), wkv6(*wide, reset=reset, impl="scan"))


@functools.cache
def average():
    """wkv4 of five steps of one channel from the empty state, and its gradients."""
    values = jnp.linspace(-1, 1, 5)[None, :, None]

    def run(k, log_w, u):
        state = wkv4_initial_state(1, 1)
        y = wkv4(k[None, :, None], values, log_w[None], u[None], state)[0]
        return y.sum(), y

    return jax.jit(jax.value_and_grad(run, argnums=(0, 1, 2), has_aux=True))


HUGE = st.floats(-(2.0**96), 2.0**96, width=32, allow_subnormal=False)


@given(
    keys=st.lists(HUGE, min_size=5, max_size=5),
    log_w=st.sampled_from([0.0, -1e-30, -1.0, -1e5, -1e30]),
    u=HUGE,
)
def test_wkv4_is_an_average_at_any_finite_key(keys, log_w, u):
    """Between the smallest and largest value seen, and finite gradients."""
    (_, y), gradients = average()(jnp.float32(keys), jnp.float32(log_w), jnp.float32(u))
    assert (np.abs(y) <= 1 + 1e-6).all()
    assert all(np.isfinite(g).all() for g in gradients)
