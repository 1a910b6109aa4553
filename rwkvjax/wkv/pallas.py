# SPDX-License-Identifier: Apache-2.0
"""The recurrence of RWKV-5 and RWKV-6 as Pallas kernels for TPU and GPU.

Both walk over chunks of L steps with the state on the chip, so that only r, k, v, w and y travel
through memory. The arithmetic of a chunk is one function, `chunk`, made of matrix products,
elementwise products and exponentials; its derivative inside the backward kernel is JAX's own.
Scores within the chunk are built by recursive halving as in `dyadic`, but each product of decays is
the exponential of a sum of log decays taken by a product with a 0/1 matrix: matrix units are idle
anyway, and like there nothing is divided or subtracted, so any decay is exact.

TPU: grid (batch, groups of heads, chunks), the last axis in order with the state in VMEM scratch.
Arrays stay [B, T, H N], and a program takes as many heads as fill the 128 lanes, so that no array
is padded. GPU (Triton): one program for each sequence and head, with a loop over chunks.

Dimensions: B batch, T time, H heads, N key channels, M value channels, L chunk, C chunks, G heads
of a program.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from rwkvjax.wkv import common

LANES = 128  # of a TPU register
# Stands for "the document ends here" among the log decays; nothing else is as small.
CUT = -1e30

_dot = functools.partial(
    lax.dot_general, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32
)


class Plan(NamedTuple):
    """Static choices of one call."""

    platform: str  # "tpu" or "gpu"
    chunk: int
    interpret: bool


class Program(NamedTuple):
    """How both kernels of a platform are called; block specifications by what they hold."""

    grid: tuple[int, ...]
    keys: pl.BlockSpec  # of r, k, log_w
    values: pl.BlockSpec  # of v and y
    bonus: pl.BlockSpec
    state: pl.BlockSpec
    states: pl.BlockSpec  # before each chunk
    bonus_sum: pl.BlockSpec  # gradient of the bonus of each sequence
    states_shape: tuple[int, ...]
    forward: Callable[..., None]
    backward: Callable[..., None]
    options: dict[str, Any]


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """[I, K] @ [K, J] in full float32."""
    return _dot(a, b, (((1,), (0,)), ((), ())))


def matmul_nt(a: jax.Array, b: jax.Array) -> jax.Array:
    """[I, K] @ [J, K]^T."""
    return _dot(a, b, (((1,), (1,)), ((), ())))


def matmul_tn(a: jax.Array, b: jax.Array) -> jax.Array:
    """[K, I]^T @ [K, J]."""
    return _dot(a, b, (((0,), (0,)), ((), ())))


def chunk(
    r: jax.Array, k: jax.Array, v: jax.Array, log_w: jax.Array, u: jax.Array, state: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """One chunk of one head, float32: (y [L, M], state after it [N, M]).

    Args:
      r, k, log_w: [L, N]; a step whose log_w is at most CUT is the last of its document.
      v: [L, M]. u: [1, N]. state: [N, M].
    """
    steps = r.shape[0]
    t = lax.broadcasted_iota(jnp.int32, (steps, steps), 0)
    s = lax.broadcasted_iota(jnp.int32, (steps, steps), 1)
    kept = jnp.where(log_w <= 0.5 * CUT, 0.0, k)

    def decayed(level: int) -> tuple[jax.Array, jax.Array]:
        """r since the start of its block of 2^level steps, k up to the end of its own."""
        same = t >> level == s >> level
        since = matmul((same & (s < t)).astype(jnp.float32), log_w)
        until = matmul((same & (s > t)).astype(jnp.float32), log_w)
        return r * jnp.exp(since), kept * jnp.exp(until)

    scores = jnp.zeros((steps, steps), jnp.float32)
    levels = steps.bit_length() - 1
    for level in range(levels):
        q, key = decayed(level)
        # Pairs of an odd block (t) and the even one before it (s).
        owns = ((t >> level) & 1 == 1) & (s >> level == (t >> level) - 1)
        scores = scores + jnp.where(owns, matmul_nt(q, key), 0.0)
    q, key = decayed(levels)
    y = matmul(scores, v) + matmul(q, state) + jnp.sum(r * u * k, axis=1, keepdims=True) * v
    # The total decay as a column for each value channel, by a product with ones.
    total = jnp.exp(matmul_tn(log_w, jnp.ones(v.shape, jnp.float32)))
    return y, total * state + matmul_tn(key, v)


def chunk_gradients(inputs: tuple, dy: jax.Array, dstate: jax.Array) -> tuple:
    """Gradients of `chunk` with respect to its six arguments."""
    return jax.vjp(chunk, *inputs)[1]((dy, dstate))


# --- TPU ----------------------------------------------------------------------------------------


def _columns(ref: Any, head: int, size: int) -> jax.Array:
    """[L, size] float32 of one head from a block [1, L, G size]."""
    return ref[0, :, head * size : (head + 1) * size].astype(jnp.float32)


def _read(refs: tuple, head: int, size: int, values: int) -> tuple[jax.Array, ...]:
    """r, k, v, log_w and u of one head."""
    r, k, v, log_w, u = refs
    return (
        _columns(r, head, size),
        _columns(k, head, size),
        _columns(v, head, values),
        _columns(log_w, head, size),
        u[:, head * size : (head + 1) * size].astype(jnp.float32),
    )


def _tpu_forward_kernel(*refs: Any) -> None:
    *inputs, start, y, end = refs[:8]
    before, state = refs[8:-1], refs[-1]
    _, group, size, values = start.shape

    @pl.when(pl.program_id(2) == 0)
    def begin() -> None:
        state[...] = start[0]

    for head in range(group):
        for saved in before:  # heads side by side, so that they fill the lanes
            saved[0, 0, 0, :, head * values : (head + 1) * values] = state[head]
        args = (*_read(tuple(inputs), head, size, values), state[head])
        out, after = chunk(*args)
        y[0, :, head * values : (head + 1) * values] = out.astype(y.dtype)
        state[head] = after

    @pl.when(pl.program_id(2) == pl.num_programs(2) - 1)
    def finish() -> None:
        end[0] = state[...]


def _tpu_backward_kernel(*refs: Any) -> None:
    *inputs, before, dy, dend, dr, dk, dv, dlog_w, du, dstart, dstate = refs
    _, group, size, values = dend.shape

    @pl.when(pl.program_id(2) == 0)
    def begin() -> None:
        dstate[...] = dend[0]
        du[...] = jnp.zeros(du.shape, du.dtype)

    for head in range(group):
        state = before[0, 0, 0, :, head * values : (head + 1) * values]
        args = (*_read(tuple(inputs), head, size, values), state)
        grads = chunk_gradients(args, _columns(dy, head, values), dstate[head])
        keys = slice(head * size, (head + 1) * size)
        dr[0, :, keys] = grads[0].astype(dr.dtype)
        dk[0, :, keys] = grads[1].astype(dk.dtype)
        dv[0, :, head * values : (head + 1) * values] = grads[2].astype(dv.dtype)
        dlog_w[0, :, keys] = grads[3].astype(dlog_w.dtype)
        du[0, :, keys] += grads[4]
        dstate[head] = grads[5]

    @pl.when(pl.program_id(2) == pl.num_programs(2) - 1)
    def finish() -> None:
        dstart[0] = dstate[...]


def heads_of_program(heads: int, size: int) -> int:
    """G: as many heads as fill the lanes, if those divide the heads; else all."""
    group = max(1, LANES // size)
    return group if heads % group == 0 else heads


def _tpu_program(plan: Plan, steps: int, state: tuple[int, ...], reverse: bool) -> Program:
    from jax.experimental.pallas import tpu as pltpu

    batch, heads, size, values = state
    length, chunks = plan.chunk, steps // plan.chunk
    group = heads_of_program(heads, size)
    at = lambda t: chunks - 1 - t if reverse else t
    timed = lambda width: pl.BlockSpec((1, length, width), lambda b, h, t: (b, at(t), h))
    order: Any = ("parallel", "parallel", "arbitrary")
    return Program(
        grid=(batch, heads // group, chunks),
        keys=timed(group * size),
        values=timed(group * values),
        bonus=pl.BlockSpec((1, group * size), lambda b, h, t: (0, h)),
        state=pl.BlockSpec((1, group, size, values), lambda b, h, t: (b, h, 0, 0)),
        states=pl.BlockSpec((1, 1, 1, size, group * values), lambda b, h, t: (b, h, at(t), 0, 0)),
        bonus_sum=pl.BlockSpec((1, 1, group * size), lambda b, h, t: (b, 0, h)),
        states_shape=(batch, heads // group, chunks, size, group * values),
        forward=_tpu_forward_kernel,
        backward=_tpu_backward_kernel,
        options={
            "scratch_shapes": [pltpu.VMEM((group, size, values), jnp.float32)],
            "compiler_params": pltpu.CompilerParams(dimension_semantics=order),
        },
    )


# --- GPU ----------------------------------------------------------------------------------------


def _at(ref: Any, index: jax.Array, length: int) -> jax.Array:
    """Chunk `index` of a block [1, T, N] as [L, N] float32."""
    return ref[0, pl.ds(index * length, length), :].astype(jnp.float32)


def _gpu_forward_kernel(length: int, *refs: Any) -> None:
    *timed, u, start, y, end = refs[:8]
    before = refs[8:]
    bonus = u[...].astype(jnp.float32)

    def body(i: jax.Array, state: jax.Array) -> jax.Array:
        for saved in before:
            saved[0, 0, i] = state
        r, k, v, log_w = (_at(x, i, length) for x in timed)
        out, state = chunk(r, k, v, log_w, bonus, state)
        y[0, pl.ds(i * length, length), :] = out.astype(y.dtype)
        return state

    end[0, 0] = lax.fori_loop(0, y.shape[1] // length, body, start[0, 0])


def _gpu_backward_kernel(length: int, *refs: Any) -> None:
    *timed, u, before, dy, dend, dr, dk, dv, dlog_w, du, dstart = refs
    bonus = u[...].astype(jnp.float32)
    chunks = timed[0].shape[1] // length

    def body(step: jax.Array, carry: tuple) -> tuple:
        dstate, total = carry
        i = chunks - 1 - step
        inputs = (*(_at(x, i, length) for x in timed), bonus, before[0, 0, i])
        *grads, dbonus, dstate = chunk_gradients(inputs, _at(dy, i, length), dstate)
        for ref, grad in zip((dr, dk, dv, dlog_w), grads, strict=True):
            ref[0, pl.ds(i * length, length), :] = grad.astype(ref.dtype)
        return dstate, total + dbonus

    dstate, total = lax.fori_loop(0, chunks, body, (dend[0, 0], jnp.zeros_like(bonus)))
    dstart[0, 0] = dstate
    du[0] = total


def _gpu_program(plan: Plan, steps: int, state: tuple[int, ...], reverse: bool) -> Program:
    from jax.experimental.pallas import triton

    del reverse  # the loop over chunks is in the kernel
    batch, heads, size, values = state
    chunks = steps // plan.chunk
    timed = lambda width: pl.BlockSpec((1, steps, width), lambda b, h: (b, 0, h))
    return Program(
        grid=(batch, heads),
        keys=timed(size),
        values=timed(values),
        bonus=pl.BlockSpec((1, size), lambda b, h: (0, h)),
        state=pl.BlockSpec((1, 1, size, values), lambda b, h: (b, h, 0, 0)),
        states=pl.BlockSpec((1, 1, chunks, size, values), lambda b, h: (b, h, 0, 0, 0)),
        bonus_sum=pl.BlockSpec((1, 1, size), lambda b, h: (b, 0, h)),
        states_shape=(batch, heads, chunks, size, values),
        forward=functools.partial(_gpu_forward_kernel, plan.chunk),
        backward=functools.partial(_gpu_backward_kernel, plan.chunk),
        options={"compiler_params": triton.CompilerParams(num_warps=4, num_stages=1)},
    )


# --- both ---------------------------------------------------------------------------------------


def _program(plan: Plan, timed: tuple, state: jax.Array, reverse: bool) -> Program:
    make = _tpu_program if plan.platform == "tpu" else _gpu_program
    return make(plan, timed[0].shape[1], state.shape, reverse)


def _shape(like: jax.Array, *shape: int, dtype: Any = None) -> jax.ShapeDtypeStruct:
    # Inside shard_map a result must say over which axes it differs: those of the inputs.
    kind = getattr(jax.typeof(like), "manual_axis_type", None)
    varying = {} if kind is None else {"manual_axis_type": kind}
    return jax.ShapeDtypeStruct(shape or like.shape, dtype or like.dtype, **varying)


def _forward(plan: Plan, save: bool, timed: tuple, u: jax.Array, state: jax.Array) -> tuple:
    """(y, state after), and with `save` the states before each chunk."""
    p = _program(plan, timed, state, reverse=False)
    shapes = (_shape(timed[2]), _shape(state), _shape(state, *p.states_shape))
    return tuple(
        pl.pallas_call(
            p.forward,
            grid=p.grid,
            in_specs=[p.keys, p.keys, p.values, p.keys, p.bonus, p.state],
            out_specs=[p.values, p.state, p.states][: 2 + save],
            out_shape=shapes[: 2 + save],
            name="wkv6_forward",
            interpret=plan.interpret,
            **p.options,
        )(*timed, u, state)
    )


def _backward(
    plan: Plan, timed: tuple, u: jax.Array, before: jax.Array, dy: jax.Array, dend: jax.Array
) -> tuple:
    """Gradients of r, k, v, log_w, u (for each sequence) and the initial state."""
    p = _program(plan, timed, dend, reverse=True)
    keys = [p.keys, p.keys, p.values, p.keys]
    du = _shape(u, dend.shape[0], 1, u.shape[1], dtype=jnp.float32)
    return pl.pallas_call(
        p.backward,
        grid=p.grid,
        in_specs=[*keys, p.bonus, p.states, p.values, p.state],
        out_specs=[*keys, p.bonus_sum, p.state],
        out_shape=[*map(_shape, timed), du, _shape(dend)],
        name="wkv6_backward",
        interpret=plan.interpret,
        **p.options,
    )(*timed, u, before, dy, dend)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(plan: Plan, timed: tuple, u: jax.Array, state: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _forward(plan, False, timed, u, state)


def _run_forward(plan: Plan, timed: tuple, u: jax.Array, state: jax.Array) -> tuple:
    y, end, before = _forward(plan, True, timed, u, state)
    return (y, end), (timed, u, before)


def _run_backward(plan: Plan, residuals: tuple, cotangents: tuple) -> tuple:
    timed, u, before = residuals
    *grads, du, dstate = _backward(plan, timed, u, before, *cotangents)
    return tuple(grads), du.sum(0).astype(u.dtype), dstate


_run.defvjp(_run_forward, _run_backward)


def target_platform() -> str:
    """Platform of the mesh in use, which need not be here (compiling ahead), or of this process."""
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    platform = jax.default_backend() if device is None else device.platform
    return {"cuda": "gpu", "rocm": "gpu"}.get(platform, platform)


def run_sequence(
    r: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_w: jax.Array,
    u: jax.Array,
    state: jax.Array,
    reset: jax.Array | None,
    length: int | None = None,
    platform: str | None = None,
    interpret: bool | None = None,
) -> tuple[jax.Array, jax.Array]:
    """`wkv6` by a Pallas kernel.

    Args:
      r, k: [B, T, H, N]. v: [B, T, H, M]. log_w: like r, or constant in time [H, N].
      u: [H, N]. state: [B, H, N, M]. reset: [B, T] bool or None.
      length: chunk L, a power of two; None = 64 on a TPU, 16 on a GPU, and no more than T needs.
      platform: "tpu" or "gpu"; None for that of the mesh in use or of this process.
      interpret: run the kernel's program step by step in XLA; None on a CPU alone.

    Returns:
      (y [B, T, H, M] in the dtype of v, state float32).

    Raises:
      ValueError: float64 inputs, or an unknown platform.
    """
    backend = target_platform()
    platform = platform or ("tpu" if backend == "cpu" else backend)
    if platform not in ("tpu", "gpu"):
        raise ValueError(f"expected a kernel for 'tpu' or 'gpu', got {platform!r}")
    if jnp.result_type(r, k, v, log_w) == jnp.float64:
        raise ValueError("the Pallas kernels compute in float32; use impl='chunked' for float64")
    batch, steps, heads, size = r.shape
    length = min(length or (64 if platform == "tpu" else 16), max(16, pl.next_power_of_2(steps)))
    plan = Plan(platform, length, backend == "cpu" if interpret is None else interpret)
    log_w = jnp.broadcast_to(log_w, r.shape)
    state = state.astype(jnp.float32)
    if reset is not None:
        state = common.over_reset(reset[:, 0], 0, state)
        cut = common.last_steps(reset)
        log_w = jnp.where(cut[..., None, None], CUT, log_w.astype(jnp.float32))

    def packed(x: jax.Array) -> jax.Array:  # [B, T, H, N] -> [B, T', H N]
        x = x.reshape(batch, steps, -1)
        return jnp.pad(x, ((0, 0), (0, -steps % length), (0, 0)))

    timed = tuple(packed(x) for x in (r, k, v, log_w))
    y, state = _run(plan, timed, u.astype(jnp.float32).reshape(1, heads * size), state)
    return y[:, :steps].reshape(v.shape), state
