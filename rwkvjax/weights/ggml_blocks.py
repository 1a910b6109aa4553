# SPDX-License-Identifier: Apache-2.0
"""Decoding of the block-quantised types of ggml to float32.

Every type stores runs of 32 values. With q the small integers, d and m float16:

  Q4_0  d, 16 bytes                 x = (q - 8) d       low nibbles: values 0-15, high: 16-31
  Q4_1  d, m, 16 bytes              x = q d + m
  Q5_0  d, 4 bytes, 16 bytes        x = (q - 16) d      fifth bit of value i is bit i of the 4 bytes
  Q5_1  d, m, 4 bytes, 16 bytes     x = q d + m
  Q8_0  d, 32 signed bytes          x = q d

(the layout since the ggml of May 2023, which rwkv.cpp calls file version 101).
"""

from __future__ import annotations

import dataclasses

import numpy as np

BLOCK = 32


@dataclasses.dataclass(frozen=True)
class BlockType:
    """Layout of a quantised type."""

    name: str
    bits: int
    has_minimum: bool

    @property
    def nbytes(self) -> int:
        """Bytes of one block of 32 values."""
        return 2 + 2 * self.has_minimum + {4: 16, 5: 20, 8: 32}[self.bits]


BLOCK_TYPES = {
    2: BlockType("Q4_0", 4, False),
    3: BlockType("Q4_1", 4, True),
    7: BlockType("Q5_0", 5, False),
    8: BlockType("Q5_1", 5, True),
    9: BlockType("Q8_0", 8, False),
}


def decode(kind: BlockType, data: np.ndarray) -> np.ndarray:
    """Values of whole blocks: uint8 [blocks, kind.nbytes] -> float32 [blocks, 32]."""
    if data.ndim != 2 or data.shape[1] != kind.nbytes or data.dtype != np.uint8:
        raise ValueError(f"expected uint8 [blocks, {kind.nbytes}], got {data.dtype} {data.shape}")
    scale = _half(data[:, 0:2])
    rest = data[:, 2:]
    minimum = None
    if kind.has_minimum:
        minimum, rest = _half(rest[:, 0:2]), rest[:, 2:]
    if kind.bits == 8:
        return rest.view(np.int8).astype(np.float32) * scale
    fifth = None
    if kind.bits == 5:
        fifth, rest = np.unpackbits(rest[:, :4], axis=1, bitorder="little"), rest[:, 4:]
    quants = np.concatenate([rest & 15, rest >> 4], axis=1)
    if fifth is not None:
        quants |= fifth << 4
    values = quants.astype(np.float32)
    if minimum is not None:
        return values * scale + minimum
    return (values - float(1 << (kind.bits - 1))) * scale


def _half(pair: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pair).view("<f2").astype(np.float32)
