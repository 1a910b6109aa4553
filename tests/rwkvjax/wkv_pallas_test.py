# SPDX-License-Identifier: Apache-2.0
"""The Pallas kernels: interpreted on a CPU, lowered for a GPU, compiled for TPUs."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rwkvjax import wkv
from rwkvjax.wkv import pallas

NAMES = ("r", "k", "v", "log_w", "u", "state")


def _inputs(batch=2, steps=40, heads=4, size=16, constant=False, seed=0):
    rng = np.random.default_rng(seed)
    shape = (batch, steps, heads, size)
    logits = rng.uniform(-8, 4, shape[2:] if constant else shape)
    r, k, v = rng.normal(size=(3, *shape))
    u, state = rng.normal(size=shape[2:]), rng.normal(size=(batch, heads, size, size))
    log_w = -np.exp(logits)
    if not constant:
        log_w[:, 7::16] = -1e5  # almost a reset, folded into the decay
    return tuple(np.asarray(x, np.float32) for x in (r, k, v, log_w, u, state))


def _reset(batch, steps):
    reset = np.zeros((batch, steps), bool)
    reset[0, [0, 17]] = reset[-1, 16] = True
    return reset


def _with_gradients(function, args, dtype):
    rng = np.random.default_rng(9)
    args = tuple(jnp.asarray(x, dtype) for x in args)
    dy = rng.normal(size=args[2].shape).astype(dtype)
    dend = rng.normal(size=args[5].shape).astype(dtype)

    def loss(*args):
        y, end = function(*args)
        return (y * dy).sum() + (end * dend).sum(), (y, end)

    run = jax.jit(jax.value_and_grad(loss, argnums=tuple(range(6)), has_aux=True))
    (_, values), grads = run(*args)
    return dict(zip(("y", "end", *NAMES), (*values, *grads), strict=True))


def _oracle(args, reset, version=wkv.wkv6):
    with jax.enable_x64(True):
        found = _with_gradients(lambda *a: version(*a, reset=reset, impl="scan"), args, np.float64)
        return {name: np.asarray(x) for name, x in found.items()}


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
@pytest.mark.parametrize("heads", [4, 3])
def test_equals_the_float64_scan_with_every_gradient(platform, heads):
    args, reset = _inputs(heads=heads), _reset(2, 40)
    kernel = lambda *a: pallas.run_sequence(*a, reset, 16, platform)
    found = _with_gradients(kernel, args, np.float32)
    for name, expected in _oracle(args, reset).items():
        error = np.abs(np.asarray(found[name]) - expected).max() / np.abs(expected).max()
        assert error < 2e-6, (name, error)


def test_heads_that_fill_the_lanes_share_a_program():
    assert pallas.heads_of_program(32, 64) == 2
    assert pallas.heads_of_program(4, 128) == 1
    assert pallas.heads_of_program(3, 64) == 3
    args = _inputs(batch=1, steps=16, heads=4, size=64)
    y, end = wkv.wkv6(*args, impl="pallas")
    expected_y, expected_end = wkv.wkv6(*args, impl="scan")
    np.testing.assert_allclose(y, expected_y, atol=2e-5)
    np.testing.assert_allclose(end, expected_end, atol=2e-5)


def test_eagle_and_bfloat16():
    args = _inputs(steps=20, constant=True)
    found = wkv.wkv5(*args, impl="pallas", chunk=16)
    for a, b in zip(found, wkv.wkv5(*args, impl="scan"), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    half = tuple(jnp.asarray(x, jnp.bfloat16) for x in args[:3])
    y, end = wkv.wkv5(*half, *args[3:], impl="pallas", chunk=16)
    rounded = tuple(np.asarray(x, np.float32) for x in half)
    expected_y, expected_end = wkv.wkv5(*rounded, *args[3:], impl="scan")
    assert y.dtype == jnp.bfloat16 and end.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(y, np.float32), expected_y, rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(end, expected_end, atol=2e-5)


def _shapes(batch, steps, heads, size, sharding=None):
    shape = lambda dtype, *s: jax.ShapeDtypeStruct(s, dtype, sharding=sharding)
    half, single, timed = jnp.bfloat16, jnp.float32, (batch, steps, heads * size)
    return (
        *(shape(half, *timed) for _ in range(3)),
        shape(single, *timed),
        shape(single, heads, size),
        shape(single, batch, heads, size, size),
    )


def _programs(platform, length, heads, size):
    split = lambda x: x.reshape(*x.shape[:2], heads, size)

    def forward(r, k, v, log_w, u, state):
        timed = map(split, (r, k, v, log_w))
        y, end = pallas.run_sequence(*timed, u, state, None, length, platform, interpret=False)
        return y.reshape(r.shape), end

    def loss(*args):
        y, end = forward(*args)
        return y.astype(jnp.float32).sum() + end.sum()

    return {"forward": forward, "gradient": jax.grad(loss, argnums=tuple(range(6)))}


@pytest.mark.parametrize("direction", ["forward", "gradient"])
def test_lowers_to_triton(direction):
    program = _programs("gpu", 16, 4, 64)[direction]
    traced = jax.jit(program).trace(*_shapes(2, 64, 4, 64))
    assert "triton" in traced.lower(lowering_platforms=("cuda",)).as_text()


# In a process of its own, which alone sees the TPU compiler.
_COMPILE = """
import sys
import jax
from jax.experimental import topologies
from tests.rwkvjax import wkv_pallas_test as tests
kinds = {"v5e:2x2": "TPU v5 lite", "v5p:2x2x1": "TPU v5"}
for name, kind in kinds.items():
    topology = topologies.get_topology_desc(name, platform="tpu")
    place = jax.sharding.SingleDeviceSharding(topology.devices[0])
    device = jax.sharding.AbstractDevice(device_kind=kind, num_cores=1, platform="tpu")
    mesh = jax.sharding.AbstractMesh((1,), ("x",), abstract_device=device)
    shapes = tests._shapes(4, 1024, 32, 64, place)
    for direction, program in tests._programs("tpu", 64, 32, 64).items():
        with jax.sharding.use_abstract_mesh(mesh):
            compiled = jax.jit(program).trace(*shapes).lower().compile()
        memory = compiled.memory_analysis()
        print("kernel", name, direction, memory.temp_size_in_bytes, memory.argument_size_in_bytes,
              memory.output_size_in_bytes)
    compiled = tests._training_step(topology.devices)
    text = compiled.as_text()
    print("step", name, text.count("tpu_custom_call"), "all-gather" in text,
          compiled.memory_analysis().temp_size_in_bytes)
"""


def _training_step(devices):
    """Loss and gradients of a Finch with its time axis over four chips, compiled."""
    from core import sharding
    from rwkvjax import model
    from rwkvjax.config import Config
    from rwkvjax.task import LanguageModelTask

    cfg = Config(vocab_size=512, dim=256, layers=2, wkv="pallas", dtype="bfloat16", remat="full")
    mesh = sharding.make_mesh({"sequence": 4}, devices)
    everywhere = sharding.replicated(mesh)
    task = LanguageModelTask(cfg, 1024, mesh=mesh)
    shape = lambda dtype, *s: jax.ShapeDtypeStruct(s, dtype, sharding=everywhere)
    params = jax.tree.map(
        lambda x: shape(x.dtype, *x.shape),
        jax.eval_shape(lambda: model.init(jax.random.key(0), cfg)),
    )
    batch = {
        "tokens": shape(jnp.int32, 1, 1025),
        "reset": shape(jnp.bool_, 1, 1025),
        "loss_mask": shape(jnp.float32, 1, 1024),
    }
    step = jax.jit(jax.value_and_grad(lambda p, b: task.loss(p, (), b, None)[0]))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return step.lower(params, batch).compile()


def test_compiles_for_tpus_without_copies(repo):
    pytest.importorskip("libtpu", reason="the TPU compiler (libtpu) is not installed")
    done = subprocess.run(
        [sys.executable, "-c", _COMPILE], cwd=repo, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    kernels = [row[1:] for row in rows if row[:1] == ["kernel"]]
    steps = [row[1:] for row in rows if row[:1] == ["step"]]
    assert len(kernels) == 4 and len(steps) == 2
    for name, calls, gathers, _ in steps:  # forward twice (recomputed), backward once
        assert int(calls) >= 2 and gathers == "True", name
    for name, direction, temporary, arguments, outputs in kernels:
        token_heads = 4 * 1024 * 32
        if direction == "forward":
            # No array is padded or copied: the traffic is what goes in and what comes out.
            assert int(temporary) < 1e6, name
            assert (int(arguments) + int(outputs)) / token_heads < 850


def test_bad_input():
    args = _inputs(steps=8)
    with pytest.raises(ValueError, match="'tpu' or 'gpu', got 'cpu'"):
        pallas.run_sequence(*args, None, platform="cpu")
    with jax.enable_x64(True), pytest.raises(ValueError, match="float32; use impl='chunked'"):
        wkv.wkv6(*(x.astype(np.float64) for x in args), impl="pallas")
    with pytest.raises(ValueError, match="versions 5 and 6"):
        from rwkvjax.config import Config

        Config(version="7", wkv="pallas")
