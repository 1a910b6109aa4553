# SPDX-License-Identifier: Apache-2.0
"""Tensors that are read only when asked for: what every reader returns and every writer takes.

A file of weights is a dict of `Tensor`: the name, shape and dtype are known from the file's header,
the values come from `read()`. Conversion then needs memory for one tensor at a time, whatever the
size of the file, and a layout change (a transposition, a new name) is one more function around
`read`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
# The dtypes in which weights are published, and the only ones that a file of weights may hold.
DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": BFLOAT16,
    "float64": np.dtype(np.float64),
}


class WeightsError(ValueError):
    """A file of weights cannot be read, or does not describe an RWKV model."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One named array of a file.

    Attributes:
      shape: shape of the array that `read` returns.
      dtype: its dtype, one of `DTYPES`.
      read: reads the values; the array is fresh, C-contiguous and belongs to the caller.
      read_rows: reads [start, stop) of the leading axis alone, where that is possible.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]
    read_rows: Callable[[int, int], np.ndarray] | None = None

    @property
    def nbytes(self) -> int:
        """Size of the values in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


Tensors = dict[str, Tensor]


def dtype_named(name: str) -> np.dtype:
    """The dtype of that name; raises ValueError for anything that weights are not stored in."""
    if name not in DTYPES:
        raise ValueError(f"dtype must be one of {sorted(DTYPES)}, got {name!r}")
    return DTYPES[name]


def dtype_name(dtype: Any) -> str:
    """Name of a dtype as used in configurations, e.g. "bfloat16"."""
    return np.dtype(dtype).name


def in_memory(arrays: Mapping[str, Any]) -> Tensors:
    """Wraps arrays that are already in memory (anything that `numpy.asarray` takes)."""

    def wrap(array: Any) -> Tensor:
        array = np.asarray(array)
        return Tensor(array.shape, array.dtype, lambda: np.array(array, order="C"))

    return {name: wrap(array) for name, array in arrays.items()}


def mapped(
    tensor: Tensor,
    shape: tuple[int, ...],
    function: Callable[[np.ndarray], np.ndarray],
    dtype: np.dtype | None = None,
) -> Tensor:
    """The tensor after `function`, which must yield `shape` (and `dtype`, if that changes)."""

    def read() -> np.ndarray:
        return np.ascontiguousarray(function(tensor.read())).reshape(shape)

    return Tensor(tuple(shape), tensor.dtype if dtype is None else dtype, read)


def reshaped(tensor: Tensor, *shape: int) -> Tensor:
    """The same values in row-major order under another shape."""
    if math.prod(shape) != math.prod(tensor.shape):
        raise WeightsError(f"cannot view a tensor of shape {tensor.shape} as {shape}")
    return mapped(tensor, shape, lambda array: array)


def swapped(tensor: Tensor) -> Tensor:
    """The last two axes exchanged."""
    *lead, rows, columns = tensor.shape
    return mapped(tensor, (*lead, columns, rows), lambda array: np.swapaxes(array, -1, -2))


def row(tensor: Tensor, index: int, shape: tuple[int, ...]) -> Tensor:
    """One element of the leading axis under another shape."""
    return mapped(tensor, shape, lambda array: array[index])


def cast(tensor: Tensor, dtype: np.dtype) -> Tensor:
    """The tensor converted to `dtype` (round to nearest even)."""
    if tensor.dtype == dtype:
        return tensor
    if dtype.itemsize < tensor.dtype.itemsize:
        # Values beyond the range become infinite, which the writers and readers then report.
        def narrow(array: np.ndarray) -> np.ndarray:
            with np.errstate(over="ignore"):
                return array.astype(dtype)

        return mapped(tensor, tensor.shape, narrow, dtype)
    return mapped(tensor, tensor.shape, lambda array: array.astype(dtype), dtype)


_STRIP = 64
# Signed integer of each format's width, and its bit pattern of infinity.
_INFINITY = {
    "float16": (np.int16, 0x7C00),
    "bfloat16": (np.int16, 0x7F80),
    "float32": (np.int32, 0x7F800000),
    "float64": (np.int64, 0x7FF0000000000000),
}


def copy_transposed(target: np.ndarray, source: np.ndarray) -> None:
    """target[...] = source.T for matrices, strip by strip (five times as fast for large ones)."""
    if target.dtype == source.dtype == BFLOAT16:  # NumPy's own types have faster loops
        target, source = target.view(np.uint16), source.view(np.uint16)
    for start in range(0, source.shape[0], _STRIP):
        strip = slice(start, start + _STRIP)
        target[:, strip] = source[strip].T


def all_finite(array: np.ndarray) -> bool:
    """Whether a contiguous array of one of `DTYPES` has neither NaN nor infinity.

    Read as integers, the positive infinity and NaNs are the largest signed values, and the negative
    ones the largest unsigned values: two maxima tell, without a temporary array.
    """
    if not array.size:
        return True
    integer, infinity = _INFINITY[array.dtype.name]
    signed = array.reshape(-1).view(integer)
    unsigned = signed.view(np.dtype(f"u{signed.itemsize}"))
    negative = infinity | 1 << 8 * signed.itemsize - 1
    return int(signed.max()) < infinity and int(unsigned.max()) < negative


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype, alignment: int = 64) -> np.ndarray:
    """Uninitialised array whose memory jax can take over on a CPU without copying it."""
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(nbytes + alignment, np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start : start + nbytes].view(dtype).reshape(shape)


def nest(leaves: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """{("a", "b"): x} -> {"a": {"b": x}}."""
    tree: dict[str, Any] = {}
    for path, value in leaves.items():
        node = tree
        for parent in path[:-1]:
            node = node.setdefault(parent, {})
        node[path[-1]] = value
    return tree
