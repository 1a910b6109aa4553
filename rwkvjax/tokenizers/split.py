# SPDX-License-Identifier: Apache-2.0
"""Cuts between bytes that never change the tokens of a long text.

If no token contains byte a followed by byte b, every encoding of a text has a token boundary
between an a and the b after it. Longest match looks at nothing before the current position, and no
match from the left can reach over the boundary, so both sides can be encoded on their own.
Which pairs these are is read off the vocabulary; with none left, nothing is ever cut. (In the
World vocabulary 87 % of all pairs qualify, among them a newline before any printable ASCII
character but a space.)
"""

import numpy as np

from rwkvjax.tokenizers.vocab import Vocabulary

_WINDOW = 4096


def cut_pairs(vocabulary: Vocabulary) -> np.ndarray:
    """[65536] bool by (first byte << 8 | second byte): occurs inside no token."""
    data = vocabulary.data.astype(np.int64)
    inside = np.ones(data.size - 1, bool)
    ends = vocabulary.offsets[1:].astype(np.int64)
    ends = ends[(ends > 0) & (ends < data.size)]
    inside[ends - 1] = False  # last byte of a token and first byte of the next
    free = np.ones(65536, bool)
    free[((data[:-1] << 8) | data[1:])[inside]] = False
    return free


def find_cuts(pairs: np.ndarray, data: np.ndarray, pieces: int) -> list[int]:
    """Positions that split data [n] uint8 into at most `pieces` about equal parts.

    Args:
        pairs: from `cut_pairs`.
        data: the text.
        pieces: wanted number of parts.

    Returns:
        Rising positions, 0 first and n last. Where no cut is allowed, parts are longer.
    """
    cuts = [0]
    for piece in range(1, pieces):
        start = max(data.size * piece // pieces, 1)  # after the previous cut
        stop = data.size * (piece + 1) // pieces
        while start < stop:
            window = data[start - 1 : min(start + _WINDOW, stop)].astype(np.int64)
            allowed = np.flatnonzero(pairs[(window[:-1] << 8) | window[1:]])
            if allowed.size:
                cuts.append(start + int(allowed[0]))
                break
            start += _WINDOW
    return [*cuts, data.size]
