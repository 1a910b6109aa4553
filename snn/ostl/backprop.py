# SPDX-License-Identifier: Apache-2.0
"""Back-propagation through time, whole, with checkpoints, and truncated: the offline peers.

All of them give the exact gradient of the sequence they are shown, except the truncated one.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from snn.cells.base import Cell, PyTree
from snn.ostl.online import Loss


class Offline:
    """A method that needs the whole sequence; its carry is the state of the cell."""

    def init(self, net: Cell, params: PyTree, batch_size: int) -> PyTree:
        """The state before the first step."""
        return net.init_state(batch_size, jnp.result_type(*jax.tree.leaves(params)))

    def grads(
        self, net: Cell, loss: Loss, params: PyTree, carry: PyTree, xs: jax.Array, targets: PyTree
    ) -> tuple[jax.Array, PyTree, PyTree]:
        """(summed loss, state after the sequence, gradients)."""
        total = lambda p: self.total(net, loss, p, carry, xs, targets)
        (value, state), grads = jax.value_and_grad(total, has_aux=True)(params)
        return value, state, grads

    def total(
        self, net: Cell, loss: Loss, params: PyTree, carry: PyTree, xs: jax.Array, targets: PyTree
    ) -> tuple[jax.Array, PyTree]:
        """(summed loss, state): differentiated by reverse mode."""
        raise NotImplementedError


def run(
    net: Cell, loss: Loss, params: PyTree, carry: PyTree, xs: jax.Array, targets: PyTree
) -> tuple[jax.Array, PyTree]:
    """Summed loss and last state of a plain scan."""

    def body(carry: tuple, inputs: tuple) -> tuple[tuple, None]:
        state, value = carry
        x, target = inputs
        state, y = net.step(params, state, x)
        return (state, value + loss(y, target)), None

    zero = jnp.zeros((), jnp.result_type(*jax.tree.leaves(params)))
    (state, value), _ = jax.lax.scan(body, (carry, zero), (xs, targets))
    return value, state


@dataclasses.dataclass(frozen=True)
class Bptt(Offline):
    """Back-propagation through time: exact; memory grows with T."""

    def total(
        self, net: Cell, loss: Loss, params: PyTree, carry: PyTree, xs: jax.Array, targets: PyTree
    ) -> tuple[jax.Array, PyTree]:
        """See `Offline.total`."""
        return run(net, loss, params, carry, xs, targets)


def _segments(xs: PyTree, length: int, steps: int) -> tuple[PyTree, PyTree]:
    """[T, ...] as [T // length, length, ...], and the rest [T % length, ...]."""
    whole = steps // length * length
    head = jax.tree.map(lambda a: a[:whole].reshape(-1, length, *a.shape[1:]), xs)
    return head, jax.tree.map(lambda a: a[whole:], xs)


@dataclasses.dataclass(frozen=True)
class CheckpointedBptt(Offline):
    """BPTT that stores the state every sqrt(T) steps and runs each segment again: exact.

    Attributes:
      segment: steps between stored states; 0 for the square root of T.
    """

    segment: int = 0

    def __post_init__(self) -> None:
        if self.segment < 0:
            raise ValueError(f"segment must not be negative, got {self.segment}")

    def total(
        self, net: Cell, loss: Loss, params: PyTree, carry: PyTree, xs: jax.Array, targets: PyTree
    ) -> tuple[jax.Array, PyTree]:
        """See `Offline.total`."""
        length = self.segment or max(1, math.isqrt(xs.shape[0]))
        part = jax.checkpoint(lambda p, s, x, t: run(net, loss, p, s, x, t))
        return _in_segments(part, length, params, carry, xs, targets)


@dataclasses.dataclass(frozen=True)
class TruncatedBptt(Offline):
    """BPTT in segments of k steps, the state of each a constant for the next: biased.

    Attributes:
      k: steps of a segment.
    """

    k: int

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k must be at least 1, got {self.k}")

    def total(
        self, net: Cell, loss: Loss, params: PyTree, carry: PyTree, xs: jax.Array, targets: PyTree
    ) -> tuple[jax.Array, PyTree]:
        """See `Offline.total`."""
        part = lambda p, s, x, t: run(net, loss, p, jax.lax.stop_gradient(s), x, t)
        return _in_segments(part, self.k, params, carry, xs, targets)


def _in_segments(
    part: Any, length: int, params: PyTree, carry: PyTree, xs: jax.Array, targets: PyTree
) -> tuple[jax.Array, PyTree]:
    """Sums `part` over segments of `length` steps and a shorter last one."""
    steps = xs.shape[0]
    head, rest = _segments((xs, targets), length, steps)

    def body(carry: tuple, segment: tuple) -> tuple[tuple, None]:
        state, value = carry
        more, state = part(params, state, *segment)
        return (state, value + more), None

    zero = jnp.zeros((), jnp.result_type(*jax.tree.leaves(params)))
    state, value = carry, zero
    if steps >= length:
        (state, value), _ = jax.lax.scan(body, (state, value), head)
    if steps % length:
        (state, value), _ = body((state, value), rest)
    return value, state
