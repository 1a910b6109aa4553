# SPDX-License-Identifier: Apache-2.0
"""Time split over devices: what a recurrence inside `shard_map` exchanges with its neighbours.

Device p of P holds the p-th stretch of every sequence. It summarises what its stretch does to any
state, gathers the summaries of all, folds those to its left into its own initial state and then
runs as if it were alone. One exchange per recurrence, of a size that does not depend on T;
reverse-mode derivatives go through it as through any other function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rwkvjax.wkv import common


def from_left(mine: jax.Array, first: jax.Array, axis: str) -> jax.Array:
    """The left neighbour's `mine`; `first` on the first device."""
    size = lax.axis_size(axis)
    moved = lax.ppermute(mine, axis, [(p, p + 1) for p in range(size - 1)])
    return jnp.where(lax.axis_index(axis) == 0, first, moved)


def of_last(tree: Any, axis: str) -> Any:
    """The last device's leaves, on every device."""
    last = lax.axis_index(axis) == lax.axis_size(axis) - 1
    return jax.tree.map(lambda x: lax.psum(jnp.where(last, x, jnp.zeros_like(x)), axis), tree)


def state_before(summary: Any, state: Any, after: Callable[[Any, Any], Any], axis: str) -> Any:
    """The state before this device's stretch.

    Args:
      summary: what this device's stretch does to a state.
      state: the state before the whole sequence, the same on all devices.
      after: (summary, state before) -> state after a stretch.
      axis: mesh axis over which time is split.
    """
    gathered = lax.all_gather(summary, axis)
    index, size = lax.axis_index(axis), lax.axis_size(axis)

    def body(state: Any, xs: tuple) -> tuple[Any, None]:
        position, summary = xs
        moved = after(summary, state)
        return jax.tree.map(
            lambda new, old: jnp.where(position < index, new, old), moved, state
        ), None

    state = common.match_varying(state, like=(gathered, index))
    return lax.scan(body, state, (jnp.arange(size), gathered))[0]
