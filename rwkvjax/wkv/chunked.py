# SPDX-License-Identifier: Apache-2.0
"""RWKV-5/6 over a sequence, chunk by chunk: the loop round the algebra of `dyadic`.

The loop reads slices of the [B, T, H, N] arrays where they lie and writes results in place, so
nothing of the size of the sequence is ever transposed. The derivative is written by hand: the
forward pass keeps the state before every group of chunks (N M numbers per head), the backward
pass recomputes the states inside one group at a time. Memory beyond inputs and outputs is
therefore N M / (chunk * group) numbers per token and head.

Dimensions: B batch, T time, H heads, N key channels, M value channels, L chunk length.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from rwkvjax.wkv import common, dyadic

LARGEST_GROUP = 4  # chunks per stored state: larger saves little memory more and recomputes more


class Plan(NamedTuple):
    """Static choices of one call."""

    chunk: int  # steps per chunk, a power of two
    group: int  # chunks per stored state
    steps: int  # real steps; the rest of the last chunk is padding
    dtype: jnp.dtype  # of all arithmetic and of the state


class Inputs(NamedTuple):
    """Arrays of one call, T a multiple of chunk * group."""

    r: jax.Array  # [B, T, H, N]
    k: jax.Array  # [B, T, H, N]
    v: jax.Array  # [B, T, H, M]
    log_w: jax.Array  # [B, T, H, N], or [H, N] if constant in time
    u: jax.Array  # [H, N]
    cut: jax.Array | None  # [B, T] bool, True on the last step of a document


class Chunk(NamedTuple):
    """One chunk, heads before time, in the dtype of the arithmetic."""

    r: jax.Array  # [B, H, L, N]
    k: jax.Array  # [B, H, L, N]
    v: jax.Array  # [B, H, L, M]
    w: jax.Array  # [B, H, L, N] or [H, L, N]
    u: jax.Array  # [H, 1, N]
    cut: jax.Array | None  # [B, 1, L, 1]


def read(array: jax.Array, index: jax.Array, plan: Plan) -> jax.Array:
    """Chunk `index` of [B, T, H, N] as [B, H, L, N]."""
    part = lax.dynamic_slice_in_dim(array, index * plan.chunk, plan.chunk, axis=1)
    return jnp.swapaxes(part, 1, 2).astype(plan.dtype)


def write(buffer: jax.Array, part: jax.Array, index: jax.Array, plan: Plan) -> jax.Array:
    """Puts [B, H, L, N] into [B, T, H, N] as chunk `index`."""
    part = jnp.swapaxes(part, 1, 2).astype(buffer.dtype)
    return lax.dynamic_update_slice_in_dim(buffer, part, index * plan.chunk, axis=1)


def is_whole(inputs: Inputs, plan: Plan) -> bool:
    """True if no step is padding."""
    return inputs.r.shape[1] == plan.steps


def is_real(index: jax.Array, plan: Plan) -> jax.Array:
    """[L, 1], True for the steps of chunk `index` that are not padding."""
    return (index * plan.chunk + jnp.arange(plan.chunk) < plan.steps)[:, None]


def read_chunk(inputs: Inputs, index: jax.Array, plan: Plan) -> Chunk:
    """Chunk `index` of all inputs."""
    if inputs.log_w.ndim == 2:
        w = jnp.exp(inputs.log_w.astype(plan.dtype))[:, None, :]
        w = jnp.broadcast_to(w, (w.shape[0], plan.chunk, w.shape[2]))
        w = w if is_whole(inputs, plan) else jnp.where(is_real(index, plan), w, 1)
    else:
        w = jnp.exp(read(inputs.log_w, index, plan))
    cut = inputs.cut
    if cut is not None:
        cut = lax.dynamic_slice_in_dim(cut, index * plan.chunk, plan.chunk, axis=1)
        cut = cut[:, None, :, None]
    r, k, v = (read(x, index, plan) for x in (inputs.r, inputs.k, inputs.v))
    return Chunk(r, k, v, w, inputs.u.astype(plan.dtype)[:, None, :], cut)


def forward(
    plan: Plan, inputs: Inputs, state: jax.Array, *, save: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(y, final state, states before each group [groups, B, H, N, M] if `save` else [0, ...])."""
    groups = inputs.r.shape[1] // (plan.chunk * plan.group)
    y, state, states = common.match_varying(
        (
            jnp.zeros(inputs.v.shape, inputs.v.dtype),
            state,
            jnp.zeros((groups if save else 0, *state.shape), plan.dtype),
        ),
        like=inputs,
    )

    def one_chunk(index: jax.Array, carry: tuple) -> tuple:
        y, state = carry
        chunk = read_chunk(inputs, index, plan)
        y_chunk, state = dyadic.forward_chunk(*chunk[:5], state, chunk.cut)
        return write(y, y_chunk, index, plan), state

    def one_group(group: jax.Array, carry: tuple) -> tuple:
        y, state, states = carry
        if save:
            states = lax.dynamic_update_index_in_dim(states, state, group, axis=0)
        first = group * plan.group
        body = lambda i, carry: one_chunk(first + i, carry)
        y, state = lax.fori_loop(0, plan.group, body, (y, state))
        return y, state, states

    return lax.fori_loop(0, groups, one_group, (y, state, states))


def states_in_group(plan: Plan, inputs: Inputs, state: jax.Array, first: jax.Array) -> jax.Array:
    """States before each chunk of the group that begins with chunk `first` in `state`."""

    def body(i: jax.Array, carry: tuple) -> tuple:
        state, states = carry
        chunk = read_chunk(inputs, first + i, plan)
        state = dyadic.advance_chunk(chunk.k, chunk.v, chunk.w, state, chunk.cut)
        return state, lax.dynamic_update_index_in_dim(states, state, i + 1, axis=0)

    states = jnp.broadcast_to(state, (plan.group, *state.shape))
    return lax.fori_loop(0, plan.group - 1, body, (state, states))[1]


class Gradients(NamedTuple):
    """Carry of the backward loop: gradients of the inputs, and of the state so far."""

    r: jax.Array
    k: jax.Array
    v: jax.Array
    log_w: jax.Array  # [B, T, H, N], or the sum over time [B, H, N] if constant
    u: jax.Array  # [B, H, N]
    state: jax.Array


def backward(
    plan: Plan, inputs: Inputs, states: jax.Array, dy: jax.Array, dstate: jax.Array
) -> Gradients:
    """Gradients from the states stored by `forward`."""
    batch, _, heads, size = inputs.r.shape
    per_head = jnp.zeros((batch, heads, size), plan.dtype)
    constant = inputs.log_w.ndim == 2
    gradients = common.match_varying(
        Gradients(
            jnp.zeros(inputs.r.shape, inputs.r.dtype),
            jnp.zeros(inputs.k.shape, inputs.k.dtype),
            jnp.zeros(inputs.v.shape, inputs.v.dtype),
            per_head if constant else jnp.zeros(inputs.log_w.shape, inputs.log_w.dtype),
            per_head,
            dstate,
        ),
        like=(inputs, states, dy),
    )

    def one_chunk(index: jax.Array, state: jax.Array, total: Gradients) -> Gradients:
        chunk = read_chunk(inputs, index, plan)
        new = dyadic.backward_chunk(
            *chunk[:5], state, chunk.cut, read(dy, index, plan), total.state
        )
        if constant:
            if not is_whole(inputs, plan):
                new = new._replace(log_w=jnp.where(is_real(index, plan), new.log_w, 0))
            log_w = total.log_w + new.log_w.sum(-2)
        else:
            log_w = write(total.log_w, new.log_w, index, plan)
        return Gradients(
            write(total.r, new.r, index, plan),
            write(total.k, new.k, index, plan),
            write(total.v, new.v, index, plan),
            log_w,
            total.u + new.u.sum(-2),
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

    return lax.fori_loop(0, states.shape[0], one_group, gradients)


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
    dlog_w = total.log_w.sum(0) if inputs.log_w.ndim == 2 else total.log_w
    gradients = Inputs(
        total.r,
        total.k,
        total.v,
        dlog_w.astype(inputs.log_w.dtype),
        total.u.sum(0).astype(inputs.u.dtype),
        None,
    )
    return gradients, total.state


run.defvjp(run_forward, run_backward)


def make_plan(steps: int, chunk: int, dtype: jnp.dtype) -> Plan:
    """Chunk no longer than needed; as many chunks per stored state as divide their number."""
    chunk = min(chunk, 1 << (steps - 1).bit_length())
    chunks = -(-steps // chunk)
    group = max(g for g in range(1, LARGEST_GROUP + 1) if chunks % g == 0)
    return Plan(chunk, group, steps, dtype)


def chunked_wkv(
    r: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_w: jax.Array,
    u: jax.Array,
    state: jax.Array,
    reset: jax.Array | None,
    chunk: int,
    dtype: jnp.dtype,
) -> tuple[jax.Array, jax.Array]:
    """RWKV-5 (log_w [H, N]) or RWKV-6 (log_w [B, T, H, N]); see `wkv6` for the arguments.

    Inputs keep their own dtype; every chunk is cast to `dtype` when it is read. All of them vary
    over the same manual mesh axes.
    """
    steps = r.shape[1]
    plan = make_plan(steps, chunk, dtype)
    state, cut = state.astype(dtype), None
    if reset is not None:
        state = common.over_reset(reset[:, 0], 0, state)
        cut = jnp.pad(reset[:, 1:], ((0, 0), (0, 1)))
    extra = -steps % plan.chunk
    if extra:  # steps with no key and no decay change nothing; a constant decay is masked later
        pad = lambda x: jnp.pad(x, ((0, 0), (0, extra)) + ((0, 0),) * (x.ndim - 2))
        r, k, v = pad(r), pad(k), pad(v)
        log_w = log_w if log_w.ndim == 2 else pad(log_w)
        cut = None if cut is None else pad(cut)
    inputs = Inputs(r, k, v, log_w, u, cut)
    y, state = run(plan, inputs, state)
    return checkpoint_name(y[:, :steps] if extra else y, "wkv_out"), state
