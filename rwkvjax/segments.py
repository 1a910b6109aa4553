# SPDX-License-Identifier: Apache-2.0
"""Training on documents longer than memory: a window is worked through in segments.

The state passes from segment to segment. The loss of a window is the sum of its segments' losses
over the number of predicted tokens of the whole window, so that segments add up to the single pass.
Gradients reach back

  1 segment       truncated: every segment learns from itself, its initial state is a constant;
  n segments      the state is cut before every n-th segment;
  all segments    the gradient of the single pass.

Segments are recomputed in the backward pass, so what is kept for it is the state at the borders of
one group of n segments: memory does not grow with the window (for "all", by one state a segment).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any
Batch = Mapping[str, jax.Array]
# (params, state, one segment) -> (its share of the loss, state after it)
SegmentLoss = Callable[[PyTree, PyTree, Batch], tuple[jax.Array, PyTree]]


def cut(inputs: Batch, length: int, reach: int) -> dict[str, jax.Array]:
    """[B, T, ...] -> [G, n, B, length, ...]: groups of n segments.

    Args:
      inputs: arrays over positions.
      length: positions of a segment.
      reach: segments of a group; 0 for a single group of all.

    Raises:
      ValueError: T is not a whole number of segments, or those not one of groups.
    """
    steps = next(iter(inputs.values())).shape[1]
    if length < 1 or steps % length:
        raise ValueError(
            f"a window of {steps} tokens is not a whole number of segments of {length}"
        )
    count = steps // length
    reach = reach or count
    if reach < 1 or count % reach:
        raise ValueError(f"{count} segments are not a whole number of groups of {reach}")

    def split(x: jax.Array) -> jax.Array:
        x = x.reshape(x.shape[0], count // reach, reach, length, *x.shape[2:])
        return jnp.moveaxis(x, 0, 2)

    return {name: split(x) for name, x in inputs.items()}


def group_loss(
    segment_loss: SegmentLoss, params: PyTree, state: PyTree, group: Batch
) -> tuple[jax.Array, PyTree]:
    """(sum of the losses of n segments, state after them); group arrays are [n, B, length, ...]."""

    @jax.checkpoint
    def one(carry: tuple[jax.Array, PyTree], segment: Batch) -> tuple[Any, None]:
        total, state = carry
        loss, state = segment_loss(params, state, segment)
        return (total + loss, state), None

    zero = jnp.zeros(jax.eval_shape(segment_loss, params, state, _first(group))[0].shape)
    return jax.lax.scan(one, (zero, state), group)[0]


def value_and_grad(
    segment_loss: SegmentLoss, params: PyTree, state: PyTree, groups: Batch
) -> tuple[jax.Array, PyTree, PyTree]:
    """(loss, state after the window, gradients), group by group.

    Args:
      segment_loss: loss of one segment, already divided by the weight of the whole window.
      params: differentiated.
      state: before the window, a constant.
      groups: see `cut`.
    """

    def one(carry: tuple, group: Batch) -> tuple[tuple, None]:
        total, state, grads = carry
        loss = lambda params: group_loss(segment_loss, params, jax.lax.stop_gradient(state), group)
        (value, state), new = jax.value_and_grad(loss, has_aux=True)(params)
        return (total + value, state, jax.tree.map(jnp.add, grads, new)), None

    shape = jax.eval_shape(segment_loss, params, state, _first(_first(groups)))[0]
    start = (jnp.zeros(shape.shape, shape.dtype), state, jax.tree.map(jnp.zeros_like, params))
    (loss, state, grads), _ = jax.lax.scan(one, start, groups)
    return loss, state, grads


def _first(tree: Batch) -> Batch:
    return jax.tree.map(lambda x: x[0], tree)
