# SPDX-License-Identifier: Apache-2.0
"""States after token prefixes, least recently used first out, within a byte budget.

The state of a recurrent model has the same size after any number of tokens, so a conversation is
resumed from one entry, whatever its length. An entry also holds the logits after its last token: a
prompt that is cached in full needs no model call before the first token.
"""

from __future__ import annotations

import bisect
import dataclasses
import hashlib
from collections import Counter, OrderedDict
from collections.abc import Hashable
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Entry:
    """State [L, 1, ...] and logits [1, V] after `tokens`."""

    tokens: np.ndarray  # [n] int32
    state: Any
    logits: Any
    nbytes: int


class PrefixCache:
    """Longest cached prefix of a prompt, for each variant of the model apart.

    Not thread-safe: it belongs to the engine.
    """

    def __init__(self, budget_bytes: int):
        """Keeps entries of at most `budget_bytes` together; 0 keeps none."""
        self.budget_bytes = budget_bytes
        self.nbytes = 0
        self._entries: OrderedDict[tuple[Hashable, bytes], Entry] = OrderedDict()
        self._lengths: dict[Hashable, list[int]] = {}  # sorted, of the entries of each variant
        self._counts: Counter[tuple[Hashable, int]] = Counter()

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, variant: Hashable, tokens: np.ndarray) -> Entry | None:
        """The entry with the longest prefix of `tokens` [n] int32, which becomes the newest."""
        found = None
        for length, digest in _digests(tokens, self._lengths.get(variant, [])):
            entry = self._entries.get((variant, digest))
            if entry is not None and np.array_equal(entry.tokens, tokens[:length]):
                found = (variant, digest)
        if found is None:
            return None
        self._entries.move_to_end(found)
        return self._entries[found]

    def add(self, variant: Hashable, tokens: np.ndarray, state: Any, logits: Any, size: int) -> int:
        """Keeps a state of `size` bytes; returns the number of entries that had to go."""
        tokens = np.array(tokens, np.int32)  # a copy: the caller's may be part of something large
        nbytes = size + tokens.nbytes
        if nbytes > self.budget_bytes or not tokens.size:
            return 0
        ((length, digest),) = _digests(tokens, [len(tokens)])
        key = (variant, digest)
        if key in self._entries:
            self._remove(key)
        self._entries[key] = Entry(tokens, state, logits, nbytes)
        self.nbytes += nbytes
        self._counts[variant, length] += 1
        if self._counts[variant, length] == 1:
            bisect.insort(self._lengths.setdefault(variant, []), length)
        gone = 0
        while self.nbytes > self.budget_bytes:
            self._remove(next(iter(self._entries)))
            gone += 1
        return gone

    def _remove(self, key: tuple[Hashable, bytes]) -> None:
        entry = self._entries.pop(key)
        self.nbytes -= entry.nbytes
        variant, length = key[0], len(entry.tokens)
        self._counts[variant, length] -= 1
        if not self._counts[variant, length]:
            del self._counts[variant, length]
            self._lengths[variant].remove(length)
            if not self._lengths[variant]:
                del self._lengths[variant]


def _digests(tokens: np.ndarray, lengths: list[int]) -> list[tuple[int, bytes]]:
    """(length, digest of that many tokens) for the given ascending lengths that fit."""
    tokens = np.ascontiguousarray(tokens, np.int32)
    running, start, found = hashlib.blake2b(digest_size=16), 0, []
    for length in lengths:
        if length > len(tokens):
            break
        running.update(tokens[start:length].tobytes())
        found.append((length, running.digest()))
        start = length
    return found
