# SPDX-License-Identifier: Apache-2.0
"""What every recurrence of this package shares: argument checks, dtypes, time-axis helpers."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

IMPLEMENTATIONS = ("auto", "scan", "chunked", "pallas")

# TF32 and bfloat16 products are the default on some accelerators; a recurrent state needs the
# full float32 product. On a CPU this changes nothing.
PRECISION = lax.Precision.HIGHEST


def accumulation_dtype(*arrays: jax.Array) -> jnp.dtype:
    """float64 if any of `arrays` is float64, float32 otherwise.

    Raises:
      TypeError: an array is not of a floating dtype.
    """
    for array in arrays:
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"expected floating-point arrays, got dtype {array.dtype}")
    return jnp.result_type(jnp.float32, *(array.dtype for array in arrays))


def check_choice(impl: str, chunk: int | None) -> None:
    """Raises ValueError unless `impl` is known and `chunk` is None or a power of two >= 2."""
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"expected impl to be one of {IMPLEMENTATIONS}, got {impl=}")
    if chunk is not None and (chunk < 2 or chunk & (chunk - 1)):
        raise ValueError(f"expected chunk to be a power of two >= 2, got {chunk=}")


def check_no_kernel(impl: str) -> None:
    """Raises ValueError for "pallas"."""
    if impl == "pallas":
        raise ValueError("Pallas kernels exist for versions 5 and 6 only")


def check_shape(name: str, array: jax.Array, expected: Sequence[int]) -> None:
    """Raises ValueError naming the argument unless `array.shape` equals `expected`."""
    if array.shape != tuple(expected):
        raise ValueError(f"expected {name} of shape {tuple(expected)}, got {array.shape}")


def check_sequence(name: str, array: jax.Array, rank: int) -> None:
    """Raises ValueError unless `array` has `rank` axes, the second (time) at least 1 long."""
    if array.ndim != rank:
        raise ValueError(f"expected {name} with {rank} axes, got shape {array.shape}")
    if rank > 1 and array.shape[1] < 1:
        raise ValueError(f"expected {name} with at least one time step, got shape {array.shape}")


def check_reset(reset: jax.Array | None, shape: tuple[int, ...]) -> jax.Array | None:
    """`reset` as an array; TypeError unless boolean, ValueError unless of `shape`."""
    if reset is None:
        return None
    reset = jnp.asarray(reset)
    if reset.dtype != jnp.bool_:
        raise TypeError(f"expected reset to be boolean, got dtype {reset.dtype}")
    check_shape("reset", reset, shape)
    return reset


def varying_axes(array: jax.Array) -> frozenset[str]:
    """Manual mesh axes over which `array` differs between devices; empty outside shard_map."""
    kind = getattr(jax.typeof(array), "manual_axis_type", None)
    return frozenset() if kind is None else frozenset(kind.varying)


def match_varying(arrays: Any, like: Any = None) -> Any:
    """Gives every leaf of `arrays` the union of the varying manual axes of `arrays` and `like`.

    Inside `shard_map` a replicated leaf (a zero state, say) cannot start a loop whose carry
    becomes device-varying; outside of it this is the identity.
    """
    union: frozenset[str] = frozenset()
    for leaf in jax.tree.leaves((arrays, like)):
        union = union | varying_axes(leaf)

    def cast(leaf: jax.Array) -> jax.Array:
        missing = tuple(sorted(union - varying_axes(leaf)))
        return lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(cast, arrays)


def over_reset(reset: jax.Array | None, fresh: jax.Array | float, state: jax.Array) -> jax.Array:
    """`state` with the rows whose `reset` [B] is True replaced by `fresh`; exact in gradients."""
    if reset is None:
        return state
    return jnp.where(reset.reshape(reset.shape + (1,) * (state.ndim - 1)), fresh, state)


def last_steps(reset: jax.Array) -> jax.Array:
    """reset [B, T] -> [B, T], True on the last step before the start of another document."""
    return jnp.pad(reset[:, 1:], ((0, 0), (0, 1)))


def scan_time(
    advance: Callable, state: Any, inputs: Any, segment: int | None = None
) -> tuple[jax.Array, Any]:
    """Runs `advance(state, inputs_t) -> (state, y_t)` over axis 1 of the leaves of `inputs`.

    With `segment`, only the state before every `segment` steps is kept for the backward pass and
    the steps between are run again: the same numbers with less memory traffic.

    Returns:
      (y, state) with time again on axis 1 of y.
    """
    state = match_varying(state, like=inputs)
    inputs = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), inputs)
    if segment is None:
        state, y = lax.scan(advance, state, inputs)
        return jnp.moveaxis(y, 0, 1), state
    steps = jax.tree.leaves(inputs)[0].shape[0]
    whole = steps - steps % segment
    parts = []
    if whole:
        grouped = jax.tree.map(lambda x: x[:whole].reshape(-1, segment, *x.shape[1:]), inputs)
        run = jax.checkpoint(lambda state, xs: lax.scan(advance, state, xs))
        state, y = lax.scan(run, state, grouped)
        parts.append(y.reshape(whole, *y.shape[2:]))
    if whole < steps:
        state, y = lax.scan(advance, state, jax.tree.map(lambda x: x[whole:], inputs))
        parts.append(y)
    return jnp.moveaxis(jnp.concatenate(parts), 0, 1), state
