# SPDX-License-Identifier: Apache-2.0
"""A recurrence over a sequence, chunk by chunk: the loop round the algebra of one chunk.

The loop reads slices of the [B, T, H, N] arrays where they lie and writes results in place, so
nothing of the size of the sequence is ever transposed. The derivative is written by hand: the
forward pass keeps the state before every group of chunks (N M numbers per head), the backward
pass recomputes the states inside one group at a time. Memory beyond inputs and outputs is
therefore N M / (chunk * group) numbers per token and head.

Dimensions: B batch, T time, H heads, N key channels, M value channels, L chunk length.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from rwkvjax.wkv import common

LARGEST_GROUP = 4  # chunks per stored state: larger saves little memory more and recomputes more


class Chunk(NamedTuple):
    """One chunk, heads before time, in the dtype of the arithmetic."""

    timed: tuple[jax.Array, ...]  # each [B, H, L, N]; the first is v
    shared: tuple[jax.Array, ...]  # each [H, 1, N]
    cut: jax.Array | None  # [B, 1, L, 1] bool, True on the last step of a document
    real: jax.Array | None  # [L, 1] bool, False on padding; None if there is none at all


class Gradients(NamedTuple):
    """Gradients of one chunk."""

    timed: tuple[jax.Array, ...]  # each [B, H, L, N]
    shared: tuple[jax.Array, ...]  # summed over the chunk's steps, each [B, H, N]
    state: jax.Array


class Algebra(NamedTuple):
    """What one chunk does; the state is key-first [B, H, N, M]."""

    forward: Callable[[Chunk, jax.Array], tuple[jax.Array, jax.Array]]  # (y, state)
    advance: Callable[[Chunk, jax.Array], jax.Array]  # state
    backward: Callable[[Chunk, jax.Array, jax.Array, jax.Array], Gradients]  # of (y, state)
    # One token, step(state, *timed) -> (state, y). If given, it replaces `forward`: where chunks
    # pay only in the backward pass.
    step: Callable[..., tuple[jax.Array, jax.Array]] | None = None


class Plan(NamedTuple):
    """Static choices of one call."""

    algebra: Algebra
    chunk: int  # steps per chunk, a power of two
    group: int  # chunks per stored state
    steps: int  # real steps; the rest of the last chunk is padding
    dtype: jnp.dtype  # of all arithmetic and of the state


class Inputs(NamedTuple):
    """Arrays of one call, T a multiple of chunk * group."""

    timed: tuple[jax.Array, ...]  # each [B, T, H, N]; the first is v
    shared: tuple[jax.Array, ...]  # each [H, N]
    cut: jax.Array | None  # [B, T] bool


def read(array: jax.Array, index: jax.Array, plan: Plan) -> jax.Array:
    """Chunk `index` of [B, T, H, N] as [B, H, L, N]."""
    part = lax.dynamic_slice_in_dim(array, index * plan.chunk, plan.chunk, axis=1)
    return jnp.swapaxes(part, 1, 2).astype(plan.dtype)


def write(buffer: jax.Array, part: jax.Array, index: jax.Array, plan: Plan) -> jax.Array:
    """Puts [B, H, L, N] into [B, T, H, N] as chunk `index`."""
    part = jnp.swapaxes(part, 1, 2).astype(buffer.dtype)
    return lax.dynamic_update_slice_in_dim(buffer, part, index * plan.chunk, axis=1)


def read_chunk(inputs: Inputs, index: jax.Array, plan: Plan) -> Chunk:
    """Chunk `index` of all inputs."""
    cut, real = inputs.cut, None
    if cut is not None:
        cut = lax.dynamic_slice_in_dim(cut, index * plan.chunk, plan.chunk, axis=1)
        cut = cut[:, None, :, None]
    if inputs.timed[0].shape[1] != plan.steps:
        real = (index * plan.chunk + jnp.arange(plan.chunk) < plan.steps)[:, None]
    return Chunk(
        tuple(read(x, index, plan) for x in inputs.timed),
        tuple(x.astype(plan.dtype)[:, None, :] for x in inputs.shared),
        cut,
        real,
    )


def forward(
    plan: Plan, inputs: Inputs, state: jax.Array, *, save: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(y, final state, states before each group [groups, B, H, N, M] if `save` else [0, ...])."""
    v = inputs.timed[0]
    groups = v.shape[1] // (plan.chunk * plan.group)
    y = jnp.zeros(v.shape, v.dtype)
    states = jnp.zeros((groups if save else 0, *state.shape), plan.dtype)
    y, state, states = common.match_varying((y, state, states), like=inputs)

    def one_chunk(index: jax.Array, carry: tuple) -> tuple:
        y, state = carry
        part, state = plan.algebra.forward(read_chunk(inputs, index, plan), state)
        return write(y, part, index, plan), state

    def one_step(t: jax.Array, carry: tuple) -> tuple:
        assert plan.algebra.step is not None
        y, state = carry
        at = lambda x: lax.dynamic_index_in_dim(x, t, axis=1, keepdims=False)
        timed = (at(x).astype(plan.dtype) for x in inputs.timed)
        state, part = plan.algebra.step(state, *timed)
        y = lax.dynamic_update_index_in_dim(y, part.astype(y.dtype), t, axis=1)
        return y, state if inputs.cut is None else common.over_reset(at(inputs.cut), 0, state)

    stepwise = plan.algebra.step is not None
    one = one_step if stepwise else one_chunk
    per_group = plan.group * (plan.chunk if stepwise else 1)

    def one_group(group: jax.Array, carry: tuple) -> tuple:
        y, state, states = carry
        if save:
            states = lax.dynamic_update_index_in_dim(states, state, group, axis=0)
        body = lambda i, carry: one(group * per_group + i, carry)
        y, state = lax.fori_loop(0, per_group, body, (y, state))
        return y, state, states

    return lax.fori_loop(0, groups, one_group, (y, state, states))


def states_in_group(plan: Plan, inputs: Inputs, state: jax.Array, first: jax.Array) -> jax.Array:
    """States before each chunk of the group that begins with chunk `first` in `state`."""

    def body(i: jax.Array, carry: tuple) -> tuple:
        state, states = carry
        state = plan.algebra.advance(read_chunk(inputs, first + i, plan), state)
        return state, lax.dynamic_update_index_in_dim(states, state, i + 1, axis=0)

    states = jnp.broadcast_to(state, (plan.group, *state.shape))
    return lax.fori_loop(0, plan.group - 1, body, (state, states))[1]


def backward(
    plan: Plan, inputs: Inputs, states: jax.Array, dy: jax.Array, dstate: jax.Array
) -> Gradients:
    """Gradients from the states stored by `forward`; `shared` per sequence [B, H, N]."""
    batch = dy.shape[0]
    start = Gradients(
        tuple(jnp.zeros(x.shape, x.dtype) for x in inputs.timed),
        tuple(jnp.zeros((batch, *x.shape), plan.dtype) for x in inputs.shared),
        dstate,
    )

    def one_chunk(index: jax.Array, state: jax.Array, total: Gradients) -> Gradients:
        new = plan.algebra.backward(
            read_chunk(inputs, index, plan), state, read(dy, index, plan), total.state
        )
        timed = zip(total.timed, new.timed, strict=True)
        shared = zip(total.shared, new.shared, strict=True)
        return Gradients(
            tuple(write(buffer, part, index, plan) for buffer, part in timed),
            tuple(so_far + part for so_far, part in shared),
            new.state,
        )

    def one_group(step: jax.Array, total: Gradients) -> Gradients:
        group = states.shape[0] - 1 - step
        first = group * plan.group
        before = states_in_group(plan, inputs, states[group], first)

        def body(i: jax.Array, total: Gradients) -> Gradients:
            at = plan.group - 1 - i
            state = lax.dynamic_index_in_dim(before, at, axis=0, keepdims=False)
            return one_chunk(first + at, state, total)

        return lax.fori_loop(0, plan.group, body, total)

    start = common.match_varying(start, like=(inputs, states, dy))
    return lax.fori_loop(0, states.shape[0], one_group, start)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def run(plan: Plan, inputs: Inputs, state: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(y, final state) of whole groups of chunks."""
    return forward(plan, inputs, state, save=False)[:2]


def run_forward(plan: Plan, inputs: Inputs, state: jax.Array) -> tuple:
    """Forward rule of `run`."""
    y, state, states = forward(plan, inputs, state, save=True)
    return (y, state), (inputs, checkpoint_name(states, "wkv_states"))


def run_backward(plan: Plan, residuals: tuple, cotangents: tuple) -> tuple[Inputs, jax.Array]:
    """Backward rule of `run`."""
    inputs, states = residuals
    total = backward(plan, inputs, states, *cotangents)
    shared = zip(inputs.shared, total.shared, strict=True)
    shared_sums = tuple(part.sum(0).astype(x.dtype) for x, part in shared)
    return Inputs(total.timed, shared_sums, None), total.state


run.defvjp(run_forward, run_backward)


def default_chunk() -> int:
    """16 where elementwise work dominates (CPU), 64 where the number of kernels does."""
    return 16 if jax.default_backend() == "cpu" else 64


def make_plan(algebra: Algebra, steps: int, chunk: int | None, dtype: jnp.dtype) -> Plan:
    """Chunk no longer than needed; as many chunks per stored state as divide their number."""
    chunk = min(chunk or default_chunk(), 1 << (steps - 1).bit_length())
    chunks = -(-steps // chunk)
    group = max(g for g in range(1, LARGEST_GROUP + 1) if chunks % g == 0)
    return Plan(algebra, chunk, group, steps, dtype)


def run_sequence(
    algebra: Algebra,
    timed: tuple[jax.Array, ...],
    shared: tuple[jax.Array, ...],
    state: jax.Array,
    reset: jax.Array | None,
    chunk: int | None,
    dtype: jnp.dtype,
) -> tuple[jax.Array, jax.Array]:
    """A whole recurrence in chunks.

    Args:
      algebra: what one chunk does. A step whose `timed` arrays are all zero must change nothing.
      timed: sequences [B, T, H, N], v first; shared: [H, N]; both in their own dtypes, every
        chunk is cast to `dtype` when it is read. All vary over the same manual mesh axes.
      state: [B, H, N, M].
      reset: [B, T] bool or None.
      chunk: chunk length or None for the default.
      dtype: of the arithmetic and of the state.

    Returns:
      (y, like v; state in `dtype`).
    """
    steps = timed[0].shape[1]
    plan = make_plan(algebra, steps, chunk, dtype)
    state, cut = state.astype(dtype), None
    if reset is not None:
        state = common.over_reset(reset[:, 0], 0, state)
        cut = common.last_steps(reset)
    extra = -steps % plan.chunk
    if extra:
        pad = lambda x: jnp.pad(x, ((0, 0), (0, extra)) + ((0, 0),) * (x.ndim - 2))
        timed, cut = jax.tree.map(pad, (timed, cut))
    y, state = run(plan, Inputs(timed, shared, cut), state)
    return checkpoint_name(y[:, :steps] if extra else y, "wkv_out"), state
