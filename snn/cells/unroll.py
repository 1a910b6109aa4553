# SPDX-License-Identifier: Apache-2.0
"""Running a cell over time, and the checks at that boundary."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core import params as params_lib
from snn.cells.base import Cell, PyTree


def unroll(cell: Cell, params: PyTree, state: PyTree, xs: jax.Array) -> tuple[PyTree, jax.Array]:
    """Runs `cell` over a sequence by `lax.scan`.

    Args:
      cell: a cell or a stack.
      params: its parameters.
      state: the state before the first step; see `cell.init_state`.
      xs: inputs [T, B, n], or integers [T, B] for a stack that starts with an embedding.

    Returns:
      (state after the last step, outputs [T, B, m]).

    Raises:
      ValueError: no time step, shapes that do not fit, or NaN among the inputs (outside of jit).
      TypeError: inputs of a wrong kind.
    """
    check_sequence(cell, xs)
    params_lib.check(params, cell.param_specs())
    check_state(cell, state, xs.shape[1])
    return jax.lax.scan(lambda carry, x: cell.step(params, carry, x), state, xs)


def check_sequence(cell: Cell, xs: Any) -> None:
    """Raises ValueError or TypeError unless xs fits the cell; see `unroll`."""
    shape, dtype = jnp.shape(xs), jnp.result_type(xs)
    if jnp.issubdtype(dtype, jnp.integer):
        if len(shape) != 2:
            raise TypeError(
                f"inputs must be floating-point [T, B, {cell.input_size}] or integer tokens"
                f" [T, B], got {dtype} {shape}"
            )
    elif len(shape) != 3 or shape[2] != cell.input_size:
        raise ValueError(f"inputs must be [T, B, {cell.input_size}], got {shape}")
    if shape[0] < 1 or shape[1] < 1:
        raise ValueError(f"inputs need at least one time step and one row, got {shape}")
    if not isinstance(xs, jax.core.Tracer) and jnp.issubdtype(dtype, jnp.floating):
        # In NumPy: inside a traced function even the sum of a constant would be traced.
        bad = int((~np.isfinite(np.asarray(xs, np.float64))).sum())
        if bad:
            raise ValueError(f"inputs must be finite, got {bad} NaN or infinite values in {shape}")


def check_state(cell: Cell, state: PyTree, batch_size: int) -> None:
    """Raises ValueError unless `state` has the structure and shapes of `cell.init_state`."""
    expected = jax.eval_shape(lambda: cell.init_state(batch_size))
    describe = lambda tree: jax.tree.map(lambda leaf: tuple(jnp.shape(leaf)), tree)
    if describe(state) != describe(expected):
        raise ValueError(
            f"state does not fit the cell and a batch of {batch_size}: expected"
            f" {describe(expected)}, got {describe(state)}"
        )
