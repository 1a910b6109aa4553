# SPDX-License-Identifier: Apache-2.0
"""Longest-match encoding without compiled code: the definition, a loop, and a vectorised form.

Encoding emits, again and again, the longest token that is a prefix of the remaining bytes.
"""

import numpy as np

from rwkvjax.tokenizers.double_array import END, DoubleArray

_BLOCK = 1 << 16  # positions at once: few calls, and the temporaries fit into the cache
_SHORT = 4000  # bytes up to which a plain loop is faster


def encode_reference(tokens: dict[bytes, int], data: bytes) -> np.ndarray:
    """The definition, slow: tries all lengths from the longest down. Oracle for the fast paths.

    Args:
        tokens: {bytes: id} with all 256 single bytes.
        data: bytes to encode.

    Returns:
        [N] uint16 ids.
    """
    longest = max(map(len, tokens))
    ids: list[int] = []
    position = 0
    while position < len(data):
        length = min(longest, len(data) - position)
        while data[position : position + length] not in tokens:
            length -= 1
        ids.append(tokens[data[position : position + length]])
        position += length
    return np.array(ids, np.uint16)


def encode_numpy(table: DoubleArray, data: np.ndarray) -> np.ndarray:
    """Longest match without compiled code, by whichever way is faster for this length.

    Args:
        table: the trie.
        data: [n] uint8.

    Returns:
        [N] uint16 ids.
    """
    if data.size <= _SHORT:
        return encode_loop(table, data.tobytes())
    return encode_vectorized(table, data)


def encode_vectorized(table: DoubleArray, data: np.ndarray) -> np.ndarray:
    """Steps all positions of a block through the trie at once, then picks the chain of tokens."""
    parts = []
    position = 0
    while position < data.size:
        stop = min(position + _BLOCK, data.size)
        token, length = _longest_matches(table, data, position, stop)
        chain = _chain(length)
        parts.append(token[chain])
        position += int(chain[-1]) + int(length[chain[-1]])
    return np.concatenate(parts) if parts else np.empty(0, np.uint16)


def encode_loop(table: DoubleArray, data: bytes) -> np.ndarray:
    """Follows the trie byte by byte; a short text costs less than the calls of the other way."""
    roots, tokens, lengths, bases, ends, labels = (column.data for column in table.columns)
    ids: list[int] = []
    position, last = 0, len(data) - 1
    while position < last:
        pair = data[position] << 8 | data[position + 1]
        token, base = tokens[pair], roots[pair]
        reached = position + 2
        position += lengths[pair]
        while base and reached <= last:
            code = data[reached]
            slot = base + code
            if labels[slot] != code:
                break
            reached += 1
            base = bases[slot]
            if ends[slot]:
                token, position = ends[slot], reached
        ids.append(token)
    if position == last:
        ids.append(table.single[data[last]])
    return np.array(ids, np.uint16)


def _longest_matches(
    table: DoubleArray, data: np.ndarray, start: int, stop: int
) -> tuple[np.ndarray, np.ndarray]:
    """Longest token (id [stop - start] uint16, length in bytes) at each position of a block."""
    root_base, root_token, root_length, slot_base, slot_token, slot_label = table.columns
    ahead = data[start : stop + table.max_length]
    codes = np.full(stop - start + table.max_length + 1, END, np.intp)
    codes[: ahead.size] = ahead
    size = stop - start
    pair = (codes[:size] << 8) | (codes[1 : size + 1] & 255)
    token, length = root_token.take(pair), root_length.take(pair)
    base = root_base.take(pair)
    if stop == data.size:  # no pair starts at the last byte
        token[-1], length[-1], base[-1] = table.single[data[-1]], 1, 0
    where = np.flatnonzero(base)  # positions where a longer token is possible
    base = base.take(where)
    for depth in range(2, table.max_length):
        if not where.size:
            break
        code = codes.take(where + depth)
        slot = base + code
        found = np.flatnonzero(slot_label.take(slot) == code)
        where, slot = where.take(found), slot.take(found)
        ids = slot_token.take(slot)
        ends = np.flatnonzero(ids)
        matched = where.take(ends)
        token[matched] = ids.take(ends)
        length[matched] = depth + 1
        base = slot_base.take(slot)
        further = np.flatnonzero(base)
        where, base = where.take(further), base.take(further)
    return token, length


def _chain(length: np.ndarray) -> np.ndarray:
    """Positions reached from 0 by stepping over length [n] bytes each time, as long as < n."""
    # Indexing bytes gives small integers that exist already; lists would have to be made first.
    steps = length.tobytes() if length.itemsize == 1 else length.tolist()
    chain: list[int] = []
    add = chain.append
    position, size = 0, len(steps)
    while position < size:
        add(position)
        position += steps[position]
    return np.array(chain, np.intp)
