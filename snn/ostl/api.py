# SPDX-License-Identifier: Apache-2.0
"""The interface of all methods: start, gradients of a stretch of time, learning within it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from core import params as params_lib
from snn.cells.base import Cell, PyTree
from snn.cells.unroll import check_sequence
from snn.ostl.backprop import Offline
from snn.ostl.online import Loss

Method = Any  # Ostl, Eprop, Rflo, Ottt, Snap1, Uoro, Bptt, CheckpointedBptt, TruncatedBptt


def init(method: Method, net: Cell, params: PyTree, batch_size: int) -> PyTree:
    """The carry before the first step: zero state, zero traces, in the dtype of `params`.

    Args:
      method: see `snn.ostl`.
      net: a cell or a stack.
      params: its parameters.
      batch_size: number of samples that run side by side; traces are kept for each of them.

    Raises:
      ValueError, NotImplementedError: the method does not apply to a cell of the stack.
    """
    params_lib.check(params, net.param_specs())
    return method.init(net, params, batch_size)


def value_and_grad(method: Method, net: Cell, loss: Loss) -> Callable[..., Any]:
    """A function that gives loss and gradients of a stretch of time (jit it as a whole).

    Args:
      method: see `snn.ostl`.
      net: a cell or a stack.
      loss: loss(y [B, m], target of this step) -> number, the loss of one time step summed (or
        averaged) over the batch as you wish.

    Returns:
      f(params, carry, xs, targets, grads=None) -> ((value, carry), grads), with xs [T, B, n] and
      targets a pytree of [T, ...]. `value` is the sum over the steps; `grads` starts from the
      given one, so that chunks accumulate exactly as one long run does. The carry goes into the
      next call; start a new sequence from `init`.

    Raises (from the returned function):
      ValueError: no time step, NaN inputs (outside of jit), shapes or a carry that do not fit.
    """

    def f(
        params: PyTree, carry: PyTree, xs: jax.Array, targets: PyTree, grads: PyTree = None
    ) -> tuple[tuple[jax.Array, PyTree], PyTree]:
        _check(method, net, params, carry, xs, targets)
        if grads is None:
            grads = jax.tree.map(jnp.zeros_like, params)
        value, carry, grads = _stretch(method, net, loss, params, carry, xs, targets, grads)
        return (value, carry), grads

    return f


def update(
    method: Method,
    net: Cell,
    loss: Loss,
    tx: optax.GradientTransformation,
    every: int | None = None,
) -> Callable[..., Any]:
    """A function that learns while the sequence runs (jit it as a whole).

    Args:
      method, net, loss: see `value_and_grad`.
      tx: what turns gradients into updates.
      every: None applies the gradients once, after the stretch (deferred); k applies them after
        every k steps and after the last one. Traces are not reset by an update. With an offline
        method this is truncated BPTT with an update after each segment.

    Returns:
      f(params, opt_state, carry, xs, targets) -> (params, opt_state, carry, value).

    Raises:
      ValueError: every < 1; see also `value_and_grad`.
    """
    if every is not None and every < 1:
        raise ValueError(f"every must be at least 1, or None for the deferred mode, got {every}")

    def learn(held: tuple, chunk: Any) -> tuple[tuple, jax.Array]:
        params, opt_state, carry = held
        grads = jax.tree.map(jnp.zeros_like, params)
        value, carry, grads = _stretch(method, net, loss, params, carry, chunk[0], chunk[1], grads)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state, carry), value

    def f(
        params: PyTree, opt_state: PyTree, carry: PyTree, xs: jax.Array, targets: PyTree
    ) -> tuple[PyTree, PyTree, PyTree, jax.Array]:
        _check(method, net, params, carry, xs, targets)
        steps = xs.shape[0]
        k = min(every or steps, steps)
        whole = steps // k * k
        head = jax.tree.map(lambda a: a[:whole].reshape(-1, k, *a.shape[1:]), (xs, targets))
        held, values = jax.lax.scan(learn, (params, opt_state, carry), head)
        value = values.sum()
        if steps > whole:
            rest = jax.tree.map(lambda a: a[whole:], (xs, targets))
            held, last = learn(held, rest)
            value = value + last
        return (*held, value)

    return f


def _stretch(
    method: Method,
    net: Cell,
    loss: Loss,
    params: PyTree,
    carry: PyTree,
    xs: jax.Array,
    targets: PyTree,
    grads: PyTree,
) -> tuple[jax.Array, PyTree, PyTree]:
    """(summed loss, carry, grads + gradients of this stretch)."""
    if isinstance(method, Offline):
        value, carry, more = method.grads(net, loss, params, carry, xs, targets)
        return value, carry, jax.tree.map(jnp.add, grads, more)

    def body(held: tuple, inputs: tuple) -> tuple[tuple, None]:
        carry, grads, value = held
        more, carry, contribution = method.step(net, loss, params, carry, *inputs)
        return (carry, jax.tree.map(jnp.add, grads, contribution), value + more), None

    zero = jnp.zeros((), jnp.result_type(*jax.tree.leaves(params)))
    (carry, grads, value), _ = jax.lax.scan(body, (carry, grads, zero), (xs, targets))
    return value, carry, grads


def _check(
    method: Method, net: Cell, params: PyTree, carry: PyTree, xs: jax.Array, targets: PyTree
) -> None:
    """Raises for what does not fit; see `value_and_grad`."""
    check_sequence(net, xs)
    params_lib.check(params, net.param_specs())
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(targets)}
    if lengths - {xs.shape[:1]}:
        raise ValueError(
            f"targets need the time axis of the inputs, {xs.shape[0]} steps, got {lengths}"
        )
    expected = jax.eval_shape(lambda: method.init(net, params, xs.shape[1]))
    shapes = lambda tree: jax.tree.map(jnp.shape, tree)
    if shapes(carry) != shapes(expected):
        raise ValueError(
            f"carry does not fit the method, the net and a batch of {xs.shape[1]}: expected"
            f" {shapes(expected)}, got {shapes(carry)}"
        )
