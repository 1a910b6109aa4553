# SPDX-License-Identifier: Apache-2.0
"""Matrices of a parameter tree that are more than one array: quantised ones and low-rank sums.

A matrix of the model is normally an array [in, out]. Any of them may be replaced by one of the
classes here, which are pytree nodes: `rwkvjax.apply` and `step` then multiply by what they stand
for, in every version, and stacks of them are scanned over layers like stacks of arrays.

    y = matmul(x, weight)    # weight: array, QuantizedMatrix, BFloat16Matrix or LowRankMatrix

Dimensions: I rows (inputs), O columns (outputs), G groups of rows, R rank, V vocabulary, D width;
a stack of layers has one more axis in front.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from rwkvjax import narrow

BITS = (4, 8)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class QuantizedMatrix:
    """W[i, o] = scale[g(i), o] values[i, o], with signed integers of 8 or 4 bits.

    Attributes:
      values: 8 bits: int8 [..., I, O]. 4 bits: uint8 [..., I/2, O]; the low halves of the bytes are
        the first I/2 rows, the high halves the others, so that unpacking moves no rows.
      scale: [..., G, O]; group g covers the rows g I/G ... (g+1) I/G - 1. G = 1 is one scale for
        each output channel.
      bits: 8 or 4.
    """

    values: jax.Array
    scale: jax.Array
    bits: int = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the matrix that this stands for."""
        *lead, rows, columns = self.values.shape
        return (*lead, rows * 8 // self.bits, columns)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def dtype(self) -> Any:
        """Dtype of the dequantised values."""
        return jnp.dtype(jnp.float32)

    @property
    def nbytes(self) -> int:
        """Bytes of storage."""
        return self.values.nbytes + self.scale.nbytes

    def _parts(self) -> list[jax.Array]:
        """The signed integers, int8: all rows, or the two halves of 4-bit values."""
        if self.bits == 8:
            return [self.values]
        # Shifting a signed byte to the right extends its sign.
        low = jnp.left_shift(self.values, 4).astype(jnp.int8)
        return [jnp.right_shift(low, 4), jnp.right_shift(self.values.astype(jnp.int8), 4)]

    def dense(self, dtype: Any = jnp.float32) -> jax.Array:
        """The matrix as an array [..., I, O], rounded to `dtype` at the end."""
        *lead, rows, columns = self.shape
        groups = self.scale.shape[-2]
        split = jnp.concatenate(self._parts(), axis=-2).astype(jnp.float32)
        split = split.reshape(*lead, groups, rows // groups, columns)
        return (split * self.scale[..., None, :]).reshape(self.shape).astype(dtype)

    def multiply(self, x: jax.Array) -> jax.Array:
        """x [..., I] @ W [I, O] -> [..., O], in the dtype of x."""
        if narrow.applies(x, self.values):
            widen = narrow.eight_bits if self.bits == 8 else narrow.four_bits
            return narrow.multiply(x, self.values, self.scale, widen)
        # The halves of 4-bit values are multiplied apart: joining them first would write the
        # whole unpacked matrix to memory, which costs several times the product (on a CPU).
        parts, scale = self._parts(), self.scale.astype(x.dtype)
        pieces = jnp.split(x, len(parts), axis=-1)
        groups, columns = scale.shape
        if groups == 1:
            products = [narrow.many_rows(a, w) for a, w in zip(pieces, parts, strict=True)]
            return functools.reduce(jnp.add, products) * scale[0]
        total: Any = 0
        scales = jnp.split(scale, len(parts))
        for a, w, s in zip(pieces, parts, scales, strict=True):
            split = w.astype(x.dtype).reshape(len(s), -1, columns)
            total += a @ (split * s[:, None]).reshape(w.shape)
        return total


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BFloat16Matrix:
    """A matrix of bfloat16 numbers, held as their bits.

    The same numbers as a bfloat16 array. On a CPU, XLA multiplies by such an array many times
    slower than by a float32 one; from the bits they can be widened at full speed (see `narrow`).

    Attributes:
      bits: uint16 [..., I, O].
    """

    bits: jax.Array

    @classmethod
    def of(cls, array: jax.Array) -> BFloat16Matrix:
        """Of a bfloat16 array [..., I, O]."""
        return cls(jax.lax.bitcast_convert_type(array, jnp.uint16))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the matrix."""
        return self.bits.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.bits.ndim

    @property
    def dtype(self) -> Any:
        """Dtype of the numbers."""
        return jnp.dtype(jnp.bfloat16)

    @property
    def nbytes(self) -> int:
        """Bytes of storage."""
        return self.bits.nbytes

    def dense(self, dtype: Any = jnp.float32) -> jax.Array:
        """The matrix as an array [..., I, O]."""
        return narrow.bfloat16_bits(self.bits)[0].astype(dtype)

    def multiply(self, x: jax.Array) -> jax.Array:
        """x [..., I] @ W [I, O] -> [..., O], in the dtype of x."""
        if narrow.applies(x, self.bits):
            return narrow.multiply(x, self.bits, None, narrow.bfloat16_bits)
        return narrow.many_rows(x, jax.lax.bitcast_convert_type(self.bits, jnp.bfloat16))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class QuantizedTable:
    """An embedding whose rows have one scale each: row t is scale[t] values[t].

    Attributes:
      values: int8 [V, D]. scale: [V, 1].
    """

    values: jax.Array
    scale: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the table that this stands for."""
        return self.values.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.values.ndim

    @property
    def dtype(self) -> Any:
        """Dtype of the dequantised values."""
        return jnp.dtype(jnp.float32)

    @property
    def nbytes(self) -> int:
        """Bytes of storage."""
        return self.values.nbytes + self.scale.nbytes

    def dense(self, dtype: Any = jnp.float32) -> jax.Array:
        """The table as an array [V, D], rounded to `dtype` at the end."""
        return (self.values.astype(jnp.float32) * self.scale).astype(dtype)

    def rows(self, index: jax.Array) -> jax.Array:
        """Rows [..., D] float32 of an array of indices [...]."""
        return self.values[index].astype(jnp.float32) * self.scale[index]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LowRankMatrix:
    """W + scale A B: a matrix with a low-rank change that is not merged into it.

    Attributes:
      base: array or QuantizedMatrix [..., I, O].
      down: A [..., I, R].
      up: B [..., R, O].
      scale: [...] factor of the product, one for each stacked layer.
    """

    base: Any
    down: jax.Array
    up: jax.Array
    scale: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the matrix that this stands for."""
        return self.base.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.base.shape)

    @property
    def dtype(self) -> Any:
        """Dtype of the base."""
        return self.base.dtype

    def multiply(self, x: jax.Array) -> jax.Array:
        """x [..., I] @ W -> [..., O], in the dtype of x."""
        change = (x @ self.down.astype(x.dtype)) @ self.up.astype(x.dtype)
        return matmul(x, self.base) + self.scale.astype(x.dtype) * change


Structured = (QuantizedMatrix, BFloat16Matrix, QuantizedTable, LowRankMatrix)


def is_structured(leaf: Any) -> bool:
    """True for the classes of this module (to stop `jax.tree.map` above their arrays)."""
    return isinstance(leaf, Structured)


def matmul(x: jax.Array, weight: Any, accumulate: Any = None) -> jax.Array:
    """x [..., I] @ weight [I, O] -> [..., O].

    Args:
      x: activations; the product is computed in their dtype.
      weight: array, QuantizedMatrix, BFloat16Matrix or LowRankMatrix.
      accumulate: dtype of the result; that of x by default.
    """
    if isinstance(weight, QuantizedMatrix | BFloat16Matrix | LowRankMatrix):
        product = weight.multiply(x)
        return product if accumulate is None else product.astype(accumulate)
    if accumulate in (None, jnp.float32) and narrow.beats_dot(x, weight):
        return narrow.multiply(x, weight, None, narrow.as_stored)
    return jnp.matmul(x, weight.astype(x.dtype), preferred_element_type=accumulate)


def take_rows(table: Any, index: jax.Array) -> jax.Array:
    """Rows of an embedding, an array or a QuantizedTable [V, D]: index [...] -> [..., D]."""
    return table.rows(index) if isinstance(table, QuantizedTable) else table[index]
