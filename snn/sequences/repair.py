# SPDX-License-Identifier: Apache-2.0
"""16-bit audio that once passed through a text-mode copy, put back into step.

Such a copy turns the bytes CR LF into LF. Each lost CR shifts all following samples by one byte,
which turns speech into loud noise up to the next loss. Here the losses are found again: of all ways
to insert CRs before LFs, the one whose samples change least from one to the next.
"""

from __future__ import annotations

import numpy as np

CR, LF = 13, 10
PRICE = 100.0  # bits that an insertion must save; a wrong step costs some 6 bits a sample


def lost_returns(data: bytes, most: int = 8) -> tuple[int, ...]:
    """Positions of the LFs that lost the CR before them.

    Args:
      data: little-endian 16-bit samples, possibly out of step.
      most: largest number of losses looked for.

    Returns:
      Ascending byte positions in `data`; empty if the bytes hold a CR (then no copy removed them).
    """
    if CR in data:
        return ()
    returns = np.flatnonzero(np.frombuffer(data, np.uint8) == LF)
    costs = [_cumulative_cost(data, offset) for offset in (0, 1)]
    # best[j]: least cost with j insertions so far; the parity of j is the byte offset of samples.
    best = np.full(most + 1, np.inf)
    best[0] = 0.0
    paths: list[tuple[int, ...]] = [()] * (most + 1)
    parity, last = np.arange(most + 1) % 2, 0
    step = lambda a, b: np.where(parity, costs[1][b] - costs[1][a], costs[0][b] - costs[0][a])
    for position in returns.tolist():
        best, last = best + step(last, position), position
        for j in range(most, 0, -1):
            if best[j - 1] + PRICE < best[j]:
                best[j], paths[j] = best[j - 1] + PRICE, (*paths[j - 1], position)
    return paths[int((best + step(last, len(data))).argmin())]


def _cumulative_cost(data: bytes, offset: int) -> np.ndarray:
    """[len + 1]: bits of the steps between samples that start before each byte."""
    count = (len(data) - offset) // 2
    x = np.frombuffer(data, "<i2", count, offset).astype(np.float64)
    bits = np.zeros(len(data) + 1)
    bits[offset + 1 : offset + 2 * count : 2] = np.log2(1 + np.abs(np.diff(x, prepend=x[:1])))
    return np.cumsum(bits)


def restore_returns(data: bytes) -> bytes:
    """The samples with lost CRs inserted, an odd last byte dropped; intact data come back as is."""
    whole = bytearray(data)
    for position in reversed(lost_returns(data)):
        whole.insert(position, CR)
    return bytes(whole[: len(whole) // 2 * 2])
